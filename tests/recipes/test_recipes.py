"""Recipes are the paper's hyper-parameters, and refuse what makes no sense."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch

from fastmaml.gradients import FirstOrder, SecondOrder
from fastmaml.recipes import POLICY_RECIPES, RECIPES, OmniglotMLPRecipe, SinusoidRecipe
from fastmaml.recipes.options import options_of
from fastmaml.recipes.reports.tables import evaluation_table, write_evaluation
from fastmaml.recipes.run import CHECKPOINTS, drawn_on, judge, train
from fastmaml.runs import checkpoint
from fastmaml.tasks import Episodes, Sinusoid

TINY = SinusoidRecipe(iterations=6, test_tasks=8, test_steps=2, checkpoint_every=3)


def test_sinusoid_is_the_papers():
    recipe = SinusoidRecipe()
    assert (recipe.iterations, recipe.meta_batch, recipe.shots, recipe.train_steps) == (70_000, 25, 10, 1)
    assert (recipe.inner_lr, recipe.meta_lr, recipe.meta_lr_decay) == (0.002, 1e-3, 0.0)
    batch = recipe.train_source().sample(25, torch.Generator())
    assert batch.support.x.shape == batch.query.x.shape == (25, 10, 1)
    shapes = [tuple(p.shape) for p in recipe.model().parameters()]
    assert shapes == [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]


def test_the_sinusoid_starts_from_torchs_weights_or_the_authors():
    assert SinusoidRecipe().model().layers.linear1.weight.abs().max() > 0.5
    authors = SinusoidRecipe(initial_weights="authors")
    assert authors.model().layers.linear1.weight.abs().max() <= 0.02


def test_omniglot_is_the_papers_in_mean_reduction():
    recipe = OmniglotMLPRecipe()
    assert (recipe.iterations, recipe.meta_batch, recipe.ways, recipe.shots) == (60_000, 32, 5, 1)
    assert recipe.inner_lr == pytest.approx(0.4 * recipe.ways)
    assert (recipe.train_steps, recipe.test_steps, recipe.meta_lr, recipe.test_tasks) == (1, 3, 1e-3, 600)


def test_omniglot_learns_but_does_not_adapt_the_shifts():
    slots = OmniglotMLPRecipe().maml().plan.slots
    shifts = [slot for slot in slots if "norm" in slot.name and slot.name.endswith("bias")]
    scales = [slot for slot in slots if "norm" in slot.name and slot.name.endswith("weight")]
    assert len(shifts) == len(scales) == 4
    assert all(slot.meta_learned and not slot.adapted for slot in shifts)
    assert not any(slot.meta_learned or slot.adapted for slot in scales)
    assert all(slot.adapted and slot.meta_learned for slot in slots if "linear" in slot.name)


def test_initial_weights_follow_the_seed():
    first, again, other = (SinusoidRecipe(seed=seed).model().state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.linear1.weight"], other["layers.linear1.weight"])


def test_options_reach_the_maml():
    maml = SinusoidRecipe(rule="first-order", inner_lr=0.05, train_steps=3, engine="functional").maml()
    assert isinstance(maml.rule, FirstOrder)
    assert isinstance(SinusoidRecipe().maml().rule, SecondOrder)
    assert maml.steps == 3
    assert maml.engine.name == "functional"
    learned = SinusoidRecipe(learn_lr="element").maml()
    assert sum(p.numel() for p in learned.parameters()) == 2 * sum(p.numel() for p in learned.model.parameters())


def test_recipes_are_data():
    with pytest.raises(FrozenInstanceError):
        SinusoidRecipe().shots = 3  # type: ignore[misc]


@pytest.mark.parametrize("recipe", [*RECIPES.values(), *POLICY_RECIPES.values()], ids=[*RECIPES, *POLICY_RECIPES])
def test_every_option_says_what_it_means(recipe):
    described = options_of(recipe)
    assert [item.name for item in described] == [field.name for field in fields(recipe)]
    assert all(len(item.help) > 10 for item in described)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations=0: must be at least 1"),
        ({"inner_lr": float("nan")}, "inner_lr=nan: must be at least 0"),
        ({"meta_batch": 2.5}, r"meta_batch=2.5: must be a number \(int\)"),
        ({"shots": True}, "shots=True: must be a number"),
        ({"rule": "third-order"}, "rule='third-order': choose one of second-order, first-order"),
        ({"queries": 0}, "queries=0: must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SinusoidRecipe(**options)


def test_a_run_is_resumed_and_judged(tmp_path):
    _, result = train(replace(TINY, iterations=3), tmp_path / "a", progress=False)
    resumed, result = train(TINY, tmp_path / "a", progress=False)
    straight, _ = train(TINY, tmp_path / "b", progress=False)
    assert result.iteration == 6
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), straight.parameters(), strict=True))
    assert judge(TINY, resumed).loss.shape == (3,)


def test_a_folder_of_another_training_is_refused(tmp_path):
    train(TINY, tmp_path, progress=False)
    with pytest.raises(ValueError, match=r"holds a run with shots=10, and now shots=7 is asked for.*--out"):
        train(replace(TINY, shots=7), tmp_path, progress=False)


def test_what_is_only_for_the_test_may_change(tmp_path):
    train(TINY, tmp_path, progress=False)
    changed = replace(TINY, test_shots=7, test_tasks=9, engine="functional")
    _, result = train(changed, tmp_path, progress=False)
    assert result.iteration == TINY.iterations


def test_checkpoints_say_what_they_hold(tmp_path):
    train(TINY, tmp_path, progress=False)
    config = checkpoint.load(checkpoint.numbered(tmp_path / CHECKPOINTS)[-1])["config"]
    assert config["recipe"] == "sinusoid"
    assert config["inner_lr"] == 0.002


def test_tables_show_the_papers_numbers_where_they_apply(tmp_path):
    evaluation = judge(replace(TINY, test_steps=10), TINY.maml())
    table = evaluation_table(TINY, evaluation)
    assert [line.split()[-1] for line in table.splitlines() if line.split()[0] in ("1", "5", "10")] == [
        "0.67",
        "0.38",
        "0.35",
    ]
    assert "0.67" not in evaluation_table(replace(TINY, test_shots=10), evaluation)
    write_evaluation(TINY, evaluation, tmp_path / "new" / "evaluation.csv")
    lines = (tmp_path / "new" / "evaluation.csv").read_text().splitlines()
    assert lines[0] == "steps,loss,loss_ci95,accuracy,accuracy_ci95,paper"
    assert len(lines) == 12


def test_a_device_that_is_not_there_is_named_with_those_that_are():
    with pytest.raises(ValueError, match=r"device='nowhere': cannot be used .*; there is cpu"):
        SinusoidRecipe(device="nowhere")


@pytest.mark.parametrize("source", [Sinusoid(), Episodes(torch.zeros(3, 4, 2, 2, dtype=torch.uint8), 2, 1)])
def test_sources_are_drawn_where_the_network_is(source):
    moved = drawn_on(torch.device("meta"), source)
    assert moved.device.type == "meta"
    assert source.device.type == "cpu"
