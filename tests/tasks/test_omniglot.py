"""Omniglot: every layout it comes in, its pictures, its splits, and what is said of damaged files."""

import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from fastmaml.tasks import QUARTER_TURNS, DatasetError, Episodes, load_omniglot, omniglot_files
from tests.tasks.hostile import png_header

NAMES = (
    "images_background/Greek/character01",
    "images_background/Greek/character02",
    "images_background/Latin/character01",
    "images_evaluation/Runes/character01",
)
DRAWING = "images_background/Latin/character01/0002_07.png"


def test_zip_files_and_extracted_folders_hold_the_same(small_omniglot, zipped_omniglot, tmp_path):
    zipped = load_omniglot(zipped_omniglot)
    shutil.unpack_archive(zipped_omniglot / "omniglot" / "images_background.zip", tmp_path / "plain")
    shutil.unpack_archive(zipped_omniglot / "omniglot" / "images_evaluation.zip", tmp_path / "plain")
    extracted = load_omniglot(tmp_path / "plain")
    assert zipped.names == extracted.names == NAMES
    assert zipped.images.shape == (4, 20, 28, 28)
    assert zipped.images.dtype == torch.uint8
    assert torch.equal(zipped.images, extracted.images)


@pytest.mark.parametrize("place", ["omniglot", "omniglot-py", "."])
def test_the_data_folder_may_hold_it_at_several_places(small_omniglot, tmp_path, place):
    target = tmp_path / "elsewhere" / place
    shutil.copytree(small_omniglot / "omniglot", target, dirs_exist_ok=True)
    assert load_omniglot(tmp_path / "elsewhere").root.samefile(target)


def test_a_zip_file_and_a_folder_can_be_mixed(zipped_omniglot):
    root = zipped_omniglot / "omniglot"
    shutil.unpack_archive(root / "images_background.zip", root)
    (root / "images_background.zip").unlink()
    assert load_omniglot(zipped_omniglot).names == NAMES


def test_the_environment_names_the_folder(small_omniglot, monkeypatch):
    monkeypatch.setenv("FASTMAML_DATA", str(small_omniglot))
    assert load_omniglot().names == NAMES


def test_drawings_are_scaled_by_lanczos_and_ink_is_255(small_omniglot, png):
    root = small_omniglot / "omniglot"
    (root / DRAWING).write_bytes(png(np.zeros((105, 105), bool)))
    (root / DRAWING.replace("_07", "_08")).write_bytes(png(np.ones((105, 105), bool)))
    images = load_omniglot(small_omniglot).images[NAMES.index(DRAWING.rpartition("/")[0])]
    assert (images[6] == 255).all()
    assert (images[7] == 0).all()
    grey = Image.open(root / DRAWING.replace("_07", "_01")).convert("L").resize((28, 28), Image.Resampling.LANCZOS)
    assert np.array_equal(images[0].numpy(), 255 - np.asarray(grey))
    assert len(images[0].unique()) > 2  # shades, so not nearest neighbour


def test_hidden_and_foreign_files_are_passed_over(small_omniglot):
    folder = (small_omniglot / "omniglot" / DRAWING).parent
    (folder / "._0002_07.png").write_bytes(b"")
    (folder / "Thumbs.db").write_bytes(b"")
    (folder.parent / ".DS_Store").write_bytes(b"")
    assert load_omniglot(small_omniglot).names == NAMES


@pytest.mark.parametrize("kept", [1.0, 0.5])
def test_a_second_load_takes_the_cache_unless_it_is_damaged(small_omniglot, tmp_path, monkeypatch, kept):
    first = load_omniglot(small_omniglot)
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    read = []
    original = omniglot_files.Part.images
    monkeypatch.setattr(omniglot_files.Part, "images", lambda part: read.append(part.path) or original(part))
    second = load_omniglot(small_omniglot)
    assert torch.equal(first.images, second.images)
    assert first.names == second.names
    assert len(read) == (0 if kept == 1 else 2)
    load_omniglot(small_omniglot)
    assert len(read) == (0 if kept == 1 else 2)


@pytest.mark.parametrize("data", ["small_omniglot", "zipped_omniglot"])
def test_a_changed_drawing_is_read_anew(request, data, png):
    folder = request.getfixturevalue(data)
    root = folder / "omniglot"
    before = load_omniglot(folder)
    if data == "zipped_omniglot":
        shutil.unpack_archive(root / "images_background.zip", root)
        (root / "images_background.zip").unlink()
    (root / DRAWING).write_bytes(png(np.zeros((105, 105), bool)))
    if data == "zipped_omniglot":
        shutil.make_archive(str(root / "images_background"), "zip", root, "images_background")
    after = load_omniglot(folder)
    assert (before.images != after.images).flatten(2).any(-1).sum() == 1


