"""What loaders raise for data that they cannot use."""

from __future__ import annotations

_SHOWN = 80  # characters of a name that an error repeats: a damaged file can hold names of megabytes


class DatasetError(ValueError):
    """A data file that cannot be used: damaged, of another kind than expected, or beyond a limit.

    The message names the file, what is wrong with it, and what to do. A file or folder that is absent is a
    FileNotFoundError instead.
    """


def shown(name: object) -> str:
    """`name` quoted, on one line, cut where it is long."""
    text = repr(name)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def reason(error: BaseException) -> str:
    """What `error` says, without the path that the message around it names; its kind where it says nothing."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__)[:200]
