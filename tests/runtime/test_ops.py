"""The custom op, and torch.compile of what surrounds a meta-step."""

import copy
import gc

import pytest
import torch

from fastmaml import MAML, TaskBatch
from fastmaml.runtime import ops
from tests.problems import gradients, network, task_batch

BACKEND = "aot_eager"  # compiles nothing, but traces and differentiates as inductor would


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def arguments(maml, batch, details=True):
    support, query = batch.support, batch.query
    return (
        *(list(maml.model.parameters()), maml.inner_lr),
        *(support.x, support.y, support.weights, query.x, query.y, query.weights, batch.weights),
        *(maml._handle, 2, details, False),
    )


@pytest.mark.parametrize("learn", [False, "parameter", "element"])
@pytest.mark.parametrize(("loss", "ragged", "details"), [("mse", False, True), ("cross_entropy", True, False)])
def test_opcheck(learn, loss, ragged, details):
    maml, batch = MAML(network(), loss=loss, learn_lr=learn), task_batch(loss=loss, ragged=ragged)
    torch.library.opcheck(torch.ops.fastmaml.meta_loss.default, arguments(maml, batch, details))


def regularised(maml, batch):
    return 2 * maml.meta_loss(batch) + sum(p.square().sum() for p in maml.parameters())


@pytest.mark.parametrize("learn", [False, "parameter"])
@pytest.mark.parametrize("ragged", [False, True])
def test_compiled_is_as_uncompiled(learn, ragged):
    model = network()
    model[2].bias.requires_grad_(False)
    maml = MAML(model, lr=0.1, steps=2, learn_lr=learn, meta_learned=["0.*", "2.*"])
    compiled = torch.compile(regularised, fullgraph=True, backend=BACKEND)
    for batch in (task_batch(ragged=ragged), task_batch(tasks=5, ragged=ragged)):
        loss = compiled(maml, batch)
        loss.backward()
        found = gradients(maml)
        maml.zero_grad()
        wanted = regularised(maml, batch)
        wanted.backward()
        torch.testing.assert_close(loss, wanted.as_subclass(torch.Tensor))
        torch.testing.assert_close(found, gradients(maml))
        maml.zero_grad()


def test_what_is_not_meta_learned_gets_none():
    maml = MAML(network(), meta_learned=["0.*"])
    torch.compile(lambda batch: maml.meta_loss(batch), fullgraph=True, backend=BACKEND)(task_batch()).backward()
    assert [p.grad is None for p in maml.parameters()] == [False, False, True, True, True, True]


def test_details_and_forms_of_a_batch():
    maml, batch = MAML(network()), task_batch()

    @torch.compile(fullgraph=True, backend=BACKEND)
    def step(form):
        loss, details = maml.meta_loss(form, details=True, steps=3)
        return loss, details.outputs, details.task_losses

    wanted, details = maml.meta_loss(batch, details=True, steps=3)
    support, query = batch.support, batch.query
    for form in (batch, (support.x, support.y, query.x, query.y)):
        loss, outputs, losses = step(form)
        assert torch.equal(loss, wanted)
        assert torch.equal(outputs, details.outputs)
        assert torch.equal(losses, details.task_losses)


def test_a_whole_training_step():
    models = [network() for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())

    def training(maml):
        optimizer = torch.optim.SGD(maml.parameters(), lr=0.1, momentum=0.9)

        def step(batch):
            optimizer.zero_grad()
            loss = maml.meta_loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(maml.parameters(), 1.0)
            optimizer.step()
            return loss.detach()

        return step

    plain, compiled = (training(MAML(model, lr=0.1)) for model in models)
    compiled = torch.compile(compiled, backend=BACKEND)
    for _ in range(3):
        batch = task_batch()
        torch.testing.assert_close(plain(batch), compiled(batch))
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, q)


def test_a_loss_may_enter_compiled_code():
    maml, batch = MAML(network()), task_batch()
    double = torch.compile(lambda loss: loss * 2, fullgraph=True, backend="eager")
    double(maml.meta_loss(batch)).backward()
    found = gradients(maml)
    maml.zero_grad()
    maml.meta_loss(batch).backward()
    torch.testing.assert_close(found, 2 * gradients(maml))


def test_errors_are_those_of_uncompiled_code():
    maml, batch = MAML(network()), task_batch()
    compiled = torch.compile(lambda b: maml.meta_loss(b), fullgraph=True, backend=BACKEND)
    bad = TaskBatch(batch.support, type(batch.query)(batch.query.x, batch.query.y * torch.nan))
    with pytest.raises(ValueError, match=r"query\.y: holds NaN or infinity"):
        compiled(bad)


def test_an_output_shape_that_no_plan_tells():
    maml, batch = MAML(torch.nn.Sequential(network(), torch.nn.GELU()), loss="mse"), task_batch()
    with pytest.raises(RuntimeError, match="call meta_loss once uncompiled"):
        maml.output_shape(batch.query.x)
    maml.meta_loss(batch)
    assert maml.output_shape(batch.query.x) == (2,)


def test_handles_find_their_maml_and_keep_none_alive():
    maml, batch = MAML(network()), task_batch()
    twin = copy.deepcopy(maml)
    assert ops._owner(twin._handle) is twin
    given = arguments(maml, batch)
    del maml
    gc.collect()
    with pytest.raises(RuntimeError, match="no longer exists; compile the step anew"):
        ops.meta_loss(*given)
