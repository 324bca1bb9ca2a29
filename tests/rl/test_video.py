"""fastmaml evaluate --video: an adapted policy as a GIF."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from fastmaml.cli import main
from fastmaml.recipes import POLICY_RECIPES
from fastmaml.rl.environments import video
from tests.rl.test_recipes import TINY

ROOT = Path(__file__).parents[2]


def test_an_adapted_policy_is_drawn(tmp_path, capsys):
    out, film = tmp_path / "run", tmp_path / "film.gif"
    assert main(["train", "nav2d", "--out", str(out), *TINY]) == 0
    assert main(["evaluate", str(out), "--video", str(film)]) == 0
    with Image.open(film) as image:
        shown = sum(frame.info["duration"] for frame in ImageSequence.Iterator(image))
        assert shown == 6 * 50 + 1000  # the start and 6 steps; equal ones are one
        image.seek(0)
        first = np.asarray(image.convert("RGB")).copy()
        image.seek(image.n_frames - 1)
        assert image.size == (240, 240)
        assert not np.array_equal(first, np.asarray(image.convert("RGB")))
    before = film.read_bytes()
    assert main(["evaluate", str(out), "--video", str(film)]) == 0
    assert film.read_bytes() == before  # the seed is that of the test tasks
    assert [path.name for path in tmp_path.iterdir() if "tmp" in path.name] == []
    capsys.readouterr()
    assert main(["evaluate", str(out), "--video", str(tmp_path / "film.mp4")]) == 2
    assert "only .gif is written" in capsys.readouterr().err
    assert main(["evaluate", str(out), "--video", str(tmp_path / "none" / "film.gif")]) == 2
    assert "does not exist; make it first" in capsys.readouterr().err


def test_actions_of_the_drawn_environment_are_those_of_the_simulator():
    recipe = POLICY_RECIPES["nav2d"](horizon=5)
    drawn = recipe.drawn(np.array([0.3, 0.2]))
    drawn.reset(seed=0)
    position, *_ = drawn.step(np.array([0.5, -2.0], np.float32))
    np.testing.assert_allclose(position, [0.05, -0.1], rtol=1e-6)


def test_where_nothing_can_be_drawn_it_says_what_to_set():
    def broken():
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    with pytest.raises(video.NoRenderer, match=r"cannot draw here .*eglQueryString.*MUJOCO_GL is"):
        video.frames(broken, None, None, np.random.default_rng(0))


def test_what_cannot_be_drawn_is_known_before_the_work(tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"
    assert main(["train", "nav2d", "--out", str(out), *TINY]) == 0
    capsys.readouterr()

    def broken(self, task):
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'\nand more")

    monkeypatch.setattr(POLICY_RECIPES["nav2d"], "drawn", broken)
    assert main(["evaluate", str(out), "--video", str(tmp_path / "film.gif")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("fastmaml: error: MuJoCo cannot draw here (AttributeError")
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("library", ["nonsense", "glfw"])
@pytest.mark.skipif("DISPLAY" in os.environ, reason="glfw draws here")
def test_faults_of_mujoco_gl_are_one_line(library, tmp_path):
    pytest.importorskip("mujoco")
    out = tmp_path / "run"
    assert main(["train", "cheetah-dir", "--out", str(out), *TINY]) == 0
    command = [sys.executable, "-m", "fastmaml", "evaluate", str(out), "--video", str(tmp_path / "film.gif")]
    environment = os.environ | {"MUJOCO_GL": library}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("fastmaml: error: MuJoCo cannot draw here")
    assert f"MUJOCO_GL is {library}" in done.stderr
    assert done.stderr.count("\n") == 1


_DRAW = "import sys, numpy\nfrom fastmaml.recipes import POLICY_RECIPES\n"
_DRAW += (
    "env = POLICY_RECIPES[sys.argv[1]](horizon=2).drawn(numpy.array(1.0))\nenv.reset(seed=0)\nprint(env.render().std())"
)


@pytest.mark.parametrize("recipe", [name for name in POLICY_RECIPES if name != "nav2d"])
def test_robots_are_drawn_where_mujoco_can(recipe, monkeypatch):
    pytest.importorskip("mujoco")
    for library in ("osmesa", "egl"):  # which of them works is only known to a process that tries
        monkeypatch.setenv("MUJOCO_GL", library)
        tried = subprocess.run([sys.executable, "-c", _DRAW, recipe], capture_output=True, text=True, timeout=120)
        if tried.returncode == 0:
            assert float(tried.stdout.split()[0]) > 10  # not one colour
            return
    pytest.skip(f"MuJoCo draws neither by OSMesa nor by EGL here: {tried.stderr.strip().splitlines()[-1]}")
