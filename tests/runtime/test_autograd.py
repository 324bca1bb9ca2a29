"""The loss that autograd knows, in every way that gradients are asked for."""

import gc
import io
import weakref

import pytest
import torch

from fastmaml import MAML
from tests.problems import gradients, network, task_batch


@pytest.fixture(params=[False, "parameter"], ids=["fixed", "learned"])
def maml(request):
    return MAML(network(), lr=0.1, steps=2, learn_lr=request.param)


@pytest.fixture
def batch():
    return task_batch()


def wanted(maml, batch):
    """The gradients as autograd.grad gives them."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(maml.meta_loss(batch), list(maml.parameters()))])


@pytest.mark.parametrize(
    ("factor", "backward"),
    [
        (1, lambda loss, ps: loss.backward()),
        (2, lambda loss, ps: (2 * loss).backward()),
        (3, lambda loss, ps: loss.backward(torch.tensor(3.0).double())),
        (2, lambda loss, ps: loss.mul_(2).backward()),
        (2, lambda loss, ps: loss.add_(loss.clone()).backward()),
        (0.5, lambda loss, ps: loss.div(2).backward()),
        (2, lambda loss, ps: torch.stack([loss, loss]).sum().backward()),
        (1, lambda loss, ps: loss.backward(inputs=ps)),
        (2, lambda loss, ps: (loss.backward(retain_graph=True), loss.backward())),
    ],
)
def test_all_ways_to_ask_agree(maml, batch, factor, backward):
    backward(maml.meta_loss(batch), list(maml.parameters()))
    torch.testing.assert_close(gradients(maml), factor * wanted(maml, batch))
    assert all(p.grad.shape == p.shape for p in maml.parameters())


def test_gradients_are_not_the_memory_of_the_graph(maml, batch):
    loss = maml.meta_loss(batch)
    loss.backward(retain_graph=True)
    for parameter in maml.parameters():
        parameter.grad.zero_()  # as clipping would, in place
    loss.backward()
    torch.testing.assert_close(gradients(maml), wanted(maml, batch))


def test_hooks_are_called(maml, batch):
    called = []
    parameter = maml.model[0].weight
    handles = [
        parameter.register_hook(lambda g: 5 * g),
        parameter.register_post_accumulate_grad_hook(lambda p: called.append("accumulated")),
    ]
    loss = maml.meta_loss(batch)
    loss.register_hook(lambda g: called.append("loss"))
    loss.backward()
    assert called == ["loss", "accumulated"]
    scaled = parameter.grad.clone()
    for handle in handles:
        handle.remove()
    maml.zero_grad()
    maml.meta_loss(batch).backward()
    torch.testing.assert_close(scaled, 5 * parameter.grad)


def test_parameters_that_are_no_leaves_pass_the_gradient_on(batch):
    maml = MAML(network(), lr=0.1)
    scale = torch.tensor(2.0).double().requires_grad_()
    original = maml.model[0].weight
    plain = torch.autograd.grad(maml.meta_loss(batch), original)[0]
    maml.model[0]._parameters["weight"] = original.detach() / 2 * scale
    maml.meta_loss(batch).backward()
    torch.testing.assert_close(scale.grad, (plain * original.detach() / 2).sum())


@pytest.mark.filterwarnings("ignore:Using backward")
@pytest.mark.parametrize(
    "differentiate",
    [
        lambda loss, ps: loss.backward(create_graph=True),
        lambda loss, ps: torch.autograd.grad(loss, ps, create_graph=True),
    ],
)
def test_second_derivatives_are_refused(maml, batch, differentiate):
    with pytest.raises(RuntimeError, match="meta_loss has no second derivative"):
        differentiate(maml.meta_loss(batch), list(maml.parameters()))


def test_torch_func_is_refused(maml, batch):
    with pytest.raises(RuntimeError, match=r"meta_loss cannot be transformed by torch\.func"):
        torch.func.grad(lambda x: x * maml.meta_loss(batch))(torch.tensor(1.0).double())


def test_the_loss_is_an_ordinary_tensor(maml, batch):
    loss = maml.meta_loss(batch)
    assert type(loss) is torch.Tensor
    assert loss.shape == ()
    assert f"{loss:.3f}" == f"{loss.item():.3f}"
    file = io.BytesIO()
    torch.save(loss, file)
    file.seek(0)
    assert torch.load(file) == loss


def test_a_graph_is_freed_with_its_loss(maml, batch):
    loss = maml.meta_loss(batch)
    node = weakref.ref(loss.grad_fn)
    gc.disable()
    try:
        del loss
        assert node() is None  # no cycle has to be collected
    finally:
        gc.enable()


@pytest.mark.parametrize("again", [lambda loss, ps: loss.backward(), lambda loss, ps: torch.autograd.grad(loss, ps)])
def test_a_second_backward_is_an_error_as_everywhere_in_torch(maml, batch, again):
    loss = maml.meta_loss(batch)
    loss.backward()
    before = gradients(maml)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        again(loss, list(maml.parameters()))
    assert torch.equal(gradients(maml), before)


def test_details_say_that_they_are_in_no_graph(maml, batch):
    _, details = maml.meta_loss(batch, details=True)
    assert not details.task_losses.requires_grad
    assert not details.outputs.requires_grad
    assert "in no graph" in repr(details)
