"""Pictures decoded within bounds: of the formats named alone, and of no more pixels than their header may claim."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from fastmaml.tasks.errors import DatasetError, reason

# More than five photographs of 12 megapixels. To decode and convert so many takes 0.3 GB as PNG, 0.7 GB as WebP.
MAX_PIXELS = 64_000_000
MAX_BYTES = 4 * MAX_PIXELS  # of a file: what so many pixels take uncompressed


@dataclass(frozen=True)
class Accepted:
    """What a picture must be.

    Attributes:
        formats: Pillow's names of them. No other decoder sees the file: that of EPS, for one, starts Ghostscript.
        noun: what errors call it.
        mode: Pillow's name of the pixels it is converted to.
        remedy: what to do about a picture that is not so.
        size: its width and height; any of at most MAX_PIXELS if None.
    """

    formats: tuple[str, ...]
    noun: str
    mode: str
    remedy: str
    size: tuple[int, int] | None = None


def decode(content: bytes, where: str, accepted: Accepted) -> Image.Image:
    """The picture in `content`, the bytes of the file `where`. Its size is checked before its pixels are decoded.

    Raises:
        DatasetError: it is damaged, of another format or size, or larger than MAX_PIXELS or Pillow's own limit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=accepted.formats) as file:
                _check_size(file.size, where, accepted)
                return file.convert(accepted.mode)
    except (DatasetError, MemoryError):  # no memory: not the fault of the file
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DatasetError(f"data: {where} is too large ({reason(error)}); {_shrink(accepted)}") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        unknown = f"it does not begin as {' or '.join(accepted.formats)}"
        told = unknown if isinstance(error, UnidentifiedImageError) else reason(error)
        raise DatasetError(f"data: {where} is not a readable {accepted.noun} ({told}); {accepted.remedy}") from error


def _check_size(size: tuple[int, int], where: str, accepted: Accepted) -> None:
    given = f"data: {where} has {size[0]}×{size[1]} pixels"
    if accepted.size is not None and size != accepted.size:
        width, height = accepted.size
        raise DatasetError(f"{given}, expected {width}×{height}; {accepted.remedy}")
    if size[0] * size[1] > MAX_PIXELS:
        raise DatasetError(f"{given}, which is too many; {_shrink(accepted)}")


def _shrink(accepted: Accepted) -> str:
    return f"shrink it to at most {MAX_PIXELS:,} pixels" if accepted.size is None else accepted.remedy
