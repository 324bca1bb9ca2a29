"""What can be chosen, and what is said of what cannot."""

from __future__ import annotations

import argparse
from types import SimpleNamespace

import pytest

from bench import options, rivals
from bench.problem import CASES
from fastmaml import engines


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_to(SimpleNamespace(addoption=parser.add_argument))  # pytest's groups hand on to argparse
    return parser.parse_args(arguments)


def test_names_add_up():
    chosen = parsed("--case=sinusoid-1", "--case=functorch-omniglot", "--engine=gpu", "--patience=0.5", "--threads=4")
    assert chosen.case == ["sinusoid-1", "functorch-omniglot"]
    assert (chosen.engine, chosen.rival) == (["gpu"], None)
    assert (chosen.patience, chosen.threads) == (0.5, 4)


@pytest.mark.parametrize(("option", "allowed"), [("case", CASES), ("engine", engines.NAMES), ("rival", rivals.NAMES)])
def test_an_unknown_name_is_refused_with_the_known_ones(option, allowed, capsys):
    with pytest.raises(SystemExit):
        parsed(f"--{option}=nonsense")
    said = capsys.readouterr().err
    assert f"--{option}: invalid choice: 'nonsense'" in said
    assert all(name in said for name in allowed)


@pytest.mark.parametrize("given", ["--patience=0", "--patience=-1", "--patience=nan", "--patience=inf", "--patience=x"])
def test_patience_is_more_than_nothing_and_ends(given, capsys):
    with pytest.raises(SystemExit):
        parsed(given)
    assert "allowed are seconds, more than 0" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["--threads=0", "--threads=-2", "--threads=1.5"])
def test_threads_are_counted(given, capsys):
    with pytest.raises(SystemExit):
        parsed(given)
    assert "allowed are whole numbers from 1" in capsys.readouterr().err
