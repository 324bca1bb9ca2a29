"""The state of a NumPy generator as a tensor, to be saved among others."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state(generator: np.random.Generator) -> Tensor:
    """The generator's state, as bytes of JSON: uint8 [n]."""
    text = json.dumps(generator.bit_generator.state, default=_as_list)
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def set_random_state(generator: np.random.Generator, state: Tensor) -> None:
    """Puts the generator where `random_state` was taken.

    Raises:
        ValueError: the state is none, or of another kind of generator.
    """
    try:
        loaded = json.loads(bytes(state.tolist()).decode())
        _check(type(generator.bit_generator), loaded)
        generator.bit_generator.state = loaded
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        kind = type(generator.bit_generator).__name__
        raise ValueError(
            f"state: is none of a {kind} generator; give what random_state() returned ({error})"
        ) from error


def _check(kind: type[np.random.BitGenerator], loaded: Any) -> None:
    """Raises ValueError unless a generator takes the state as it is, at a place within its words.

    NumPy cuts numbers off in silence, and reads beyond the words where the place lies there.
    """
    trial = kind()
    trial.state = loaded
    taken = json.loads(json.dumps(trial.state, default=_as_list))
    if taken != loaded:
        raise ValueError("it is not what becomes of it")
    places = {"MT19937": (loaded.get("state"), "pos", 624), "Philox": (loaded, "buffer_pos", 4)}
    holder, name, words = places.get(loaded["bit_generator"], ({}, "", 0))
    if not 0 <= holder.get(name, 0) <= words:
        raise ValueError(f"'{name}' is {holder[name]}; allowed is 0 to {words}")


def _as_list(value: object) -> object:
    """MT19937 and others keep an array in their state; they take a list as well."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"generator: its state holds a {type(value).__name__}, which cannot be saved; use default_rng()")
