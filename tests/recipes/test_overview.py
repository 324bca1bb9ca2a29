"""The overview of the regression experiment: one PNG with a panel of each method, curves and courses."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fastmaml.recipes.regression import RegressionFigure
from fastmaml.recipes.reports import figures, regression_overview
from fastmaml.recipes.reports.overview import Course, Words, overview
from tests.recipes.test_figures import CURVES, FIT

WORDS = Words("title", "curves", "courses", "caption")
COURSES = [Course("MAML", [100, 200], [3.0, 0.7]), Course("oracle", [100, 200], [1.0, 0.01])]


def drawn(path, fits=(FIT, FIT), curves=CURVES, courses=COURSES):
    pytest.importorskip("matplotlib")
    overview(fits, curves, courses, WORDS, path)
    return Image.open(path).convert("RGB")


def test_it_shows_every_method_in_its_colour(tmp_path):
    colours = {colour for _, colour in drawn(tmp_path / "a.png").getcolors(1 << 20)}
    for course in COURSES:
        assert tuple(bytes.fromhex(figures.COLOURS[course.name][1:])) in colours


def test_one_method_alone_is_a_figure_of_the_same_size(tmp_path):
    alone = drawn(tmp_path / "a.png", fits=(FIT,), curves=CURVES[:1], courses=COURSES[:1])
    assert alone.size == drawn(tmp_path / "b.png").size


def test_a_network_that_has_diverged_is_no_error(tmp_path):
    nan = figures.Curve("MAML", [float("nan"), float("inf")], [float("nan")] * 2)
    assert drawn(tmp_path / "a.png", curves=[nan], courses=[Course("MAML", [100], [1e20])]).width > 1000


def test_the_caption_says_where_the_step_size_is_not_the_papers(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(regression_overview, "overview", lambda *given: said.append(given))
    (tmp_path / "maml").mkdir()
    (tmp_path / "maml" / "train.csv").write_text("iteration,loss\n100,3.5\n200,2.5\n")
    for lr in (0.002, 0.01):
        regression_overview.draw_overview(RegressionFigure(inner_lr=lr), [FIT], CURVES[:1], tmp_path)
    fits, _, courses, words, path = said[0]
    assert [fit.title for fit in fits] == ["MAML, adapted to five points of a new wave"]
    assert courses == [Course("MAML", (100, 200), (3.5, 2.5))]
    assert path == tmp_path / "overview.png"
    assert "MAML's step size is 0.002 here, 0.01 in the paper." in words.caption
    assert "step size" not in said[1][3].caption


def test_diamonds_say_the_papers_step_size():
    matplotlib = pytest.importorskip("matplotlib")
    assert matplotlib
    figure = figures.empty(4, 3)
    axis = figure.subplots()
    figures.draw_curves(axis, [figures.Curve("MAML", [3.0, 0.7], [0.1, 0.1], {1: 0.67}, paper_note="step size 0.01")])
    assert axis.get_legend_handles_labels()[1] == ["MAML", "MAML in the paper, step size 0.01"]
    assert np.isfinite(axis.get_ylim()).all()
