"""Pictures are decoded by the named formats alone, and none that is too large is decoded at all."""

import io
import warnings

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from fastmaml.tasks import DatasetError
from fastmaml.tasks.pictures import MAX_PIXELS, Accepted, decode
from tests.tasks.hostile import EPS, png_header, png_of_zeros

COLOURS = Accepted(("PNG", "JPEG", "BMP", "WEBP"), "image", "RGB", "fetch it anew")


def encoded(kind, size=(8, 6)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_every_format_is_decoded_as_pillow_does(kind):
    content = encoded(kind)
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert np.array_equal(np.asarray(decode(content, "x", COLOURS)), expected)


@pytest.fixture
def decoded(monkeypatch):
    """The sizes of the pictures whose pixels were decoded."""
    sizes = []
    original = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda file: sizes.append(file.size) or original(file))
    return sizes


@pytest.mark.parametrize("size", [(8001, 8000), (13000, 13000), (20000, 20000), (MAX_PIXELS + 1, 1)])
def test_a_picture_that_is_too_large_is_refused_by_its_header_without_a_warning(decoded, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            DatasetError, match=r"data: a/x\.png (is too large|has .* too many).*; shrink it to at most 64,000,000"
        ):
            decode(png_header(*size), "a/x.png", COLOURS)
    assert decoded == []


def test_a_photograph_of_12_megapixels_is_served(decoded):
    assert decode(png_of_zeros(4000, 3000), "x", COLOURS).size == (4000, 3000)
    assert decoded  # so the spy sees what is decoded


def test_a_lower_limit_of_pillow_is_obeyed(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(DatasetError, match=r"data: x is too large .*48 pixels.* limit of 40 pixels"):
        decode(encoded("PNG"), "x", COLOURS)


def test_another_size_than_expected_is_refused_by_its_header(decoded):
    exact = Accepted(("PNG",), "PNG", "L", "fetch it anew", (105, 105))
    with pytest.raises(DatasetError, match=r"data: x has 60000×10 pixels, expected 105×105; fetch it anew"):
        decode(png_header(60000, 10), "x", exact)
    assert decoded == []


def test_ghostscript_is_not_started(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was started"))
    with pytest.raises(DatasetError, match=r"x is not a readable image .*does not begin as PNG or JPEG or BMP or WEBP"):
        decode(EPS, "x", COLOURS)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_damage_raises_nothing_else(kind):
    content, random, told = encoded(kind), np.random.default_rng(0), []
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(len(content), size=3):
            damaged[place] ^= 1 << random.integers(8)
        try:
            decode(bytes(damaged), "x", COLOURS)
        except DatasetError as error:
            told.append(str(error))
    assert told
    assert all(error.startswith("data: x ") for error in told)


def test_an_error_that_no_decoder_documents_is_told_too(monkeypatch):
    def fail(*_):
        raise IndexError("tuple index out of range")

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(DatasetError, match=r"data: x is not a readable image \(tuple index out of range\); fetch"):
        decode(encoded("PNG"), "x", COLOURS)


def test_want_of_memory_is_not_blamed_on_the_file(monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(MemoryError):
        decode(encoded("PNG"), "x", COLOURS)
