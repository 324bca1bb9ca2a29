"""What a module computes by, besides its tensors and children: its own attributes, such as a kernel size."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from functools import lru_cache
from types import CodeType
from typing import Any

from torch import Tensor, nn

#: attributes that every module has, of which only the mode decides what it computes
_INTERNAL = frozenset(vars(nn.Module())) - {"training"}


def settings_of(module: nn.Module) -> dict[str, Any]:
    """The attributes of the module itself that decide what it computes, an own `forward` among them.

    Those are left out that `forward` writes, or methods that it names: a counter of its calls decides nothing, and
    changes at every call. So are tensors where a hook runs before `forward`, since it may compute them anew each time,
    as that of torch.nn.utils.weight_norm does.

    Returns:
        name ↦ value, where a list is a copy, as `is_same` takes it.
    """
    written = written_by_forward(type(module))  # type: ignore[arg-type]  # a class can be hashed
    hooked = bool(module._forward_pre_hooks)
    return {
        name: [*value] if type(value) is list else value
        for name, value in vars(module).items()
        if name not in _INTERNAL and name not in written and not (hooked and isinstance(value, Tensor))
    }


@lru_cache(maxsize=1024)
def written_by_forward(kind: type[nn.Module]) -> frozenset[str]:
    """Names of the attributes that a class's `forward` assigns to, or a method of the class that it names, and so on.

    `training` is never among them.
    """
    methods = {
        name: function
        for base in reversed(kind.__mro__[: kind.__mro__.index(nn.Module)])
        for name, function in vars(base).items()
        if callable(function)
    }
    written, seen, waiting = set[str](), set[str](), ["forward"]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in methods:
            continue
        seen.add(name)
        for code in _codes(getattr(inspect.unwrap(methods[name]), "__code__", None)):
            written |= {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_ATTR"}
            waiting += code.co_names
    return frozenset(written - {"training"})


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    """The code, and that of the functions within it."""
    if code is not None:
        yield code
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _codes(constant)


def is_same(now: Any, seen: Any) -> bool:
    """Whether a setting is what it was: the same object, or an equal one of the same plain type.

    Lists are compared by what they hold, since they may have changed in place. No code of a user's runs.
    """
    if now is seen:
        return True
    if type(now) is not type(seen):
        return False
    if type(now) is list:
        return len(now) == len(seen) and all(map(_is_same_item, now, seen))
    return _is_same_item(now, seen)


def _is_same_item(now: Any, seen: Any) -> bool:
    if now is seen:
        return True
    if type(now) is not type(seen):
        return False
    if isinstance(now, tuple):
        return len(now) == len(seen) and all(map(_is_same_item, now, seen))
    return type(now) in (int, float, complex, str, bytes) and bool(now == seen)
