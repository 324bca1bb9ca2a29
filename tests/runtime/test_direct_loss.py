"""meta_loss by the call that is prepared once: what it gives without, and what autograd makes of it."""

import io

import pytest
import torch

from fastmaml import MAML, Samples, TaskBatch
from fastmaml.runtime import direct
from tests.problems import gradients, network, served_by, task_batch

pytestmark = pytest.mark.usefixtures("told_by")


@pytest.fixture
def used(monkeypatch):
    """Whether each call of `direct.meta_gradient` has served."""
    return served_by("meta_gradient", monkeypatch)


def unprepared(maml, batch, steps=None):
    """(loss, details), the gradients being left in the parameters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "meta_gradient", lambda *_: None)
        loss, details = maml.meta_loss(batch, steps, details=True)
    maml.zero_grad()
    loss.backward()
    return loss, details


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_all_is_bit_for_bit_as_without(loss, ragged, dtype, used):
    maml = MAML(network(dtype=dtype), lr=0.1, steps=2, loss=loss, engine="cpu")
    for tasks, support, query in ((3, 5, 4), (2, 5, 4), (3, 5, 4)):
        batch = task_batch(tasks, support, query, loss=loss, dtype=dtype, ragged=ragged)
        for steps in (None, 1, 3):
            loss_wanted, details_wanted = unprepared(maml, batch, steps)
            wanted = gradients(maml)
            found, details = maml.meta_loss(batch, steps, details=True)
            assert torch.equal(found, loss_wanted)
            assert torch.equal(details.task_losses, details_wanted.task_losses)
            assert torch.equal(details.outputs, details_wanted.outputs)
            maml.zero_grad()
            found.backward()
            assert torch.equal(gradients(maml), wanted)
            maml.zero_grad()
            assert torch.equal(maml.backward(batch, steps), found)
            assert torch.equal(gradients(maml), wanted)
    assert set(used) == {True}


@pytest.fixture
def maml():
    return MAML(network(), lr=0.1, engine="cpu")


def minus_three():
    number = torch.complex(*torch.tensor([1.0, 3.0]).double()).conj().imag
    assert number.is_neg()  # its memory holds 3
    return number


@pytest.mark.parametrize(
    ("factor", "scale"),
    [
        (3, lambda: torch.tensor(3.0).double()),
        (3, lambda: torch.tensor(3.0)),
        (0, lambda: torch.tensor(0.0).double()),
        (2, lambda: torch.tensor([1.0, 2.0]).double()[1]),
        (-3, minus_three),
    ],
)
def test_the_gradient_of_the_loss_scales_that_of_the_parameters(factor, scale, maml, used):
    batch = task_batch()
    unprepared(maml, batch)
    wanted = gradients(maml)
    maml.zero_grad()
    maml.meta_loss(batch).backward(scale())
    assert torch.equal(gradients(maml), factor * wanted)
    assert used == [True]


def test_losses_of_batches_of_several_forms_in_one_graph(maml, used):
    batches = [task_batch(3, 5, 4), task_batch(2, 6, 3), task_batch(ragged=True)]
    wanted = 0
    for factor, batch in enumerate(batches, 1):
        unprepared(maml, batch)
        wanted = wanted + factor * gradients(maml)
    penalty = sum(p.square().sum() for p in maml.parameters())
    maml.zero_grad()
    penalty.backward()
    wanted = wanted + gradients(maml)
    maml.zero_grad()
    losses = [maml.meta_loss(batch) for batch in batches]
    total = sum(factor * loss for factor, loss in enumerate(losses, 1))
    (total + sum(p.square().sum() for p in maml.parameters())).backward()
    torch.testing.assert_close(gradients(maml), wanted)
    assert used == [True] * 3


def test_gradients_accumulate(maml):
    batch = task_batch()
    unprepared(maml, batch)
    wanted = 2 * gradients(maml)
    maml.zero_grad()
    first, second = maml.meta_loss(batch), maml.meta_loss(batch)
    first.backward()
    kept = [p.grad for p in maml.parameters()]
    second.backward()
    assert torch.equal(gradients(maml), wanted)
    assert all(p.grad is grad for p, grad in zip(maml.parameters(), kept, strict=True))


def test_the_gradient_is_that_of_the_parameters_as_they_were(maml, used):
    batch = task_batch()
    unprepared(maml, batch)
    wanted = gradients(maml)
    maml.zero_grad()
    loss = maml.meta_loss(batch)
    with torch.no_grad():
        for parameter in maml.parameters():
            parameter.mul_(2)
    maml.meta_loss(batch)
    loss.backward()
    assert torch.equal(gradients(maml), wanted)
    assert used == [True] * 2


def test_what_is_not_meta_learned_gets_none(used):
    maml, batch = MAML(network(), lr=0.1, meta_learned=["0.*", "2.weight", "4.bias"], engine="cpu"), task_batch()
    maml.model[2].weight.requires_grad_(False)
    unprepared(maml, batch)
    wanted = gradients(maml)
    maml.zero_grad()
    maml.meta_loss(batch).backward()
    assert torch.equal(gradients(maml), wanted)
    assert [name for name, p in maml.model.named_parameters() if p.grad is not None] == ["0.weight", "0.bias", "4.bias"]
    assert used == [True]


def test_hooks_run_and_may_change_gradients(maml, used):
    batch, called = task_batch(), []
    unprepared(maml, batch)
    weight = maml.model[0].weight
    wanted = weight.grad * 5
    weight.register_hook(lambda grad: 5 * grad)
    weight.register_post_accumulate_grad_hook(lambda p: called.append(p.grad.clone()))
    maml.zero_grad()
    loss = maml.meta_loss(batch)
    loss.register_hook(lambda grad: called.append(grad.item()))
    loss.backward()
    assert called[0] == 1
    assert torch.equal(called[1], wanted)
    assert torch.equal(weight.grad, wanted)
    assert used == [True]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("foreach", [False, True])
def test_what_is_done_with_gradients_finds_them_apart(foreach, optimizer, maml):
    batch = task_batch()
    of_maml = optimizer(maml.parameters(), lr=0.1, foreach=foreach)
    for _ in range(3):
        of_maml.zero_grad(set_to_none=False)
        maml.meta_loss(batch).backward()
        unclipped = gradients(maml)
        norm = torch.nn.utils.clip_grad_norm_(maml.parameters(), 1e-3, foreach=foreach)
        torch.testing.assert_close(norm, unclipped.norm())
        torch.testing.assert_close(gradients(maml), unclipped * 1e-3 / (norm + 1e-6))
        of_maml.step()
    for parameter in maml.parameters():
        assert parameter.grad.is_contiguous()
        assert parameter.grad.untyped_storage().nbytes() == parameter.grad.nbytes
        file = io.BytesIO()
        torch.save(parameter.grad, file)
        file.seek(0)
        assert torch.equal(torch.load(file), parameter.grad)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_no_graph_where_none_is_wanted(context, maml):
    batch = task_batch()
    wanted, _ = unprepared(maml, batch)
    with context():
        loss = maml.meta_loss(batch)
    assert torch.equal(loss, wanted)
    assert not loss.requires_grad
    assert not loss.is_inference()


def replaced(maml):
    maml.model[2].weight = torch.nn.Parameter(torch.ones_like(maml.model[2].weight))


def moved_to_new_memory(maml):
    maml.model[2].weight.data = maml.model[2].weight.data * 2


def frozen(maml):
    maml.model[2].weight.requires_grad_(False)


def transposed(maml):
    maml.model[0].weight.data = maml.model[0].weight.data.t().contiguous().t()


def single(maml):
    maml.float()


@pytest.mark.parametrize("change", [replaced, moved_to_new_memory, frozen, transposed, single])
def test_a_change_between_two_calls_is_noticed(change, maml, used):
    batch = task_batch()
    maml.meta_loss(batch)
    change(maml)
    batch = batch.to(maml.model[0].weight.dtype)
    loss_wanted, _ = unprepared(maml, batch)
    wanted = gradients(maml)
    maml.zero_grad()
    loss = maml.meta_loss(batch)
    loss.backward()
    assert torch.equal(loss, loss_wanted)
    assert torch.equal(gradients(maml), wanted)
    assert used == [True, change is not transposed]


def of_support(x=None, y=None, weights=None):
    """Another support set in a batch, of functions on x and y."""

    def spoil(batch):
        support = batch.support
        return TaskBatch(
            Samples(x(support.x) if x else support.x, y(support.y) if y else support.y, weights and weights(support.y)),
            batch.query,
        )

    return spoil


@pytest.mark.parametrize(
    ("loss", "spoil"),
    [
        ("mse", of_support(x=lambda x: x[1:], y=lambda y: y[1:])),
        ("mse", of_support(x=torch.Tensor.float)),
        ("mse", of_support(y=lambda y: y[..., 0])),
        ("mse", of_support(x=lambda x: x * torch.nan)),
        ("mse", of_support(y=lambda y: y / 0)),
        ("mse", of_support(x=torch.Tensor.tolist)),
        ("mse", of_support(weights=lambda y: torch.zeros(y.shape[:2]).double())),
        ("cross_entropy", of_support(y=lambda y: y + 2)),
        ("cross_entropy", of_support(y=lambda y: -1 - y)),
        ("cross_entropy", of_support(weights=lambda y: y - 5.0)),
    ],
)
def test_errors_are_told_as_without(loss, spoil):
    maml, batch = MAML(network(), loss=loss, engine="cpu"), task_batch(loss=loss)
    maml.meta_loss(batch)
    wrong = spoil(batch)
    with pytest.raises((TypeError, ValueError)) as wanted:
        unprepared(maml, wrong)
    for _ in range(2):
        with pytest.raises(wanted.type) as found:
            maml.meta_loss(wrong)
        assert str(found.value) == str(wanted.value)


def test_divergence_shows_in_loss_and_gradients(used):
    maml, batch = MAML(network(activation=torch.nn.ReLU), lr=1e200, steps=3, engine="cpu"), task_batch()
    loss = maml.meta_loss(batch)
    loss.backward()
    assert not loss.isfinite()
    assert not gradients(maml).isfinite().all()
    assert used == [False]
