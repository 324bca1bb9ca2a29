"""Nested state as named tensors and JSON, so that a checkpoint needs no pickle."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
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
    """The tree that `pack` was given. Raises KeyError or ValueError where the two do not belong together."""
    if isinstance(packed, list):
        return [unpack(entry, tensors) for entry in packed]
    if not isinstance(packed, dict):
        return packed
    (tag, content), *others = packed.items()
    if others or tag not in _UNPACK:
        raise ValueError(f"not a packed tree: {list(packed)}")
    return _UNPACK[tag](content, tensors)


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


def _unpack_pairs(pairs: list[list[Any]], tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {unpack(key, tensors): unpack(entry, tensors) for key, entry in pairs}


_UNPACK = {
    _TENSOR: lambda name, tensors: tensors[name],
    _DICT: _unpack_pairs,
    _COUNTER: lambda pairs, tensors: Counter(_unpack_pairs(pairs, tensors)),
    _TUPLE: lambda entries, tensors: tuple(unpack(entry, tensors) for entry in entries),
    _FLOAT: lambda text, tensors: float(text),
}
