"""What holds of the process before torch is loaded, and what is told of the machine and the checkout."""

from __future__ import annotations

import os
import sys

import pytest

from bench.environment import FAIR, commit, machine, set_fair


@pytest.fixture
def _unfair(monkeypatch):
    for name in FAIR:
        monkeypatch.setenv(name, "otherwise")


def test_the_commit_is_told_without_git_too(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("FASTMAML_COMMIT", "from elsewhere")
    assert commit() == "from elsewhere"


@pytest.mark.usefixtures("_unfair")
def test_fairness_comes_too_late_where_torch_is_loaded():
    assert "torch" in sys.modules
    assert not set_fair()
    assert {name: os.environ[name] for name in FAIR} == FAIR
    assert set_fair()  # as a process sees it that was started under them


@pytest.mark.usefixtures("_unfair")
def test_fairness_in_time(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")
    assert set_fair()


def test_the_machine_is_told_with_both_instruction_sets():
    facts = machine()
    assert {"processor", "cores", "torch", "torch instruction set", "fastmaml instruction set"} <= set(facts)
    assert all(facts.values())
