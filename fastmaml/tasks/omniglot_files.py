"""The two parts of Omniglot as they are distributed: zip files, or the folders extracted from them."""

from __future__ import annotations

import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from fastmaml.tasks.bounded import file_status, read_file
from fastmaml.tasks.errors import DatasetError
from fastmaml.tasks.pictures import Accepted, decode
from fastmaml.tasks.zips import MAX_MEMBER_BYTES, list_members, read_member

PARTS = {"images_background": 964, "images_evaluation": 659}  # characters in each
DRAWINGS = 20
SOURCE_SIZE = (105, 105)
SIZE = (28, 28)

_ADVICE = "extract or download it anew"
# Grey rather than 1-bit, as the files are: Pillow resamples 1-bit images by nearest neighbour only.
_DRAWING = Accepted(("PNG",), "PNG", "L", _ADVICE, SOURCE_SIZE)


class Part(ABC):
    """One part, listed and found complete; its drawings are read when asked for.

    Attributes:
        path: the zip file or the folder.
        characters: "<part>/<alphabet>/<character>" to its 20 drawings, "<part>/…/<id>_<drawer>.png", sorted.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self._stamps = {drawing: stamp for drawing, stamp in self._list() if _is_drawing(drawing, name)}
        self.characters = _group(self._stamps)
        _check_complete(path, self.characters, PARTS[name])

    @abstractmethod
    def _list(self) -> Iterator[tuple[str, str]]:
        """Every file's name, and a stamp that changes when its content does."""

    @abstractmethod
    def _reader(self) -> AbstractContextManager[Callable[[str], bytes]]:
        """The function from a drawing's name to its bytes, within a context."""

    def fingerprint(self) -> list[str]:
        """Lines that differ when any drawing does."""
        return [f"{drawing} {stamp}" for drawing, stamp in sorted(self._stamps.items())]

    def images(self) -> np.ndarray:
        """All drawings, uint8 [characters, 20, 28, 28], ink = 255.

        Raises:
            DatasetError: a drawing cannot be read, or is not 105×105.
        """
        out = np.empty((len(self.characters), DRAWINGS, *SIZE), np.uint8)
        with self._reader() as read:
            for row, drawings in zip(out, self.characters.values(), strict=True):
                for image, drawing in zip(row, drawings, strict=True):
                    image[:] = self._image(read, drawing)
        return out

    def _image(self, read: Callable[[str], bytes], drawing: str) -> np.ndarray:
        grey = decode(read(drawing), f"{drawing} in {self.path}", _DRAWING)
        return 255 - np.asarray(grey.resize(SIZE, Image.Resampling.LANCZOS))


class ZipPart(Part):
    """A part in its zip file."""

    def _list(self) -> Iterator[tuple[str, str]]:
        members = list_members(self.path)
        yield from ((member.filename, f"{member.CRC} {member.file_size}") for member in members)

    @contextmanager
    def _reader(self) -> Iterator[Callable[[str], bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            yield partial(read_member, archive)


class FolderPart(Part):
    """A part in the folder that its zip file extracts to."""

    def _list(self) -> Iterator[tuple[str, str]]:
        for path in self.path.glob("*/*/*.png"):
            if path.name.startswith("."):
                continue
            stat = file_status(path, MAX_MEMBER_BYTES)
            yield path.relative_to(self.path.parent).as_posix(), f"{stat.st_mtime_ns} {stat.st_size}"

    @contextmanager
    def _reader(self) -> Iterator[Callable[[str], bytes]]:
        yield lambda drawing: read_file(self.path.parent / drawing, MAX_MEMBER_BYTES)


def locate(folder: Path, name: str) -> Path | None:
    """The zip file or the folder of part `name` in `folder`; the zip file where both lie there."""
    for path in (folder / f"{name}.zip", folder / name):
        if path.exists():
            return path
    return None


def open_part(folder: Path, name: str) -> Part:
    """Part `name` of Omniglot in `folder`.

    Raises:
        FileNotFoundError: it is not there.
        DatasetError: it is not a zip file, is cut short, or lacks characters or drawings.
    """
    path = locate(folder, name)
    if path is None:
        raise FileNotFoundError(
            f"data: {folder} lacks {name}.zip and a folder {name}; both parts of Omniglot are needed"
        )
    return FolderPart(path, name) if path.is_dir() else ZipPart(path, name)


def _is_drawing(drawing: str, part: str) -> bool:
    parts = PurePosixPath(drawing).parts
    return len(parts) == 4 and parts[0] == part and parts[3].endswith(".png") and not parts[3].startswith(".")


def _group(drawings: Iterable[str]) -> dict[str, list[str]]:
    characters: dict[str, list[str]] = {}
    for drawing in sorted(drawings):
        characters.setdefault(drawing.rpartition("/")[0], []).append(drawing)
    return characters


def _check_complete(path: Path, characters: dict[str, list[str]], expected: int) -> None:
    if len(characters) != expected:
        raise DatasetError(
            f"data: {path} holds {len(characters)} characters as <alphabet>/<character>/*.png, "
            f"expected {expected}; {_ADVICE}"
        )
    wrong = [character for character, drawings in characters.items() if len(drawings) != DRAWINGS]
    if wrong:
        others = f", and {len(wrong) - 1} more characters are off" if len(wrong) > 1 else ""
        raise DatasetError(
            f"data: {wrong[0]} in {path} has {len(characters[wrong[0]])} drawings, "
            f"expected {DRAWINGS}{others}; {_ADVICE}"
        )
