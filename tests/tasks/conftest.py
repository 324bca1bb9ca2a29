"""Omniglot for tests: a small one made up, and the real one where it can be found."""

import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastmaml.tasks import load_omniglot, omniglot_files

SMALL = {
    "images_background": ["Greek/character01", "Greek/character02", "Latin/character01"],
    "images_evaluation": ["Runes/character01"],
}


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).convert("1", dither=Image.Dither.NONE).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def png():
    """The function to a 1-bit PNG, as Omniglot's, from booleans: True is paper, False is ink."""
    return _png


@pytest.fixture
def small_omniglot(tmp_path, monkeypatch) -> Path:
    """A data folder that holds extracted folders in the official layout, of 3 + 1 characters instead of 964 + 659."""
    monkeypatch.setattr(omniglot_files, "PARTS", {part: len(names) for part, names in SMALL.items()})
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FASTMAML_DATA", raising=False)
    random = np.random.default_rng(0)
    for part, characters in SMALL.items():
        for number, character in enumerate(characters):
            folder = tmp_path / "data" / "omniglot" / part / character
            folder.mkdir(parents=True)
            for drawer in range(1, 21):
                drawing = _png(random.random((105, 105)) < 0.9)
                (folder / f"{number:04d}_{drawer:02d}.png").write_bytes(drawing)
    return tmp_path / "data"


@pytest.fixture
def zipped_omniglot(small_omniglot) -> Path:
    """The same data folder with zip files in the place of the extracted folders."""
    root = small_omniglot / "omniglot"
    for part in SMALL:
        with zipfile.ZipFile(root / f"{part}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(root.glob(f"{part}/**/*")):
                archive.write(path, path.relative_to(root))
        shutil.rmtree(root / part)
    return small_omniglot


@pytest.fixture(scope="session")
def real_omniglot():
    """The real Omniglot, from FASTMAML_DATA or from shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    try:
        return load_omniglot(os.environ.get("FASTMAML_DATA") or beside, cache=False)
    except FileNotFoundError as error:
        pytest.skip(f"needs the real Omniglot: set FASTMAML_DATA ({error})")
