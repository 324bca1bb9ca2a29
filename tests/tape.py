"""A CUDA graph as CPUs can have it: operators and kernel launches are recorded with their memory, and replayed."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "repeat_interleave")
"""Operators that would wait for a GPU, or copy from the host to it."""


class Tape(TorchDispatchMode):
    """Replays what was recorded on the same tensors: whatever Python decided or computed then stays as it was.

    As a CUDA graph, `capture` leaves all memory as it was, and refuses what would wait for the device.
    """

    made: ClassVar[list[Tape]] = []

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.entries, self.owned, self.before = [], set(), {}
        self.replays = 0
        Tape.made.append(self)

    def capture(self, body) -> None:
        with self:
            body()
        for tensor, value in self.before.values():
            tensor.copy_(value)

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for function, args, kwargs, outputs in self.entries:
            found = function(*args, **kwargs)
            for kept, new in zip(outputs, _tensors(found), strict=True):
                # a view, or what changes its argument, gives memory that is known
                if new.untyped_storage().data_ptr() != kept.untyped_storage().data_ptr():
                    kept.copy_(new)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits for the device"
        kwargs = kwargs or {}
        self.keep(args, kwargs)
        found = function(*args, **kwargs)
        self.note(function, args, kwargs, _tensors(found))
        return found

    def keep(self, args, kwargs) -> None:
        """What memory from outside held before it was first used."""
        for tensor in _tensors((args, kwargs)):
            place = tensor.untyped_storage().data_ptr()
            if place not in self.owned and place not in self.before:
                whole = tensor.detach().as_strided((tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
                self.before[place] = whole, whole.clone()

    def note(self, function, args, kwargs, outputs) -> None:
        for output in outputs:
            place = output.untyped_storage().data_ptr()
            if place not in self.before:
                self.owned.add(place)
        args, kwargs, outputs = tree_map_only(torch.Tensor, torch.Tensor.detach, (args, kwargs, outputs))
        self.entries.append((function, args, kwargs, outputs))


def record_kernels(monkeypatch) -> None:
    """Launches of Triton's interpreter go on the tape that is recording."""
    from fastmaml.kernels import flat

    kind = type(flat._sum_kernel)
    run = kind.run

    def recorded(self, *args, **kwargs):
        with _disable_current_modes() as modes:
            for tape in modes:
                tape.keep(args, kwargs)
                tape.note(lambda *a, **k: run(self, *a, **k) and None, args, kwargs, [])
            return run(self, *args, **kwargs)

    monkeypatch.setattr(kind, "run", recorded)


def _tensors(tree) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
