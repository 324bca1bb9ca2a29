"""An adapted policy as moving pictures: one episode of Gymnasium's environment, rendered and written as a GIF."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastmaml.rl.environments import MissingDependency, NoRenderer
from fastmaml.rl.policies import Policy

_PAUSE, _LAST = 50, 1000  # milliseconds of a frame, and of the last: MuJoCo's robots take 20 steps a second


def check_path(path: Path) -> None:
    """Raises ValueError unless a GIF is asked for, FileNotFoundError where its folder is missing."""
    if path.suffix.lower() != ".gif":
        raise ValueError(f"--video {path}: given a file that ends in {path.suffix!r}; only .gif is written")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--video {path}: the folder {path.parent} does not exist; make it first")


def check_renderer(make: Callable[[], Any]) -> None:
    """Draws one picture and throws it away; raises NoRenderer where that cannot be done. See `frames` for `make`."""
    _start(make, np.random.default_rng(0))[0].close()


def frames(
    make: Callable[[], Any], policy: type[Policy], act: Callable[[Tensor], Tensor], generator: np.random.Generator
) -> list[np.ndarray]:
    """Images [H, W, 3] of one episode, the first state included.

    Args:
        make: makes a Gymnasium environment with render_mode="rgb_array".
        act: outputs [1, 1, D] of the policy on observations [1, 1, O].
    Raises:
        NoRenderer: where nothing can be drawn, naming what to install or set.
    """
    environment, observation, image = _start(make, generator)
    images, ended = [image], False
    while not ended:
        outputs = act(torch.tensor(observation, dtype=torch.float32)[None, None])
        action = policy.sample(outputs, generator)[0, 0].numpy()
        observation, _, terminated, truncated, _ = environment.step(action)
        images.append(environment.render())
        ended = terminated or truncated
    environment.close()
    return images


def write(images: Sequence[np.ndarray], path: Path) -> None:
    """An endless GIF, whole or not at all."""
    pictures = [Image.fromarray(image) for image in images]
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], loop=0,
            duration=[_PAUSE] * (len(pictures) - 1) + [_LAST],
        )  # fmt: skip
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _start(make: Callable[[], Any], generator: np.random.Generator) -> tuple[Any, Any, np.ndarray]:
    """The environment, its first observation, and that drawn."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="glfw")  # the error that follows says it
            environment = make()
            observation, _ = environment.reset(seed=int(generator.integers(2**31)))
            return environment, observation, environment.render()
    except (MissingDependency, NoRenderer):
        raise
    except Exception as error:  # OpenGL's bindings raise whatever they meet
        raise NoRenderer(error) from error
