"""`pytest bench`, as it is started: what is timed, what is refused, and what is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.environment import FAIR, ROOT
from fastmaml import engines

QUICK = ["--benchmark-max-time=0.01", "--benchmark-min-rounds=2", "--case=sinusoid-1", "-p", "no:cacheprovider"]

WRONG = """
from bench.rivals import loop

right = loop.prepare

def prepare(problem):
    step = right(problem)
    return lambda: (step()[0], [gradient * 1.001 for gradient in step()[1]])

def pytest_collection_finish():
    loop.prepare = prepare
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", *arguments, f"--benchmark-storage={folder}"]
    path = os.pathsep.join([str(folder), *sys.path])
    # nor does it hear of pytest-xdist, under whose workers pytest-benchmark times nothing
    kept = {name: value for name, value in os.environ.items() if name not in FAIR and "XDIST" not in name}
    environment = kept | {"PYTHONPATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_right_answers_get_a_time_and_wrong_ones_do_not(tmp_path):
    (tmp_path / "one_is_wrong.py").write_text(WRONG)
    result = tmp_path / "result.json"
    chosen = ["--engine=cpu", "--engine=functional", "--rival=loop", "-p", "one_is_wrong"]
    done = pytest_in(tmp_path, "bench", *QUICK, *chosen, f"--benchmark-json={result}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "loop on sinusoid-1: wrong: relative error 1.0e-03 is above 1e-04" in done.stdout
    found = json.loads(result.read_text())
    names = [entry["name"].removeprefix("test_step[sinusoid-1-") for entry in found["benchmarks"]]
    assert names == ["cpu]", "cpu-autograd]", "functional]", "functional-autograd]"]
    for entry in found["benchmarks"]:
        assert entry["group"] == "sinusoid-1"
        assert entry["stats"]["median"] > 0
        assert entry["stats"]["rounds"] >= 1
        assert entry["extra_info"]["relative_error"] < 1e-5
    assert {"torch", "threads", "fastmaml instruction set"} <= found["machine_info"]["fastmaml"].keys()
    assert found["machine_info"]["fastmaml"]["GOMP_SPINCOUNT"] == "0"
    assert found["commit_info"]["fastmaml"]


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    done = pytest_in(tmp_path, "bench", "--engine=nonsense")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "'nonsense' (choose from " in done.stderr
    assert all(name in done.stderr for name in engines.NAMES)


def test_nothing_here_is_timed(request):
    with pytest.raises(pytest.fail.Exception, match=r"nothing is timed in tests/"):
        request.getfixturevalue("benchmark")
