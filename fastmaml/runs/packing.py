"""Nested state as named tensors and JSON, so that a checkpoint needs no pickle."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

# One-key objects {tag: ...} stand for what JSON does not know; every dict is written under a tag, so none collides.
_TENSOR, _DICT, _COUNTER, _TUPLE, _FLOAT = "$tensor", "$dict", "$counter", "$tuple", "$float"


def pack(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """A nest of dicts, lists, tuples, tensors, numbers, strings and None as JSON and tensors.

    Args:
        tree: e.g. the state_dict of any torch optimizer or scheduler.
    Returns:
        what json can write exactly (floats included), and the tensors by their path in the tree ("state/0/exp_avg").
        The tensors are detached, contiguous copies on the CPU.
    Raises:
        TypeError: for an entry of any other type, naming its path.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(tree, "", tensors), tensors


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that `pack` was given.

    Raises:
        ValueError: where the two do not belong together, naming the path in the tree. RecursionError: for a tree that
            is nested deeper than Python's recursion limit.
    """
    return _unpack(packed, "", dict(tensors))


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: str(float(value))}
    if isinstance(value, Tensor):
        return _pack_tensor(value, path, tensors)
    if isinstance(value, Mapping):
        return _pack_mapping(value, path, tensors)
    if isinstance(value, (list, tuple)):
        entries = [_pack(entry, f"{path}/{index}", tensors) for index, entry in enumerate(value)]
        return {_TUPLE: entries} if isinstance(value, tuple) else entries
    raise TypeError(
        f"state: '{path.lstrip('/')}' is a {type(value).__name__}; what can be saved are tensors, numbers, strings, "
        "None, and dicts, lists and tuples of them: leave it out of state_dict(), or turn it into one of these"
    )


def _pack_tensor(value: Tensor, path: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    name = path.lstrip("/")
    while name in tensors:  # keys 0 and "0" have one path
        name += "'"
    tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    return {_TENSOR: name}


def _pack_mapping(value: Mapping[Any, Any], path: str, tensors: dict[str, Tensor]) -> dict[str, list[Any]]:
    if type(value) not in (dict, OrderedDict, Counter):
        raise TypeError(f"state: '{path.lstrip('/')}' is a {type(value).__name__}; allowed mappings are plain dicts")
    pairs = [[_pack(key, path, {}), _pack(entry, f"{path}/{key}", tensors)] for key, entry in value.items()]
    return {_COUNTER if isinstance(value, Counter) else _DICT: pairs}


def _unpack(packed: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Takes the tensors out as it meets them, so that no two entries share one."""
    if isinstance(packed, list):
        return _unpack_list(packed, path, tensors)
    if not isinstance(packed, dict):
        return packed
    if len(packed) != 1 or (tag := next(iter(packed))) not in _UNPACK:
        raise ValueError(f"'{path.lstrip('/')}' has the keys {list(packed)[:4]}, not one of {list(_UNPACK)}")
    return _UNPACK[tag](packed[tag], path, tensors)


def _unpack_list(content: Any, path: str, tensors: dict[str, Tensor]) -> list[Any]:
    _check(content, list, path)
    return [_unpack(entry, f"{path}/{index}", tensors) for index, entry in enumerate(content)]


def _unpack_tensor(name: Any, path: str, tensors: dict[str, Tensor]) -> Tensor:
    _check(name, str, path)
    if name not in tensors:
        raise ValueError(f"'{path.lstrip('/')}' is the tensor '{name}', which is absent or stands elsewhere, too")
    return tensors.pop(name)


def _unpack_pairs(pairs: Any, path: str, tensors: dict[str, Tensor]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for pair in _unpack_list_of_pairs(pairs, path):
        key = _unpack(pair[0], path, {})
        try:
            hash(key)
        except TypeError as error:
            raise ValueError(f"'{path.lstrip('/')}' has a {type(key).__name__} as a key") from error
        found[key] = _unpack(pair[1], f"{path}/{key}", tensors)
    return found


def _unpack_list_of_pairs(pairs: Any, path: str) -> list[list[Any]]:
    _check(pairs, list, path)
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"'{path.lstrip('/')}' has an entry that is no pair of a key and a value")
    return list(pairs)


def _unpack_float(text: Any, path: str, tensors: dict[str, Tensor]) -> float:
    _check(text, str, path)
    return float(text)


def _check(content: Any, kind: type, path: str) -> None:
    if not isinstance(content, kind):
        raise ValueError(f"'{path.lstrip('/')}' holds a {type(content).__name__} where a {kind.__name__} belongs")


_UNPACK: dict[str, Callable[[Any, str, dict[str, Tensor]], Any]] = {
    _TENSOR: _unpack_tensor,
    _DICT: _unpack_pairs,
    _COUNTER: lambda pairs, path, tensors: Counter(_unpack_pairs(pairs, path, tensors)),
    _TUPLE: lambda entries, path, tensors: tuple(_unpack_list(entries, path, tensors)),
    _FLOAT: _unpack_float,
}
