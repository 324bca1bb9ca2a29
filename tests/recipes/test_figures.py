"""Figures are whole PNG files, and their absence of matplotlib is told."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from fastmaml.recipes.reports import figures
from fastmaml.recipes.reports.figures import Course, Curve, Fit

X = np.linspace(-5, 5, 21)
CURVES = [
    Curve("MAML", [3.0, 0.7, 0.5], [0.1, 0.05, 0.03], {1: 0.67}, note="step size 0.01"),
    Curve("oracle", [0.01, 0.01, 0.01], [0.001, 0.001, 0.001], flat=True),
]
FIT = Fit("MAML, K = 5", (X[:5], np.sin(X[:5])), X, np.sin(X), {0: X * 0, 1: X / 5, 10: np.sin(X) * 0.9})


def test_learning_curves_are_a_png_of_as_many_panels(tmp_path):
    pytest.importorskip("matplotlib")
    figures.learning_curves({"K = 10": CURVES}, tmp_path / "one.png")
    figures.learning_curves({f"K = {k}": CURVES for k in (5, 10, 20)}, tmp_path / "three.png")
    one, three = (Image.open(tmp_path / f"{name}.png") for name in ("one", "three"))
    assert three.width > 1.5 * one.width
    assert len(one.convert("RGB").getcolors(1 << 20)) > 10  # something is drawn


def test_accuracy_over_time_shows_every_course(tmp_path):
    pytest.importorskip("matplotlib")
    course = Course("ours", [0, 1, 4], [0.2, 0.8, 0.9], [0.01, 0.02, 0.01])
    other = Course("theirs", [0, 2, 4], [0.2, 0.3, 0.5], [0.01, 0.02, 0.01])
    figures.accuracy_over_time([course, other], tmp_path / "a.png", title="t", published=0.95, chance=0.2)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3)
    for colour in (0x0072B2, 0xD55E00):
        assert (pixels == [colour >> 16, colour >> 8 & 255, colour & 255]).all(axis=1).sum() > 50


def test_fits_are_a_png(tmp_path):
    pytest.importorskip("matplotlib")
    figures.fits([FIT, FIT], 2, tmp_path / "fits.png")
    image = Image.open(tmp_path / "fits.png")
    assert image.format == "PNG"
    assert image.width > image.height


def test_curve_shows_its_colour(tmp_path):
    pytest.importorskip("matplotlib")
    figures.learning_curves({"K = 10": CURVES}, tmp_path / "one.png")
    colours = {colour for _, colour in Image.open(tmp_path / "one.png").convert("RGB").getcolors(1 << 20)}
    for curve in CURVES:
        assert tuple(bytes.fromhex(figures.COLOURS[curve.name][1:])) in colours


def test_a_curve_that_diverges_leaves_the_others_in_sight(tmp_path):
    pytest.importorskip("matplotlib")
    diverging = Curve("pretrained", [3.0, 1e25, float("nan")], [0.1, 1e25, float("nan")])
    figures.learning_curves({"K = 5": [CURVES[0], diverging]}, tmp_path / "one.png")
    figures.learning_curves({"K = 5": [CURVES[0]]}, tmp_path / "other.png")
    blue = tuple(bytes.fromhex(figures.COLOURS["MAML"][1:]))
    images = [Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("one", "other")]
    counts = [np.all(np.asarray(image) == blue, axis=-1).sum() for image in images]
    assert counts[0] > 0.8 * counts[1]


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib.figure")
    target = tmp_path / "one.png"
    target.write_bytes(b"former")

    def fail(self, path, **options):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(matplotlib.Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        figures.learning_curves({"K = 10": CURVES}, target)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"former"]


def test_absent_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"fastmaml\[plots\]"):
        figures.learning_curves({"K = 10": CURVES}, tmp_path / "one.png")
