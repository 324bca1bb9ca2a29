"""argparse from the fields of a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from fastmaml.recipes.options import Option, options_of


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def add_options(
    parser: argparse.ArgumentParser,
    *recipes: type,
    only: Sequence[str] | None = None,
    without: Sequence[str] = (),
    defaults: str | None = None,
) -> None:
    """One option per field: `--inner-lr` sets `inner_lr`. One that is not given is absent from the namespace.

    Args:
        recipes: their fields, those of the same name taken once.
        only: the names of the fields to take, in this order; all if None.
        without: names to leave out.
        defaults: what the help calls every default; their values if None.
    """
    group = parser.add_argument_group("options of the recipe")
    items = {item.name: item for recipe in reversed(recipes) for item in options_of(recipe)}
    for name in [name for name in (items if only is None else only) if name not in without]:
        group.add_argument(flag(name), **_argument(items[name], defaults))


def given(recipe: type, arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the recipe that were set on the command line."""
    names = [item.name for item in options_of(recipe)]
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def flag(name: str) -> str:
    """The option that sets a field."""
    return "--" + name.replace("_", "-")


def in_flags(message: str, names: Sequence[str]) -> str:
    """A message about a field, as the command line calls it: "meta_batch=0: …" becomes "--meta-batch 0: …"."""
    name, equals, rest = message.partition("=")
    return f"{flag(name)} {rest}" if equals and name in names else message


def _argument(item: Option, defaults: str | None) -> dict[str, Any]:
    argument: dict[str, Any] = {
        "dest": item.name,
        "default": argparse.SUPPRESS,
        "help": _help(item, defaults).replace("%", "%%"),
    }
    if item.kind is bool:
        return argument | {"action": argparse.BooleanOptionalAction}
    if item.choices is not None:
        return argument | {"choices": item.choices}
    return argument | {"type": item.kind, "metavar": _METAVARS[item.kind]}


def _help(item: Option, defaults: str | None) -> str:
    """What the option means, and its default; a field whose default is None says itself what that means."""
    meaning = item.help.partition(" [default:")[0]
    if defaults is not None:
        return f"{meaning} [default: {defaults}]"
    return item.help if item.default is None else f"{meaning} [default: {item.default}]"


_METAVARS = {int: "N", float: "X", str: "TEXT"}