def test_without_a_cache_nothing_is_written(small_omniglot, tmp_path):
    load_omniglot(small_omniglot, cache=False)
    assert not (tmp_path / "cache").exists()


def test_no_folder_at_all(monkeypatch):
    monkeypatch.delenv("FASTMAML_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"--data FOLDER .* FASTMAML_DATA"):
        load_omniglot()


def test_an_absent_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data: .*nowhere is not a folder"):
        load_omniglot(tmp_path / "nowhere")


def test_a_folder_without_omniglot(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no Omniglot but nothing; put images_background\.zip and"):
        load_omniglot(tmp_path)
    (tmp_path / "cats").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no Omniglot but cats"):
        load_omniglot(tmp_path)


def test_a_part_is_absent(zipped_omniglot):
    (zipped_omniglot / "omniglot" / "images_evaluation.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks images_evaluation\.zip and a folder images_evaluation"):
        load_omniglot(zipped_omniglot)


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_a_zip_file_cut_short(zipped_omniglot, kept):
    path = zipped_omniglot / "omniglot" / "images_background.zip"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"images_background\.zip is cut short or no zip file"):
        load_omniglot(zipped_omniglot)


def test_a_damaged_drawing_in_a_zip_file(zipped_omniglot):
    path = zipped_omniglot / "omniglot" / "images_background.zip"
    content = bytearray(path.read_bytes())
    place = content.index(DRAWING.encode()) + len(DRAWING) + 40
    content[place] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"data: {DRAWING} in .*images_background\.zip is damaged \("):
        load_omniglot(zipped_omniglot)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: b"no picture", lambda content: content[:-40]])
def test_a_damaged_drawing_in_a_folder(small_omniglot, damage):
    path = small_omniglot / "omniglot" / DRAWING
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"data: {DRAWING} in .*images_background is not a readable PNG"):
        load_omniglot(small_omniglot)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.mkdir(), "is a folder, expected a file; move it"),
        (os.mkfifo, "is a pipe, expected a file; move it"),
        (lambda path: path.symlink_to(path), "cannot be read .*; remove it"),
        (lambda path: path.write_bytes(png_header(13000, 13000)), "is too large .*; extract or download it anew"),
        (lambda path: path.write_bytes(png_header(60000, 60000)), "is too large .*; extract or download it anew"),
        (
            lambda path: path.write_bytes(bytes(2**20 + 1)),
            "has 1,048,577 bytes, allowed are 1,048,576; make it smaller",
        ),
    ],
)
@pytest.mark.parametrize("cached", [True, False])
def test_what_is_no_drawing_is_named(small_omniglot, make, told, cached):
    path = small_omniglot / "omniglot" / DRAWING
    path.unlink()
    make(path)
    with pytest.raises(DatasetError, match=rf"^data: .*{DRAWING}.* {told}"):
        load_omniglot(small_omniglot, cache=cached)


def test_a_bomb_in_a_zip_file(zipped_omniglot):
    path = zipped_omniglot / "omniglot" / "images_background.zip"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(DRAWING, bytes(40 * 2**20))
    with pytest.raises(DatasetError, match=rf"data: {DRAWING} in .*\.zip has 41,943,040 bytes, .*; download"):
        load_omniglot(zipped_omniglot)


def test_a_picture_of_another_kind_under_the_name(small_omniglot):
    file = io.BytesIO()
    Image.new("L", (105, 105)).save(file, "BMP")
    (small_omniglot / "omniglot" / DRAWING).write_bytes(file.getvalue())
    with pytest.raises(ValueError, match=f"{DRAWING} .* not a readable PNG"):
        load_omniglot(small_omniglot)


def test_a_drawing_of_another_size(small_omniglot, png):
    (small_omniglot / "omniglot" / DRAWING).write_bytes(png(np.ones((28, 28), bool)))
    with pytest.raises(ValueError, match=rf"{DRAWING} .* has 28×28 pixels, expected 105×105"):
        load_omniglot(small_omniglot)


def test_a_missing_drawing(small_omniglot):
    (small_omniglot / "omniglot" / DRAWING).unlink()
    with pytest.raises(ValueError, match=r"Latin/character01 .* has 19 drawings, expected 20; extract"):
        load_omniglot(small_omniglot)
    for name in ("Greek/character01", "Greek/character02"):
        next((small_omniglot / "omniglot" / "images_background" / name).iterdir()).unlink()
    with pytest.raises(ValueError, match=r"Greek/character01 .* has 19 .*, and 2 more characters are off"):
        load_omniglot(small_omniglot)


