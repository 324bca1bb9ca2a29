"""A checkpoint as it is read: each field is checked by name before anything takes it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from torch import Tensor

from fastmaml.runs.checkpoint import ADVICE, CheckpointError, describe

T = TypeVar("T")

LARGEST = 2**53
"""Of a counter: float64 holds every whole number up to here."""
_LARGEST_FLOAT32 = 3.4e38


class Saved:
    """A value of a checkpoint, and where it stands.

    Args:
        path: the file, which errors name.
        value: a nest of dicts, lists, tuples, tensors, numbers, strings and None.
        field: the way to it, as "optimizer/state/0/exp_avg".
    """

    def __init__(self, path: Path | str, value: Any, field: str = "") -> None:
        self.path, self.value, self.field = path, value, field

    def refusal(self, allowed: str) -> CheckpointError:
        """The error that says what was found and what is allowed."""
        return CheckpointError(
            f"{self.path}: '{self.field}' is {describe(self.value)}; allowed is {allowed}. "
            f"Build the run as it was saved, or {ADVICE}"
        )

    def entry(self, name: Any) -> Saved:
        """An entry of a dict. Raises CheckpointError where this is no dict, or has no such entry."""
        return self.optional(name).present()

    def optional(self, name: Any) -> Saved:
        """As `entry`, of value None where it is absent."""
        return Saved(self.path, self.mapping().get(name), self._below(name))

    def present(self) -> Saved:
        """Raises CheckpointError for None."""
        if self.value is None:
            raise self.refusal("a value")
        return self

    def mapping(self) -> Mapping[Any, Any]:
        if not isinstance(self.value, Mapping):
            raise self.refusal("a dict")
        return self.value

    def items(self) -> Iterator[Saved]:
        """Those of a list or tuple."""
        if not isinstance(self.value, (list, tuple)):
            raise self.refusal("a list")
        for index, value in enumerate(self.value):
            yield Saved(self.path, value, self._below(index))

    def whole(self, least: int = 0) -> int:
        """A whole number."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
            raise self.refusal(f"a whole number from {least} to 2^53")
        return value

    def number(self) -> float:
        """Any number, infinite or NaN, too."""
        if isinstance(self.value, bool) or not isinstance(self.value, (int, float)):
            raise self.refusal("a number")
        if isinstance(self.value, int) and abs(self.value) > LARGEST:
            raise self.refusal("a number, of whole ones up to 2^53")
        return float(self.value)

    def duration(self) -> float:
        """A finite number from 0."""
        if not (math.isfinite(value := self.number()) and value >= 0):
            raise self.refusal("a finite number from 0")
        return value

    def tensor(self, like: Tensor, of: str) -> Tensor:
        """A tensor with the shape and dtype of `like`, which is said to be that of `of`."""
        value = self.value
        if not isinstance(value, Tensor) or (value.shape, value.dtype) != (like.shape, like.dtype):
            raise self.refusal(f"{describe(like)}, that of {of}")
        return value

    def alike(self, own: Any) -> None:
        """Raises CheckpointError where this is not of the same kind as `own`: a number, text, a list of as many …

        Where `own` is None or a function, anything but a tensor may stand.
        """
        if isinstance(own, Tensor):
            self._number_or_tensor(own)
        elif isinstance(self.value, Tensor):
            raise self.refusal("no tensor")
        elif isinstance(own, bool):
            if not isinstance(self.value, (bool, type(None))):
                raise self.refusal("True, False or None")
        elif isinstance(own, (int, float)):
            self._in_range(own)
        elif isinstance(own, str):
            if not isinstance(self.value, str):
                raise self.refusal("text")
        elif isinstance(own, (list, tuple)):
            self._alike_list(own)
        elif isinstance(own, Mapping):
            for name in own.keys() & self.mapping().keys():
                self.entry(name).alike(own[name])

    def _alike_list(self, own: list[Any] | tuple[Any, ...]) -> None:
        items = [*self.items()]
        if own and len(items) != len(own):
            raise self.refusal(f"a list of {len(own)}")
        for item, entry in zip(items, own, strict=False):
            item.alike(entry)

    def _number_or_tensor(self, own: Tensor) -> None:
        value = self.value
        if isinstance(value, Tensor):
            if value.shape not in ((), own.shape) or value.numel() != 1 or not value.is_floating_point():
                raise self.refusal(f"a number, or {describe(own)}")
            value = value.item()
        Saved(self.path, value, self.field)._in_range(own.item())

    def _in_range(self, own: float) -> None:
        """Of the numbers that torch takes: it raises where one is to be float32 and too large."""
        largest = max(abs(own), _LARGEST_FLOAT32)
        if not abs(self.number()) <= largest:
            raise self.refusal(f"a number of a magnitude up to {largest:g}")

    def _below(self, name: Any) -> str:
        return f"{self.field}/{name}" if self.field else str(name)


def counters(saved: Saved, kind: type[T]) -> T:
    """A dataclass of int, float and optional fields; `seconds` and what is counted are not negative."""
    known = get_type_hints(kind)
    if unknown := [str(name) for name in saved.mapping() if name not in known]:
        raise CheckpointError(
            f"{saved.path}: '{saved.field}' has the unknown {sorted(unknown)}; allowed are {sorted(known)}. "
            "Use the version of fastmaml that wrote it"
        )
    return kind(**{name: _counter(saved.optional(name), said) for name, said in known.items()})


def _counter(saved: Saved, kind: Any) -> int | float | None:
    kinds = get_args(kind) or (kind,)
    if saved.value is None and type(None) in kinds:
        return None
    if int in kinds:
        return saved.whole()
    return saved.duration() if saved.field.endswith("seconds") else saved.number()
