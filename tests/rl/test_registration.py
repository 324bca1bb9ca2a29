"""The environments by name, and what is said where a package is missing."""

from __future__ import annotations

import subprocess
import sys

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from fastmaml.rl import Ant, GymnasiumEnvironment, HalfCheetah, MissingDependency
from fastmaml.rl.environments.registration import ENTRY_POINTS


@pytest.mark.filterwarnings("ignore:.*observation space m.*imum value is:UserWarning")  # they are unbounded
@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_gymnasiums_checker_passes(name):
    environment = gymnasium.make(name)
    check_env(environment.unwrapped, skip_render_check="Navigation" not in name)  # others need a display
    assert environment.spec.max_episode_steps == (100 if "Navigation" in name else 200)


def test_gymnasium_finds_them_by_the_module_alone():
    program = (
        "import gymnasium, sys\n"
        "environment = gymnasium.make('fastmaml.rl:fastmaml/Navigation2D-v0', goal=(0.1, 0.2))\n"
        "print(environment.unwrapped.goal.tolist(), 'mujoco' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split("\n")[-2] == "[0.1, 0.2] False"


@pytest.mark.parametrize("robot", [HalfCheetah, Ant])
@pytest.mark.parametrize("package", ["mujoco", "gymnasium"])
def test_a_missing_package_names_the_extra(robot, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependency, match=rf"needs {package}, .* pip install 'fastmaml\[rl\]'"):
        robot()


@pytest.mark.parametrize("robot", ["HalfCheetah", "Ant"])
def test_a_missing_mujoco_names_the_extra_through_gymnasium_too(robot, monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.delitem(sys.modules, "fastmaml.rl.environments.locomotion_env", raising=False)
    with pytest.raises(MissingDependency, match=r"pip install 'fastmaml\[rl\]'"):
        gymnasium.make(f"fastmaml/{robot}Direction-v0")


def test_without_gymnasium_the_rest_works_and_users_environments_say_what_is_missing():
    program = (
        "import sys\n"
        "sys.modules['gymnasium'] = None\n"
        "import numpy, fastmaml.rl\n"
        "fastmaml.rl.Navigation2D().reset(numpy.zeros((1, 2)), 1, numpy.random.default_rng(0))\n"
        "try:\n"
        "    fastmaml.rl.GymnasiumEnvironment(None, None)\n"
        "except ImportError as error:\n"
        "    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "pip install 'fastmaml[rl]'" in done.stdout
    assert GymnasiumEnvironment
