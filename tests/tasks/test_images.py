"""Images from class folders and CSV splits."""

import csv
import os

import numpy as np
import pytest
import torch
from PIL import Image

from fastmaml.tasks import DatasetError, Episodes, load_image_parts
from fastmaml.tasks import cache as caches
from tests.tasks.hostile import EPS, png_header, png_of_zeros

SIZE = 8


def draw(path, value, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """train, val and test of three classes each, of 3, 4 and 5 images."""
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "cache"))
    for number, part in enumerate(("train", "val", "test")):
        for label in range(3):
            for image in range(3 + label):
                draw(tmp_path / "set" / part / f"class{label}" / f"{image}.png", 50 * number + 10 * label + image)
    return tmp_path / "set"


def load(root, **kinds):
    return load_image_parts(("mine",), SIZE, root, **kinds)


def test_folders_of_classes(folders):
    parts = load(folders)
    assert list(parts) == ["train", "val", "test"]
    test = parts["test"]
    assert test.names == ("class0", "class1", "class2")
    assert test.counts.tolist() == [3, 4, 5]
    assert test.images.shape == (3, 5, 3, SIZE, SIZE)
    assert test.images[1, 2].unique().tolist() == [112]
    assert test.images[0, 3:].eq(0).all()


def test_csv_splits_name_the_images_of_one_folder(folders, tmp_path):
    root = tmp_path / "csv"
    for number, part in enumerate(("train", "val", "test")):
        root.mkdir(exist_ok=True)
        with (root / f"{part}.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["filename", "label"])
            for image in range(2):
                draw(root / "images" / f"{number}{image}.jpg", 40 * number, size=20)  # resized
                rows.writerow([f"{number}{image}.jpg", f"n{number}"])
    parts = load(root)
    assert parts["val"].names == ("n1",)
    assert parts["test"].images.shape == (1, 2, 3, SIZE, SIZE)
    assert abs(int(parts["test"].images[0, 0, 0, 4, 4]) - 80) < 5
    (root / "images" / "00.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"00\.jpg is absent, but .*train\.csv names it"):
        load(root)


def test_undivided_classes_are_divided_by_the_seed(folders):
    parts = load(folders / "train")
    names = [name for part in parts.values() for name in part.names]
    assert sorted(names) == ["class0", "class1", "class2"]
    assert load(folders / "train", seed=1)["test"].names == parts["test"].names


def test_a_corrupt_image_is_named(folders):
    (folders / "val" / "class1" / "2.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"data: .*class1/2\.png is not a readable image"):
        load(folders)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.mkdir(), "is a folder, expected a file; move it"),
        (os.mkfifo, "is a pipe, expected a file; move it"),
        (lambda path: path.symlink_to(path), "cannot be read .*; remove it"),
        (lambda path: path.write_bytes(png_header(13000, 13000)), "is too large .*; shrink it"),
        (lambda path: path.write_bytes(png_header(20000, 20000)), "is too large .*; shrink it"),
        (lambda path: path.write_bytes(EPS), "is not a readable image .*; fetch it anew"),
    ],
)
def test_what_is_no_image_is_named(folders, make, told, cached):
    make(folders / "train" / "class0" / "x.png")
    with pytest.raises(DatasetError, match=rf"^data: .*train/class0/x\.png {told}"):
        load(folders, cache=cached)


def test_a_photograph_of_12_megapixels_is_resized(folders):
    (folders / "test" / "class0" / "0.png").write_bytes(png_of_zeros(4000, 3000))
    assert load(folders)["test"].images[0, 0].eq(0).all()


def test_a_name_that_is_not_utf_8(folders):
    folder = folders / "test" / "class0"
    (folder / "0.png").rename(folder / os.fsdecode(b"0\xff.png"))
    assert load(folders)["test"].counts.tolist() == [3, 4, 5]


def test_images_that_do_not_fit_into_memory(folders):
    for side in (2**20, 2**40):
        with pytest.raises(DatasetError, match=r"data: 3 classes with room for 5 images .* GiB of memory; give fewer"):
            load_image_parts((), side, folders)
    with pytest.raises(ValueError, match="size=0: give an integer of at least 1"):
        load_image_parts((), 0, folders)


def test_a_cache_that_was_cut_short_or_made_of_other_files_is_made_anew(folders, tmp_path):
    before = load(folders)["train"].images.clone()
    for path in (tmp_path / "cache").glob("*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(load(folders)["train"].images, before)
    draw(folders / "train" / "class0" / "0.png", 250)
    assert load(folders)["train"].images[0, 0].unique().tolist() == [250]


def test_the_cache_is_used(folders, monkeypatch):
    before = load(folders)["test"].images
    monkeypatch.setattr("fastmaml.tasks.images.files.read_images", lambda *_: pytest.fail("read again"))
    assert torch.equal(load(folders)["test"].images, before)
    assert caches.VERSION


def test_what_is_missing_is_named(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match="data: no folder given"):
        load("")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no folders of images"):
        load(tmp_path / "empty")


def test_episodes_take_no_padding_and_name_a_class_that_is_too_small(folders):
    test = load(folders)["test"]
    kinds = {"counts": test.counts, "names": test.names}
    episodes = Episodes(test.images, 3, 1, 2, **kinds)
    batch = episodes.sample(50, torch.Generator().manual_seed(0))
    assert (batch.support.x > 0.3).all()  # padding would be 0
    assert (batch.query.x > 0.3).all()
    with pytest.raises(ValueError, match=r"shots=2 and queries=2 need 4 samples .* holds 3 of 'class0'"):
        Episodes(test.images, 3, 2, 2, **kinds)
