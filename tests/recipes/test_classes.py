"""What tasks are drawn from is said before training, and the paper's numbers stand only beside tasks like its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fastmaml.evaluation import Evaluation
from fastmaml.recipes import CifarFsRecipe, MiniImagenetRecipe, OmniglotMLPRecipe, OmniglotRecipe, SinusoidRecipe
from fastmaml.recipes import paper as papers
from fastmaml.recipes.classes import counted
from fastmaml.recipes.reports.tables import evaluation_table
from fastmaml.tasks import Omniglot

CLASSES = {"train": 64, "val": 16, "test": 20}
JUDGED = Evaluation(torch.rand(11, 4, dtype=torch.float64), torch.rand(11, 4, dtype=torch.float64))


@pytest.fixture
def omniglot(monkeypatch, tmp_path):
    """Omniglot without a drawing: 1,623 characters of 20."""
    empty = Omniglot(torch.zeros(1623, 20, 1, 1, dtype=torch.uint8), tuple(map(str, range(1623))), tmp_path)
    monkeypatch.setattr("fastmaml.recipes.omniglot.load_omniglot", lambda data: empty)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of one's own, divided, of 3 images a class, as few classes as a task takes."""
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "cache"))
    for part in CLASSES:
        for label in range(5):
            folder = tmp_path / "own" / part / f"{part}{label}"
            folder.mkdir(parents=True)
            for number in range(3):
                Image.fromarray(np.full((4, 4, 3), 50 * number, np.uint8)).save(folder / f"{number}.png")
    return str(tmp_path / "own")


def parts_of(test, images=600):
    """Parts as a recipe holds them, with `images` of each class, none of them real."""
    from fastmaml.tasks import ImageClasses

    names = {part: tuple(f"{part}{number}" for number in range(count)) for part, count in CLASSES.items()}
    names["test"] = tuple(sorted(test))
    none = torch.zeros(1, 1, 3, 1, 1, dtype=torch.uint8)
    return {part: ImageClasses(none, torch.full((len(own),), images), own) for part, own in names.items()}


def holding(recipe, parts):
    recipe.__dict__["_parts"] = parts  # where cached_property keeps it
    return recipe


def header(recipe):
    return evaluation_table(recipe, JUDGED).splitlines()[1].split()


def test_counts_in_words():
    assert counted({"training": [20] * 1200, "test": [20] * 423}) == "1,200 training and 423 test classes of 20 images"
    said = counted({"training": torch.tensor([3, 9]), "validation": torch.tensor([4]), "test": torch.tensor([1500])})
    assert said == "2 training, 1 validation and 1 test classes of 3 to 1,500 images"


def test_omniglot_says_its_split(omniglot):
    said = OmniglotMLPRecipe(split_seed=3).tasks_line()
    assert "5-way 1-shot, from 1,100 training, 100 validation and 423 test classes of 20 images" in said
    assert said.endswith("split: random, seed 3")


def test_images_of_ones_own_say_whose_split_it_is(own):
    said = CifarFsRecipe(data=own, queries=1).tasks_line()
    assert "from 5 training, 5 validation and 5 test classes of 3 images" in said
    assert said.endswith("split: as the folder has it")


def test_a_folder_that_is_not_divided_is_told_by_the_seed(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "cache"))
    for label in range(25):
        (tmp_path / "all" / f"c{label:02d}").mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "all" / f"c{label:02d}" / "0.png")
    said = CifarFsRecipe(data=str(tmp_path / "all"), split_seed=4).tasks_line()
    assert "16 training, 4 validation and 5 test classes of 1 images" in said
    assert said.endswith("split: random, seed 4")


def test_sinusoids_say_how_many_points():
    assert SinusoidRecipe(shots=7, test_shots=3).tasks_line().endswith("7 support points in training, 3 at test")


@pytest.mark.parametrize("kind", [OmniglotMLPRecipe, OmniglotRecipe])
@pytest.mark.parametrize(
    "options", [{"split": "vinyals"}, {"ways": 6}, {"shots": 2}, {"test_rotations": False}], ids=lambda o: next(iter(o))
)
def test_omniglot_on_other_tasks_has_no_column_of_the_papers(kind, options):
    assert header(kind(test_steps=10))[-1] == "paper"
    assert "paper" not in header(kind(test_steps=10, **options))


@pytest.mark.parametrize(
    ("kind", "test", "other"),
    [
        (MiniImagenetRecipe, papers.MINI_IMAGENET_TEST_CLASSES, papers.CIFAR_FS_TEST_CLASSES),
        (CifarFsRecipe, papers.CIFAR_FS_TEST_CLASSES, papers.MINI_IMAGENET_TEST_CLASSES),
    ],
)
def test_images_have_the_papers_numbers_on_its_test_classes_alone(kind, test, other):
    assert len(test) == 20
    assert header(holding(kind(), parts_of(test)))[-1] == "paper"
    assert "paper" not in header(holding(kind(), parts_of(other)))
    assert "paper" not in header(holding(kind(), parts_of(test, images=500)))
    assert "paper" not in header(holding(kind(ways=7), parts_of(test)))


def test_a_folder_of_ones_own_has_no_column_of_the_papers(own):
    assert "paper" not in header(MiniImagenetRecipe(data=own, queries=1))


def test_sinusoids_of_other_points_have_no_column_of_the_papers():
    recipe = SinusoidRecipe()
    assert header(recipe)[-1] == "paper"
    assert "paper" not in header(replace(recipe, test_shots=10))
