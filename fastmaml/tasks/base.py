"""Where TaskBatches come from: the protocol of a task source, and streams that resume exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from fastmaml.batch import TaskBatch
from fastmaml.runs.random_state import set_state


class TaskSource(Protocol):
    """Anything that draws meta-batches; all randomness comes from the generator it is handed."""

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """One meta-batch of `num_tasks` tasks."""
        ...


@runtime_checkable
class BlockSource(TaskSource, Protocol):
    """A source that draws many meta-batches in one go faster than one by one."""

    def sample_block(self, count: int, num_tasks: int, generator: torch.Generator) -> Sequence[TaskBatch]:
        """`count` meta-batches of `num_tasks` tasks each."""
        ...


class TaskStream:
    """An endless iterator of meta-batches whose place can be saved and restored exactly.

    A block of meta-batches is drawn at a time. The state is the generator's state before the block and the
    position in it, so restoring draws that block again: nothing but the generator's state need be stored.

    Args:
        source: what to draw from; it must draw the same block again from the same generator state.
        num_tasks: tasks in a meta-batch.
        generator: the source of randomness. The stream owns it: do not draw from it elsewhere.
        block: meta-batches drawn at a time. More than one needs a source with `sample_block`.

    Raises:
        ValueError: `num_tasks` or `block` is not a positive integer.
        TypeError: `block` is above one and the source has no `sample_block`.
    """

    def __init__(
        self, source: TaskSource | BlockSource, num_tasks: int, generator: torch.Generator, block: int = 1
    ) -> None:
        self.source = source
        self.num_tasks = check_count("num_tasks", num_tasks)
        self.generator = generator
        self.block = check_count("block", block)
        if block > 1 and not isinstance(source, BlockSource):
            raise TypeError(f"block={block}: {type(source).__name__} has no sample_block; use block=1")
        self._start = generator.get_state()
        self._batches: Sequence[TaskBatch] = ()
        self._position = 0

    def __iter__(self) -> TaskStream:
        return self

    def __next__(self) -> TaskBatch:
        if self._position == len(self._batches):
            self._draw()
        batch = self._batches[self._position]
        self._position += 1
        return batch

    def state_dict(self) -> dict[str, Tensor]:
        """The place in the stream: `generator` (uint8), and integers `position`, `block` and `num_tasks`."""
        return {
            "generator": self._start.clone(),
            "position": torch.tensor(self._position),
            "block": torch.tensor(self.block),
            "num_tasks": torch.tensor(self.num_tasks),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue where `state_dict` was taken; the generator is set to match.

        Raises:
            ValueError: the state lacks an entry, or was taken from a stream of another `block` or
                `num_tasks`.
        """
        if missing := {"generator", "position", "block", "num_tasks"} - state.keys():
            raise ValueError(f"state has no {sorted(missing)}; give what TaskStream.state_dict() returned")
        for name, own in (("num_tasks", self.num_tasks), ("block", self.block)):
            if int(state[name]) != own:
                raise ValueError(
                    f"state has {name}={int(state[name])}, this stream {own}; make a stream as it was saved"
                )
        position = int(state["position"])
        if not 0 <= position <= self.block:
            raise ValueError(f"state has position={position}, allowed is 0 to block={self.block}")
        set_state(self.generator, state["generator"])
        self._start, self._batches, self._position = self.generator.get_state(), (), 0
        if position:
            self._draw()
            self._position = position

    def _draw(self) -> None:
        self._start = self.generator.get_state()
        if isinstance(self.source, BlockSource):
            self._batches = self.source.sample_block(self.block, self.num_tasks, self.generator)
        else:
            self._batches = (self.source.sample(self.num_tasks, self.generator),)
        self._position = 0


def check_count(name: str, value: object) -> int:
    """`value` if it is an integer of at least one, else a ValueError that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}={value!r}: give an integer of at least 1")
    return value
