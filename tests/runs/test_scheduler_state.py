"""A scheduler's state is loaded as it was, and cannot put other things into the scheduler's place."""

import pytest
import torch
from torch.optim import lr_scheduler

from fastmaml.runs import scheduler_state
from fastmaml.runs.checkpoint import CheckpointError
from fastmaml.runs.saved import Saved


def cosine():
    return lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), 20)


def chain():
    optimizer = cosine().optimizer
    parts = [lr_scheduler.StepLR(optimizer, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.SequentialLR(optimizer, parts, [4])


class Counting(lr_scheduler.LRScheduler):
    """Someone's own, whose attributes come and go."""

    def get_lr(self):
        self.seen = [*getattr(self, "seen", []), self.last_epoch]
        return [0.1]


@pytest.mark.parametrize("make", [cosine, chain])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("last_epoch", "x"),
        ("last_epoch", -5),
        ("last_epoch", 10**30),
        ("_last_lr", []),
        ("_last_lr", [float("nan")]),
        ("_last_lr", [torch.zeros(3)]),
        ("optimizer", 1),
        ("step", 1),
        ("get_last_lr", None),
        (3, 1),
        ("_last_lr", None),
    ],
    ids=str,
)
def test_what_it_does_not_have_is_refused_by_name(make, name, value):
    scheduler = make()
    with pytest.raises(CheckpointError, match=f"'scheduler/{name}.* is .*; allowed is "):
        scheduler_state.restore(Saved("file", {**scheduler.state_dict(), name: value}, "scheduler"), scheduler)


@pytest.mark.parametrize("value", [0, -1, "x"])
def test_a_period_is_positive(value):
    scheduler = cosine()
    with pytest.raises(CheckpointError, match="'scheduler/T_max'"):
        scheduler_state.restore(Saved("file", {**scheduler.state_dict(), "T_max": value}, "scheduler"), scheduler)


def test_those_within_others_are_looked_at():
    scheduler = chain()
    state = scheduler.state_dict()
    state["_schedulers"][0]["step_size"] = 0
    with pytest.raises(CheckpointError, match="'scheduler/_schedulers/0/step_size' is 0; allowed is a number above 0"):
        scheduler_state.restore(Saved("file", state, "scheduler"), chain())


def test_another_period_is_taken_as_it_was_saved():
    scheduler = cosine()
    scheduler_state.restore(Saved("file", {**scheduler.state_dict(), "T_max": 30}, "scheduler"), scheduler)
    assert scheduler.T_max == 30


def test_a_function_of_its_own_stays():
    def cyclic():
        return lr_scheduler.CyclicLR(cosine().optimizer, 0.1, 0.5, 2, scale_fn=lambda x: 0.5**x, cycle_momentum=False)

    scheduler = cyclic()
    scale = scheduler._scale_fn_custom
    scheduler_state.restore(Saved("file", {**cyclic().state_dict(), "last_epoch": 3}, "scheduler"), scheduler)
    assert scheduler.last_epoch == 3
    assert scheduler._scale_fn_custom in (scale, None)


def test_someones_own_may_keep_what_it_likes():
    scheduler, other = (Counting(cosine().optimizer) for _ in range(2))
    scheduler.seen = [1, 2, 3]
    scheduler_state.restore(Saved("file", scheduler.state_dict(), "scheduler"), other)
    assert other.seen == [1, 2, 3]
