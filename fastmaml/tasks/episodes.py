"""N-way K-shot episodes from images that lie in memory, drawn as one gather per meta-batch."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from fastmaml.batch import Samples, TaskBatch
from fastmaml.tasks.base import TaskStream, check_count

QUARTER_TURNS = (0, 90, 180, 270)


class Episodes:
    """Few-shot classification tasks from images grouped by class (Finn et al. 2017, section 5.2).

    A task takes `ways` classes at random and names them 0 … ways - 1 in random order; of each it takes
    `shots + queries` samples, all distinct. x is float32 in [0, 1], [T, ways · shots, channels, H, W], and y
    int64 [T, ways · shots], class after class; the query set likewise.

    With rotations, a class turned by another angle is another class: each drawn class is turned by a random
    one of the angles, the same for all its samples, and a task never holds one class at two angles. Finn et
    al.'s code does so for its test tasks as well as for its training tasks; for plain test tasks leave
    `rotations` out.

    Args:
        images: uint8 [classes, samples, H, W] or [classes, samples, channels, H, W], on any device. Every
            rotation is kept in memory beside it.
        ways: classes of a task.
        shots: support samples of each class.
        queries: query samples of each class; as many as `shots` if None, which is Finn et al.'s choice.
        rotations: angles in degrees, counter-clockwise, multiples of 90, e.g. `QUARTER_TURNS`.
        counts: int64 [classes], how many of its samples each class really has, the first ones; None for all.
        names: of the classes, for errors.

    Raises:
        TypeError: `images` is not a uint8 tensor.
        ValueError: `images` has another rank or no classes; more `ways` than classes, or more samples wanted
            of a class than it has; `rotations` empty, repeated, not multiples of 90, or of images that are
            not square.
    """

    def __init__(
        self,
        images: Tensor,
        ways: int,
        shots: int,
        queries: int | None = None,
        rotations: Sequence[int] = (0,),
        counts: Tensor | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        _check_images(images)
        self.classes, self.samples = images.shape[:2]
        self.ways = check_count("ways", ways)
        self.shots = check_count("shots", shots)
        self.queries = self.shots if queries is None else check_count("queries", queries)
        self._counts = None if counts is None or bool((counts == self.samples).all()) else counts.cpu()
        self._check_enough(names)
        self.rotations = _check_rotations(rotations, images)
        self._shape = (1, *images.shape[2:])[-3:]  # channels, H, W
        turned = [torch.rot90(images, angle // 90, dims=(-2, -1)) for angle in self.rotations]
        # [rotations · classes · samples, pixels]
        self._store = torch.cat([part.reshape(self.classes * self.samples, -1) for part in turned])
        labels = torch.arange(self.ways, device=images.device)
        self._support_labels = labels.repeat_interleave(self.shots)  # [ways · shots]
        self._query_labels = labels.repeat_interleave(self.queries)

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """One meta-batch of `num_tasks` tasks, on the device of the images."""
        rows = self._draw(check_count("num_tasks", num_tasks), generator)
        indices = torch.cat([part.flatten() for part in rows]).to(self._store.device)
        x = self._store.index_select(0, indices).to(torch.float32).div_(255)
        support_x, query_x = x.split([part.numel() for part in rows])
        return TaskBatch(
            Samples(support_x.view(num_tasks, -1, *self._shape), self._support_labels.repeat(num_tasks, 1)),
            Samples(query_x.view(num_tasks, -1, *self._shape), self._query_labels.repeat(num_tasks, 1)),
        )

    @property
    def device(self) -> torch.device:
        """Where the images lie; a trainer draws on it, so that on a GPU an episode makes no trip to the host."""
        return self._store.device

    def to(self, device: torch.device | str) -> Episodes:
        """The same episodes from images on another device, where they stay uint8."""
        moved = copy.copy(self)
        for name in ("_store", "_support_labels", "_query_labels"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved

    def stream(self, num_tasks: int, generator: torch.Generator) -> TaskStream:
        """An endless iterator of meta-batches that resumes exactly; what a trainer draws from."""
        return TaskStream(self, num_tasks, generator)

    def _draw(self, num_tasks: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Rows of the store: support [T, ways, shots] and query [T, ways, queries]."""
        shape = (num_tasks, self.ways)
        classes = _distinct(self.ways, (num_tasks, self.classes), generator)  # [T, ways]
        counts = None if self._counts is None else self._counts.to(classes.device)[classes]
        if len(self.rotations) > 1:
            turn = torch.randint(len(self.rotations), shape, generator=generator, device=generator.device)
            classes = classes + turn * self.classes
        samples = _distinct(self.shots + self.queries, (*shape, self.samples), generator, counts)
        rows = classes[..., None] * self.samples + samples  # [T, ways, shots + queries]
        return rows[..., : self.shots], rows[..., self.shots :]

    def _check_enough(self, names: Sequence[str] | None) -> None:
        if self.ways > self.classes:
            raise ValueError(f"ways={self.ways}, but images holds {self.classes} classes; give at most that many")
        fewest = self.samples if self._counts is None else int(self._counts.min())
        if self.shots + self.queries > fewest:
            named = f" of '{names[int(self._counts.argmin())]}'" if names and self._counts is not None else ""
            raise ValueError(
                f"shots={self.shots} and queries={self.queries} need {self.shots + self.queries} samples "
                f"of a class, but images holds {fewest}{named}; lower one of them"
            )


def _distinct(count: int, shape: tuple[int, ...], generator: torch.Generator, limits: Tensor | None = None) -> Tensor:
    """`count` distinct indices into the last dimension of `shape`, each below its limit, in random order: the places of
    the largest of as many random numbers. topk must sort, or the order would not be random."""
    keys = torch.rand(shape, generator=generator, device=generator.device)
    if limits is not None:
        keys = keys.masked_fill(torch.arange(shape[-1], device=keys.device) >= limits[..., None], -1.0)
    return keys.topk(count, sorted=True).indices


def _check_images(images: Tensor) -> None:
    if not isinstance(images, Tensor) or images.dtype != torch.uint8:
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images is {given}: give a torch.uint8 tensor with values 0 to 255")
    if images.dim() not in (4, 5) or images.numel() == 0:
        raise ValueError(
            f"images has shape {tuple(images.shape)}: give [classes, samples, H, W] or "
            "[classes, samples, channels, H, W], none of them zero"
        )


def _check_rotations(rotations: Sequence[int], images: Tensor) -> tuple[int, ...]:
    angles = tuple(rotations)
    if not angles or len(set(angles)) < len(angles) or not set(angles) <= set(QUARTER_TURNS):
        raise ValueError(f"rotations={angles}: give some of {QUARTER_TURNS} degrees, each once")
    height, width = images.shape[-2:]
    if height != width and {90, 270} & set(angles):
        raise ValueError(
            f"rotations={angles} of {height}×{width} images: only square images can be turned by 90 degrees"
        )
    return angles
