"""How OpenMP's idle threads wait: asleep, unless the user says otherwise.

PyTorch's operators run on OpenMP's threads, the core's passes on threads of its own. Left alone, an idle thread of
GNU's OpenMP spins for 3 ms after each operator, on a processor that the core, or another program, has work for.

OpenMP reads the environment once, when torch loads it. So importing this module sets it, `fastmaml` imports it before
anything that imports torch, and it imports nothing but Python's own. Child processes inherit the setting.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

SLEEP = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
"""Environment variables under which idle threads sleep at once."""

_ADVICE = f"start the program with {' '.join(f'{name}={value}' for name, value in SLEEP.items())}"


def _let_idle_threads_sleep() -> str:
    """Sets the variables if that is still in time and the user has set none of them; says what there was to do."""
    if any(name in os.environ for name in SLEEP):
        return "user"
    if "torch" in sys.modules:
        return "late"
    os.environ.update(SLEEP)
    return "set"


_STATE = _let_idle_threads_sleep()


def report(state: str = _STATE) -> Iterator[str]:
    """Lines that say how idle threads wait in this process, who decided that, and what to do where they spin."""
    names = [f"{name}={os.environ[name]}" for name in SLEEP if name in os.environ]
    if state == "late":
        yield "OMP_WAIT_POLICY: not set, and torch came before fastmaml: idle OpenMP threads spin beside the core's."
        yield f"Import fastmaml before torch, or {_ADVICE}."
    elif state == "set":
        yield f"{', '.join(names)}, set by fastmaml: idle OpenMP threads sleep."
        yield f"A program that imports torch before fastmaml must do so itself: {_ADVICE}."
    else:
        yield f"{', '.join(names)}, from the environment"
        if os.environ.get("OMP_WAIT_POLICY", "PASSIVE").upper() != "PASSIVE":
            yield f"Idle OpenMP threads spin beside the core's; {_ADVICE}."