@pytest.mark.parametrize("part", ["images_background", "images_background/Latin"])
def test_missing_characters(small_omniglot, part):
    shutil.rmtree(small_omniglot / "omniglot" / part)
    (small_omniglot / "omniglot" / "images_background").mkdir(exist_ok=True)
    count = 0 if part == "images_background" else 2
    with pytest.raises(ValueError, match=rf"images_background holds {count} characters .* expected 3"):
        load_omniglot(small_omniglot)


def write_split(data, **parts):
    for part, characters in parts.items():
        content = {
            "background": {"Greek": characters.get("Greek", [])},
            "evaluation": {"Runes": characters.get("Runes", [])},
        }
        (data / "omniglot" / f"vinyals_{part}.json").write_text(json.dumps(content))


def test_the_vinyals_split_is_read_by_name(small_omniglot):
    write_split(
        small_omniglot,
        train={"Runes": ["character01"]},
        val={"Greek": ["character02"]},
        test={"Greek": ["character01"]},
    )
    split = load_omniglot(small_omniglot).split("vinyals")
    assert [part.tolist() for part in (split.train, split.validation, split.test)] == [[3], [1], [0]]
    assert split.train.dtype == torch.int64


def test_bad_split_files(small_omniglot):
    omniglot = load_omniglot(small_omniglot)
    one, unknown = {"Greek": ["character01"]}, {"Greek": ["character99"]}
    with pytest.raises(FileNotFoundError, match=r"vinyals_train\.json is absent"):
        omniglot.split("vinyals")
    write_split(small_omniglot, train=one, val={}, test=unknown)
    with pytest.raises(ValueError, match=r"vinyals_test\.json names 'images_background/Greek/character99', which"):
        omniglot.split("vinyals")
    write_split(small_omniglot, test=one)
    with pytest.raises(ValueError, match="name some character twice"):
        omniglot.split("vinyals")
    path = small_omniglot / "omniglot" / "vinyals_val.json"
    for content in (
        b'{"background": {"Gre',
        b'["Greek"]',
        b'{"background": {"Greek": 3}}',
        b"\xff\xfe\x00",
        b"[" * 100_000,
    ):
        path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"data: .*vinyals_val\.json is cut short or no split file .*; fetch it"):
            omniglot.split("vinyals")
    path.write_bytes(bytes(2**20 + 1))
    with pytest.raises(DatasetError, match=r"vinyals_val\.json has 1,048,577 bytes, allowed are 1,048,576"):
        omniglot.split("vinyals")


def test_another_kind_of_split(small_omniglot):
    with pytest.raises(ValueError, match='split kind=\'lake\': give "random" or "vinyals"'):
        load_omniglot(small_omniglot).split("lake")


def test_the_real_omniglot_is_whole(real_omniglot):
    assert real_omniglot.images.shape == (1623, 20, 28, 28)
    assert len(set(real_omniglot.names)) == 1623
    assert sum(name.startswith("images_background/") for name in real_omniglot.names) == 964
    assert 0.05 < real_omniglot.images.float().mean() / 255 < 0.12  # ink is rare, and it is the high values
    assert (real_omniglot.images.flatten(2).amax(-1) > 128).all()


@pytest.mark.parametrize(("kind", "sizes"), [("random", [1100, 100, 423]), ("vinyals", [1028, 172, 423])])
def test_the_real_splits_are_disjoint_and_complete(real_omniglot, kind, sizes):
    split = real_omniglot.split(kind)
    parts = [split.train, split.validation, split.test]
    assert [len(part) for part in parts] == sizes
    assert sorted(torch.cat(parts).tolist()) == list(range(1623))


def test_the_random_split_mixes_both_parts_by_its_seed(real_omniglot):
    split = real_omniglot.split()
    assert 200 < (split.test < 964).sum() < 300
    assert torch.equal(split.train, real_omniglot.split("random", seed=1).train)
    assert not torch.equal(split.train, real_omniglot.split("random", seed=2).train)


def test_episodes_of_the_real_omniglot(real_omniglot):
    images = real_omniglot.images[real_omniglot.split().train]
    batch = Episodes(images, 5, 1, 5, QUARTER_TURNS).sample(32, torch.Generator().manual_seed(0))
    assert batch.query.x.shape == (32, 25, 1, 28, 28)
    flat = torch.cat((batch.support.x, batch.query.x), 1).flatten(2)
    assert all(len(task.unique(dim=0)) == 30 for task in flat)
