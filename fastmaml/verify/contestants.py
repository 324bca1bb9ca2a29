"""Who is verified: each engine that this installation has, the compiled one once per instruction set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fastmaml import engines
from fastmaml.engines import Engine


@dataclass(frozen=True)
class Contestant:
    """An engine, and the instruction set it is made to use (None: it has no choice)."""

    engine: Engine
    isa: str | None = None

    @property
    def name(self) -> str:
        return self.engine.name if self.isa is None else f"{self.engine.name}/{self.isa}"


def contestants(names: Sequence[str] | None = None) -> list[Contestant]:
    """All that this installation has, or those of the named engines; never the reference itself.

    Raises:
        ValueError: a name that is unknown, absent from this installation, or "reference".
    """
    if names is not None and "reference" in names:
        raise ValueError("engine 'reference' is what the others are verified against; name another")
    wanted = [name for name in engines.available() if name != "reference"] if names is None else names
    return [contestant for name in wanted for contestant in _of(engines.get(name))]


def _of(engine: Engine) -> list[Contestant]:
    if engine.name != "cpu":
        return [Contestant(engine)]
    from fastmaml import _core

    return [Contestant(engine, isa) for isa in _core.supported_isas()]


@contextmanager
def running(contestant: Contestant) -> Iterator[Engine]:
    """The contestant's engine, with its instruction set in force."""
    if contestant.isa is None:
        yield contestant.engine
        return
    from fastmaml import _core

    before = _core.isa()
    _core.set_isa(contestant.isa)
    try:
        yield contestant.engine
    finally:
        _core.set_isa(before)
