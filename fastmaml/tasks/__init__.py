"""Where TaskBatches come from."""

from fastmaml.tasks.base import BlockSource, TaskSource, TaskStream
from fastmaml.tasks.episodes import QUARTER_TURNS, Episodes
from fastmaml.tasks.errors import DatasetError
from fastmaml.tasks.images import ImageClasses, load_image_parts
from fastmaml.tasks.omniglot import Omniglot, load_omniglot
from fastmaml.tasks.sinusoid import SineWaves, Sinusoid
from fastmaml.tasks.splits import Split, random_split

__all__ = [
    "QUARTER_TURNS",
    "BlockSource",
    "DatasetError",
    "Episodes",
    "ImageClasses",
    "Omniglot",
    "SineWaves",
    "Sinusoid",
    "Split",
    "TaskSource",
    "TaskStream",
    "load_image_parts",
    "load_omniglot",
    "random_split",
]
