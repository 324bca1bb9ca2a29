"""Every rival takes the meta-gradient it is measured on."""

from __future__ import annotations

import pytest
import torch

from bench import rivals
from bench.contest import TOLERANCE, flat, ours, relative_error
from bench.problem import CASES, functorch, mini_imagenet, omniglot_mlp, sinusoid

# torch_compile takes minutes to compile, and learn2learn is downloaded: `python -m bench.cpu` checks these two.
HERE = [name for name in rivals.NAMES if name not in {"torch_compile", "learn2learn"}]
SMALL = {
    "sinusoid": lambda: sinusoid(2, tasks=2, points=3),
    "omniglot-mlp": lambda: omniglot_mlp(tasks=2, queries=2),
}


@pytest.mark.parametrize("problem", SMALL)
@pytest.mark.parametrize("name", HERE)
def test_rival_agrees_with_the_reference(name, problem):
    small = SMALL[problem]()
    before = flat(list(small.network.parameters())).clone()
    try:
        step = rivals.prepare(name, small)
    except rivals.Absent as absence:
        pytest.skip(str(absence))
    for _ in range(2):  # the second call must not start where the first one ended
        _, gradients = step()
        assert relative_error(flat(gradients), small.reference()) <= TOLERANCE
    assert torch.equal(flat(list(small.network.parameters())), before)


@pytest.mark.parametrize("case", ["sinusoid-1", "sinusoid-5", "omniglot-mlp", "omniglot-5way", "omniglot-20way"])
def test_cases_are_decided_by_more_than_rounding(case):
    problem = CASES[case]()
    assert relative_error(flat(ours(problem)()[1]), problem.reference()) <= TOLERANCE


POOLED = {
    "mini-imagenet": lambda: mini_imagenet(steps=2, tasks=1, queries=2),
    "functorch": lambda: functorch(steps=1, tasks=1),
}


@pytest.mark.parametrize("case", POOLED)
def test_pooled_cases_are_exact_in_float64(case):
    """In float32, some of their inputs lie within rounding of a kink, and eager PyTorch errs as much."""
    problem = POOLED[case]().to(torch.float64)
    assert relative_error(flat(ours(problem, "cpu")()[1]), problem.reference()) <= 1e-11


def test_unknown_rival():
    with pytest.raises(ValueError, match="'nobody'; allowed are loop, learn2learn"):
        rivals.prepare("nobody", sinusoid(1))
