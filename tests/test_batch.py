"""Samples and TaskBatch: what they take, and what they say of the rest."""

import pytest
import torch

from fastmaml import Samples, TaskBatch

X, Y = torch.randn(3, 4, 2), torch.randn(3, 4, 1)


@pytest.mark.parametrize(
    "given",
    [
        TaskBatch(Samples(X, Y), Samples(X, Y)),
        (X, Y, X, Y),
        [X, Y, X, Y],
        (Samples(X, Y), (X, Y)),
        {"train": (X, Y), "test": (X, Y)},
    ],
    ids=["itself", "tuple", "list", "samples", "torchmeta"],
)
def test_forms(given):
    batch = TaskBatch.of(given)
    batch.check()
    assert batch.num_tasks == 3
    assert batch.support.num_samples == 4
    assert all(t is s for t, s in zip((batch.support.x, batch.query.y), (X, Y), strict=True))


def test_torchmeta_with_weights():
    weights = torch.ones(3, 4)
    assert TaskBatch.of({"train": (X, Y, weights), "test": (X, Y)}).support.weights is weights


@pytest.mark.parametrize("given", [X, (X, Y), (X, Y, X), {"train": (X, Y)}, None, {"train": X, "test": Y}])
def test_other_forms_are_refused(given):
    with pytest.raises(TypeError, match=r"given .*; allowed are .*\(x, y\)"):
        TaskBatch.of(given)


def test_to_converts_numbers_but_not_labels():
    labels = torch.zeros(3, 4, dtype=torch.int64)
    moved = TaskBatch(Samples(X, labels, torch.ones(3, 4)), Samples(X, Y)).to("cpu", torch.float64)
    assert (moved.support.x.dtype, moved.support.weights.dtype, moved.query.y.dtype) == (torch.float64,) * 3
    assert moved.support.y.dtype == torch.int64


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        ((X.tolist(), Y, X, Y), TypeError, "support.x: given a list of 3; allowed is a torch.Tensor"),
        ((X, None, X, Y), TypeError, "support.y: given NoneType"),
        ((X[0, 0], Y, X, Y), ValueError, r"support.x: given shape \[2\]; allowed is \[T, N, ...\]"),
        ((X, Y, X[:, :0], Y[:, :0]), ValueError, r"query.x: given shape \[3, 0, 2\]; at least one task"),
        ((X[:0], Y[:0], X[:0], Y[:0]), ValueError, r"support.x: given shape \[0, 4, 2\]; at least one task"),
        ((X, Y[:, :3], X, Y), ValueError, r"support.y: given shape \[3, 3, 1\], but support.x has 3 tasks of 4"),
        ((X, Y, X[:2], Y[:2]), ValueError, "query.x: given 2 tasks, but support.x has 3"),
        ((X.to_sparse(), Y, X, Y), TypeError, "support.x: given a torch.sparse_coo tensor"),
        ((Samples(X, Y, torch.ones(3, 4, 1)), Samples(X, Y)), ValueError, "support.weights: given .*allowed are"),
        ((Samples(X, Y), Samples(X, Y, torch.ones(3, 5))), ValueError, r"query.weights: given shape \[3, 5\]"),
        ((Samples(X, Y, torch.ones(3, 4).bool()), Samples(X, Y)), ValueError, "support.weights: given torch.bool"),
    ],
)
def test_check_names_what_is_wrong(batch, error, words):
    with pytest.raises(error, match=words):
        TaskBatch.of(batch).check()
