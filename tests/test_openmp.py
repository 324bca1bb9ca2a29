"""Idle OpenMP threads sleep wherever fastmaml comes before torch, and `doctor` says where they do not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmaml import openmp

ROOT = Path(__file__).parent.parent
REPORT = "from fastmaml import openmp; print(*openmp.report(), sep='\\n')"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python, with nothing about OpenMP in its environment but what is given."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=clean | environment, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="asks GNU's OpenMP what it has read")
@pytest.mark.parametrize("arguments", [["-c", "import fastmaml"], ["-m", "fastmaml", "--version"]])
def test_openmp_itself_has_read_it(arguments):
    said = run(*arguments, OMP_DISPLAY_ENV="VERBOSE").stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("torch's OpenMP here is not GNU's")
    assert "GOMP_SPINCOUNT = '0'" in said
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said


def test_processes_started_from_it_inherit_it():
    child = "import os; print(os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'])"
    started = f"import fastmaml, subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    assert run("-c", started).stdout.split() == ["PASSIVE", "0"]


def test_nothing_of_torch_comes_before_it():
    seen = "import sys; import fastmaml.openmp as openmp; print(openmp._STATE)"
    assert run("-c", seen).stdout.strip() == "set"


@pytest.mark.parametrize(
    "given", [{"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}]
)
def test_what_the_user_has_set_stays(given):
    shown = "import fastmaml, os; print({n: v for n, v in os.environ.items() if 'WAIT' in n or 'SPIN' in n})"
    assert run("-c", shown, **given).stdout.strip() == str(given)


def test_the_report_says_who_decided_and_what_to_do():
    said = run("-c", REPORT).stdout
    assert said.startswith("OMP_WAIT_POLICY=PASSIVE, GOMP_SPINCOUNT=0, set by fastmaml")
    assert "imports torch before fastmaml must do so itself" in said
    late = run("-c", f"import torch; {REPORT}").stdout
    assert "OMP_WAIT_POLICY: not set, and torch came before fastmaml" in late
    assert "start the program with OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0" in late
    active = run("-c", REPORT, OMP_WAIT_POLICY="ACTIVE").stdout
    assert active.startswith("OMP_WAIT_POLICY=ACTIVE, from the environment")
    assert "threads spin" in active
    assert "spin" not in run("-c", REPORT, OMP_WAIT_POLICY="PASSIVE").stdout


def test_doctor_has_it(capsys):
    from fastmaml.cli import main

    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert all(line in said for line in openmp.report())
    assert "OMP_WAIT_POLICY" in said
