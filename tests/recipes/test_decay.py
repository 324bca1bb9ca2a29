"""The meta step size follows its schedule, which a resumed run keeps to the last bit."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
import torch

from fastmaml.recipes import RECIPES, SinusoidRecipe
from fastmaml.recipes.decay import linear_decay
from fastmaml.recipes.run import CHECKPOINTS, fit, train
from fastmaml.runs import checkpoint
from fastmaml.training.fused_adam import FusedAdam
from tests.small_runs import Hooked, adam, parameters, regression, same

TINY = SinusoidRecipe(iterations=9, meta_batch=2, checkpoint_every=2, meta_lr=1e-3, meta_lr_decay=0.5)


def rates(optimizer, iterations, share):
    """What each iteration is done with, and what is left after the last."""
    scheduler = linear_decay(optimizer, iterations, share)
    found = []
    for _ in range(iterations):
        found.append([float(group["lr"]) for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return found, [float(group["lr"]) for group in optimizer.param_groups]


def test_it_falls_linearly_to_zero_over_the_last_iterations():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    found, left = rates(optimizer, 10, 0.4)
    assert [rate for (rate,) in found] == pytest.approx([2.0] * 7 + [1.5, 1.0, 0.5])
    assert left == [0.0]


def test_it_may_fall_from_the_first_iteration_on():
    found, left = rates(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0), 4, 1.0)
    assert [rate for (rate,) in found] == pytest.approx([1.0, 0.75, 0.5, 0.25])
    assert left == [0.0]


def test_every_group_falls_from_its_own_step_size_tensors_too():
    one, two = (torch.zeros(1, requires_grad=True) for _ in range(2))
    groups = [{"params": [one], "lr": 1.0}, {"params": [two], "lr": torch.tensor(4.0)}]
    found, left = rates(torch.optim.Adam(groups, capturable=False, foreach=False), 4, 0.5)
    assert found == [[1.0, 4.0]] * 3 + [[0.5, 2.0]]
    assert left == [0.0, 0.0]


def test_without_a_share_nothing_is_scheduled():
    assert linear_decay(adam(regression()), 10, 0.0) is None


@pytest.mark.parametrize("share", [-0.1, 1.5, 30, float("nan"), float("inf")])
def test_another_share_is_refused_with_what_to_give(share):
    allowed = rf"meta_lr_decay={share}: must be from 0 to 1, .* give 0\.3 for the last 30%, 0 for a constant"
    with pytest.raises(ValueError, match=allowed):
        linear_decay(adam(regression()), 10, share)
    with pytest.raises(ValueError, match=allowed):
        SinusoidRecipe(meta_lr_decay=share)


def test_no_recipe_has_it_by_default():
    assert not any(recipe.meta_lr_decay for recipe in RECIPES.values())


def test_a_recipes_training_follows_it(tmp_path):
    train(replace(TINY, iterations=200), tmp_path / "falling", progress=False)
    train(replace(TINY, iterations=200, meta_lr_decay=0.0), tmp_path / "constant", progress=False)
    assert logged_rates(tmp_path / "falling") == pytest.approx([0.001, 0.0])
    assert logged_rates(tmp_path / "constant") == [0.001, 0.001]


def logged_rates(folder):
    with (folder / "train.csv").open(newline="") as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


def test_the_fused_step_is_taken_all_the_same():
    maml = regression()
    optimizer = adam(maml)
    scheduler = linear_decay(optimizer, 4, 1.0)
    fused = FusedAdam(optimizer)
    taken = []
    for _ in range(4):
        for p in maml.parameters():
            p.grad = torch.ones_like(p)
        taken.append(fused.step())
        if not taken[-1]:
            optimizer.step()
        scheduler.step()
    assert taken == [False, True, True, True]  # the first makes Adam's state


class Crash(Exception):
    pass


@pytest.mark.parametrize("crash", [1, 4, 6, 9])
def test_a_crashed_run_goes_on_with_the_same_step_sizes(tmp_path, crash):
    def run(folder, crash_at=0):
        def hook(call, batch):
            if call == crash_at:
                raise Crash

        return fit(TINY, TINY.maml(), Hooked(TINY.train_source(), hook), folder, progress=False)

    straight, _ = run(tmp_path / "a")
    with pytest.raises(Crash):
        run(tmp_path / "b", crash)
    resumed, result = run(tmp_path / "b")
    assert result.iteration == 9
    assert same(parameters(resumed), parameters(straight))
    ends = [checkpoint.load(checkpoint.numbered(tmp_path / run / CHECKPOINTS)[-1]) for run in "ab"]
    assert ends[0]["scheduler"] == ends[1]["scheduler"]
    assert ends[0]["optimizer"]["param_groups"] == ends[1]["optimizer"]["param_groups"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta_lr_decay": 0.0}, r"meta_lr_decay=0\.5, and now meta_lr_decay=0\.0 is asked for.*--out"),
        ({"meta_lr_decay": 0.4}, r"meta_lr_decay=0\.5, and now meta_lr_decay=0\.4 is asked for.*--out"),
        ({"iterations": 12}, r"iterations=9, and now iterations=12 is asked for.*--out"),
    ],
)
def test_a_run_of_another_schedule_is_refused(tmp_path, change, message):
    train(TINY, tmp_path, progress=False)
    with pytest.raises(ValueError, match=message):
        train(replace(TINY, **change), tmp_path, progress=False)


def test_a_constant_step_size_leaves_the_iterations_free(tmp_path):
    constant = replace(TINY, meta_lr_decay=0.0)
    train(constant, tmp_path, progress=False)
    assert train(replace(constant, iterations=12), tmp_path, progress=False)[1].iteration == 12
