"""Recipe fields that describe themselves: help, unit and range, for the command line and for the checks."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Option:
    """One field of a recipe, as the command line needs it."""

    name: str
    kind: type
    default: Any
    help: str
    choices: tuple[str, ...] | None
    minimum: float | None
    optional: bool


def option(default: Any, help: str, *, choices: tuple[str, ...] | None = None, minimum: float | None = None) -> Any:
    """A dataclass field with its meaning (unit included), its allowed values or its smallest value."""
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices, "minimum": minimum})


def options_of(recipe: type) -> tuple[Option, ...]:
    """Every field of a recipe class, in order."""
    hints = typing.get_type_hints(recipe)
    return tuple(_option_of(field, hints[field.name]) for field in dataclasses.fields(recipe))


def _option_of(field: dataclasses.Field[Any], hint: Any) -> Option:
    optional = isinstance(hint, types.UnionType)
    kind = next(arm for arm in typing.get_args(hint) if arm is not type(None)) if optional else hint
    return Option(field.name, kind, field.default, optional=optional, **field.metadata)


def check(recipe: Any) -> None:
    """Raise ValueError for the first field out of its range.

    The message names the field, the value given and what is allowed.
    """
    for item in options_of(type(recipe)):
        _check_value(item, getattr(recipe, item.name))


def check_device(device: str) -> None:
    """Raise ValueError, saying what there is, unless torch can use the device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # whichever it is in this build of torch
        why, there = str(error).splitlines()[0], "cpu and cuda" if torch.cuda.is_available() else "cpu alone"
        raise ValueError(f"device={device!r}: cannot be used ({why}); there is {there}") from error


def _check_value(item: Option, value: Any) -> None:
    if value is None and item.optional:
        return
    if item.choices is not None and value not in item.choices:
        raise ValueError(f"{item.name}={value!r}: choose one of {', '.join(item.choices)}")
    if item.kind in (int, float) and (isinstance(value, bool) or not isinstance(value, (int, item.kind))):
        raise ValueError(f"{item.name}={value!r}: must be a number ({item.kind.__name__})")
    if item.minimum is not None and not value >= item.minimum:
        raise ValueError(f"{item.name}={value!r}: must be at least {item.minimum:g}")
