"""Work that is too small for more than one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch's operators on the caller's thread alone.

    Where an operator takes microseconds, others that wake for it come late, and milliseconds late where they find the
    processor taken.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
