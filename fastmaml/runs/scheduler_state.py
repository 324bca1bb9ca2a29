"""A scheduler's state from a checkpoint, checked before it takes the place of the scheduler's own attributes."""

from __future__ import annotations

from typing import Any

from torch.optim.lr_scheduler import LRScheduler

from fastmaml.runs.saved import Saved

#: what schedulers of torch's own divide by
_PERIODS = ("T_max", "T_0", "T_i", "T_mult", "step_size", "total_iters", "total_steps", "total_size", "step_ratio")


def restore(saved: Saved, scheduler: LRScheduler | None) -> None:
    """Loads what `scheduler.state_dict()` gave, after checking it.

    Raises:
        CheckpointError: it would replace a method, or holds something of another kind than the scheduler has.
    """
    if scheduler is None:
        return
    state = saved.mapping()
    for name in state:
        if not isinstance(name, str) or name == "optimizer" or callable(getattr(type(scheduler), name, None)):
            raise saved.entry(name).refusal("no entry of this name")
    if type(scheduler).__module__ == "torch.optim.lr_scheduler":
        _check(saved, scheduler.state_dict())
    scheduler.load_state_dict({**state})


def _check(saved: Saved, own: dict[str, Any]) -> None:
    for name in own.keys() & saved.mapping().keys():
        entry = saved.optional(name)
        if name == "_schedulers":  # of those that hold others
            if len(inner := [*entry.items()]) != len(own[name]):
                raise entry.refusal(f"a list of {len(own[name])}")
            for item, its_own in zip(inner, own[name], strict=True):
                _check(item, its_own)
            continue
        entry.alike(own[name])
        if name in ("last_epoch", "_step_count"):
            entry.whole(min(int(own[name]), 0))
        elif name in _PERIODS and own[name] and own[name] > 0 and not entry.value > 0:
            raise entry.refusal("a number above 0")
