"""Omniglot (Lake, Salakhutdinov, Tenenbaum 2015): 1,623 handwritten characters, 20 drawings of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fastmaml.tasks import cache as caches
from fastmaml.tasks import omniglot_files as files
from fastmaml.tasks.bounded import list_folder, read_file
from fastmaml.tasks.data_folder import data_folder
from fastmaml.tasks.errors import DatasetError, reason, shown
from fastmaml.tasks.splits import Split, random_split

FOLDERS = ("omniglot", "omniglot-py", ".")  # within the data folder; the second is torchvision's
RANDOM_SIZES = (1100, 100, 423)
RANDOM_SEED = 1
MAX_SPLIT_BYTES = 2**20  # of a split file; those of Vinyals et al. take 20 kB


@dataclass(frozen=True)
class Omniglot:
    """The characters in memory.

    Attributes:
        images: uint8 [characters, 20, 28, 28], ink = 255.
        names: of each character, "images_background/<alphabet>/<character>", sorted within each part.
        root: the folder they were read from.
    """

    images: Tensor
    names: tuple[str, ...]
    root: Path

    def split(self, kind: Literal["random", "vinyals"] = "random", seed: int = RANDOM_SEED) -> Split:
        """Characters to train, validate and test on.

        "random" shuffles all characters by `seed` into 1100/100/423, as Finn et al. 2017 do (their shuffle is
        another one: it depends on the order of their file system). "vinyals" reads the split of Vinyals et
        al. 2016, 1028/172/423, from vinyals_train.json, vinyals_val.json and vinyals_test.json in `root`.

        Raises:
            FileNotFoundError: a file of the Vinyals split is absent.
            ValueError: another `kind`.
            DatasetError: a split file is cut short, or names characters twice or unknown.
        """
        if kind == "random":
            return random_split(len(self.names), RANDOM_SIZES, seed)
        if kind == "vinyals":
            return self._vinyals_split()
        raise ValueError(f'split kind={kind!r}: give "random" or "vinyals"')

    def _vinyals_split(self) -> Split:
        number = {name: index for index, name in enumerate(self.names)}
        paths = [self.root / f"vinyals_{part}.json" for part in ("train", "val", "test")]
        parts = [_read_names(path) for path in paths]
        for path, names in zip(paths, parts, strict=True):
            if unknown := sorted(set(names) - number.keys()):
                raise DatasetError(
                    f"data: {path} names {shown(unknown[0])}, which the images do not hold; fetch it anew"
                )
        if sum(map(len, parts)) != len(set().union(*parts)):
            raise DatasetError(f"data: the vinyals_*.json in {self.root} name some character twice; fetch them anew")
        return Split(*(torch.tensor(sorted(number[name] for name in names)) for names in parts))


def load_omniglot(data: str | Path | None = None, cache: bool = True) -> Omniglot:
    """Read Omniglot from its two official zip files or their extracted folders.

    Looked for are images_background and images_evaluation, each .zip or extracted, in DATA/omniglot,
    DATA/omniglot-py or DATA itself. Drawings are scaled from 105×105 to 28×28 by Lanczos resampling of the
    greyscale image and inverted, so that ink = 255. (Finn et al. 2017 say so too; but Pillow resamples 1-bit
    images, which their script handed it, by nearest neighbour.)

    Args:
        data: the folder; by default the environment variable FASTMAML_DATA.
        cache: keep the scaled images (25 MB) in FASTMAML_CACHE, by default ~/.cache/fastmaml, from where they
            load in a fraction of a second. A cache of other files, or a damaged one, is never used.

    Raises:
        FileNotFoundError: no folder is given, it does not exist, or it does not hold both parts.
        DatasetError: a zip file is cut short, a drawing cannot be read, or characters or drawings are missing.
    """
    root = _find(data)
    parts = [files.open_part(root, part) for part in files.PARTS]
    path = caches.path_for("omniglot", [line for part in parts for line in part.fingerprint()]) if cache else None
    arrays = caches.load(path, ("images", "names")) if path else None
    if arrays is None:
        arrays = _read(parts)
        if path:
            caches.store(path, arrays)
    return Omniglot(torch.from_numpy(arrays["images"]), tuple(arrays["names"].tolist()), root)


def _read(parts: list[files.Part]) -> dict[str, np.ndarray]:
    images = np.concatenate([part.images() for part in parts])
    return {"images": images, "names": np.array([name for part in parts for name in part.characters])}


def _find(data: str | Path | None) -> Path:
    folder = data_folder(data, "Omniglot")
    for name in FOLDERS:
        if any(files.locate(folder / name, part) for part in files.PARTS):
            return folder / name
    held = ", ".join([entry.name for entry in list_folder(folder)][:8]) or "nothing"
    wanted = " and ".join(f"{part}.zip" for part in files.PARTS)
    raise FileNotFoundError(
        f"data: {folder} holds no Omniglot but {held}; put {wanted}, or their extracted folders, "
        f"there or in {folder / FOLDERS[0]}"
    )


def _read_names(path: Path) -> list[str]:
    """Names of characters in a split file: {"background": {alphabet: [character, …]}, "evaluation": …}."""
    if not path.is_file():
        raise FileNotFoundError(f'data: {path} is absent; the Vinyals split needs it, split "random" does not')
    text = read_file(path, MAX_SPLIT_BYTES)
    try:
        content = json.loads(text)
        return [
            f"images_{part}/{alphabet}/{character}"
            for part, alphabets in content.items()
            for alphabet, characters in alphabets.items()
            for character in characters
        ]
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise DatasetError(f"data: {path} is cut short or no split file ({reason(error)}); fetch it anew") from error
