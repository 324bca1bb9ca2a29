"""The state of torch's generators, checked before one is set to it."""

from __future__ import annotations

import struct

import torch
from torch import Tensor

_WORDS = 624  # of the Mersenne Twister that generators of CPUs are
_BYTES = 5056
_PLACE = struct.Struct("<8x i i Q")  # behind the seed: words left, whether it was seeded, the next word


def set_state(generator: torch.Generator, state: object) -> None:
    """Puts a generator where `state` was taken.

    Raises:
        ValueError: it is no state of such a generator. torch itself takes some that make it read past its words.
    """
    check_state(state)
    assert isinstance(state, Tensor)
    try:
        generator.set_state(state.cpu())
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"random state: is none of a generator on {generator.device} ({error})") from error


def check_state(state: object) -> None:
    """Raises ValueError unless it can be a generator's state: uint8 [n], and on CPUs at a place within its words."""
    if not isinstance(state, Tensor) or state.dtype != torch.uint8 or state.dim() != 1:
        found = f"{state.dtype} {list(state.shape)}" if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"random state: given {found}; allowed is torch.uint8 [n], as get_state() returns it")
    if state.numel() != _BYTES:
        return  # of another device, whose generator looks at all of it
    left, _, following = _PLACE.unpack_from(state.cpu().contiguous().numpy().data)
    fresh = (left, following) == (1, 0)
    if not fresh and (not 1 <= left <= _WORDS or left + following != _WORDS + 1):
        raise ValueError(
            f"random state: has {left} words left and the next is {following}; allowed is a sum of {_WORDS + 1}"
        )
