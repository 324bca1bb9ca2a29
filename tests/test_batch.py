"""Samples and TaskBatch: what they take, and what they say of the rest."""

import pytest
import torch
from torch.utils.data import DataLoader

from fastmaml import MAML, Samples, TaskBatch
from tests.problems import network, task_batch

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


def tasks(*counts):
    """(support_x, support_y, query_x, query_y) of each, with so many support samples."""
    return [
        (torch.randn(n, 3).double(), torch.randn(n, 2).double(), torch.randn(4, 3).double(), torch.randn(4, 2).double())
        for n in counts
    ]


def test_tasks_of_one_size_are_stacked():
    given = tasks(5, 5, 5)
    batch = TaskBatch.of_tasks(given)
    assert batch.support.weights is None
    assert batch.query.weights is None
    for index, task in enumerate(given):
        stacked = (batch.support.x, batch.support.y, batch.query.x, batch.query.y)
        assert all(torch.equal(whole[index], part) for whole, part in zip(stacked, task, strict=True))


def test_ragged_tasks_are_padded_and_count_as_they_are():
    given, maml = tasks(2, 5, 3), MAML(network(), lr=0.1)
    batch = TaskBatch.of_tasks(given)
    assert batch.support.weights.tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch.query.weights is None
    alone = [maml.meta_loss([part[None] for part in task]) for task in given]
    torch.testing.assert_close(maml.meta_loss(batch), torch.stack(alone).mean())


def test_tasks_have_all_forms_of_a_batch():
    given = tasks(2, 3)
    wanted = TaskBatch.of_tasks(given)
    forms = [
        [((sx, sy), (qx, qy)) for sx, sy, qx, qy in given],
        [{"train": (sx, sy), "test": (qx, qy)} for sx, sy, qx, qy in given],
        [(Samples(sx, sy, torch.ones(len(sx)).double()), Samples(qx, qy)) for sx, sy, qx, qy in given],
    ]
    for form in forms:
        found = TaskBatch.of_tasks(form)
        assert torch.equal(found.support.x, wanted.support.x)
        assert torch.equal(found.support.weights, wanted.support.weights)
        assert torch.equal(found.query.y, wanted.query.y)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_a_list_of_tasks_is_understood_where_a_batch_belongs(count):
    given, maml = tasks(*[3] * count), MAML(network(), lr=0.1)
    assert torch.equal(maml.meta_loss(given), maml.meta_loss(TaskBatch.of_tasks(given)))
    assert torch.equal(maml.meta_loss(tuple(given)), maml.meta_loss(given))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], ValueError, "tasks: given none"),
        ([X], TypeError, r"tasks\[0\]: given Tensor; allowed are \(support_x"),
        ([*tasks(2), tasks(2)[0][:3]], TypeError, r"tasks\[1\]: given a tuple of 3"),
        ([(X, None, X, Y)], TypeError, r"tasks\[0\]\.support\.y: given NoneType"),
        ([(X, Y[:2], X, Y)], ValueError, r"tasks\[0\]\.support\.y: given shape \[2, 4, 1\]"),
        ([(X, Y, X[:0], Y[:0])], ValueError, r"tasks\[0\]\.query\.x: given shape \[0, 4, 2\]"),
        ([*tasks(2), (X, Y, X, Y)], ValueError, r"tasks\[1\]\.support\.x: given torch.float32 \[3, 4, 2\] on cpu"),
    ],
)
def test_what_is_no_task_is_named(given, error, words):
    with pytest.raises(error, match=words):
        TaskBatch.of_tasks(given)


def test_a_data_loader_makes_meta_batches():
    given = tasks(2, 5, 3, 4)
    wanted = TaskBatch.of_tasks(given)
    loaders = [
        DataLoader(given, batch_size=4, collate_fn=TaskBatch.of_tasks),
        DataLoader([TaskBatch.of_tasks(given[:1]), TaskBatch.of_tasks(given[1:])], batch_size=2),
        DataLoader([TaskBatch.of_tasks(given)], batch_size=1),
    ]
    for loader in loaders:
        (batch,) = loader
        assert torch.equal(batch.support.x, wanted.support.x)
        assert torch.equal(batch.support.weights, wanted.support.weights)
        assert torch.equal(batch.query.x, wanted.query.x)
    (batch,) = DataLoader(tasks(3, 3), batch_size=2)
    assert TaskBatch.of(batch).support.x.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged), "nested.*of_tasks"),
        (torch.randn(3, 5, 3).to_mkldnn(), r"_mkldnn tensor; call .to_dense\(\) first"),
        (torch.randn(3, 5, 3).to_sparse(), r"sparse_coo tensor; call .to_dense\(\) first"),
    ],
)
def test_tensors_of_other_kinds_are_refused_by_name(tensor, words):
    batch, maml = task_batch(), MAML(network())
    maml.backward(batch)
    for verb in (maml.meta_loss, maml.backward):
        with pytest.raises(TypeError, match=f"support.x: given a .*{words}"):
            verb((tensor, batch.support.y, batch.query.x, batch.query.y))


def test_fake_tensors_are_refused_by_name():
    batch, maml = task_batch(), MAML(network())
    maml.backward(batch)
    with torch._subclasses.FakeTensorMode():
        fake = torch.empty(3, 5, 3, dtype=torch.float64)
    for verb in (maml.meta_loss, maml.backward):
        with pytest.raises(TypeError, match=r"support.x: given a FakeTensor, which holds no numbers"):
            verb((fake, batch.support.y, batch.query.x, batch.query.y))
