"""Meta-batches drawn before they are asked for, while a device still works on the last one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from torch import Tensor

from fastmaml.batch import TaskBatch


class _Stream(Iterator[TaskBatch], Protocol):
    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class Ahead:
    """A stream of meta-batches of which the next one can be drawn early.

    It gives what the stream gives. Its state is that of the stream as if nothing had been drawn early, so that a run
    resumes the same whenever it was stopped.
    """

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream
        self._early: TaskBatch | None = None
        self._before: dict[str, Tensor] = {}

    def __iter__(self) -> Ahead:
        return self

    def __next__(self) -> TaskBatch:
        batch, self._early = self._early, None
        return next(self._stream) if batch is None else batch

    def draw(self) -> None:
        """Draws the next meta-batch now, unless that has been done."""
        if self._early is None:
            self._before = self._stream.state_dict()
            self._early = next(self._stream)

    def state_dict(self) -> dict[str, Tensor]:
        return self._stream.state_dict() if self._early is None else self._before

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._early = None
        self._stream.load_state_dict(state)
