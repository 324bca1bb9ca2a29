"""Norms with running statistics: by the batch at hand, or by statistics that training keeps up to date."""

import warnings

import pytest
import torch
from torch import nn

from fastmaml import MAML, Samples, TaskBatch
from tests.problems import ON_CPU, gradients, network, task_batch


def with_statistics():
    return network(norm=True)


@pytest.mark.parametrize("engine", ON_CPU)
def test_by_the_batch_both_modes_are_the_same_and_nothing_is_kept(engine):
    maml, batch = MAML(with_statistics(), lr=0.1, steps=2, engine=engine), task_batch()
    kept = {name: buffer.clone() for name, buffer in maml.named_buffers()}
    training = maml.meta_loss(batch), maml.predict(batch)
    with pytest.warns(UserWarning, match=r"in eval mode, and its norms keep running statistics.*batch_norm='running'"):
        evaluated = maml.eval().meta_loss(batch), maml.predict(batch)
    torch.testing.assert_close(evaluated, training, rtol=1e-12, atol=1e-12)
    assert maml.engine.name == engine
    assert all(torch.equal(buffer, kept[name]) for name, buffer in maml.named_buffers())


def test_the_warning_comes_once_and_only_where_statistics_are_left_unused():
    maml, batch = MAML(with_statistics()).eval(), task_batch()
    with pytest.warns(UserWarning, match="running statistics") as told:
        maml.meta_loss(batch)
    assert [warning.filename for warning in told] == [__file__]
    others = [
        MAML(with_statistics(), batch_norm="running").eval(),
        MAML(network()).eval(),
        MAML(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False)).double()).eval(),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maml.train().meta_loss(batch)
        maml.eval().meta_loss(batch)
        for other in others:
            other.meta_loss(batch)


@pytest.mark.parametrize("how", ["backward", "meta_loss"])
@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("ragged", [False, True])
def test_running_statistics_follow_every_pass_of_every_task(how, momentum, ragged):
    model, batch = with_statistics(), task_batch(ragged=ragged)
    for norm in (model[1], model[4]):
        norm.momentum = momentum
    maml = MAML(model, lr=0.1, steps=2, batch_norm="running")
    wanted = by_hand(model, batch, 0.1, 2)
    getattr(maml, how)(batch)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, wanted[name], rtol=1e-10, atol=1e-10)
    assert model[1].num_batches_tracked == 1


def by_hand(model, batch, lr, steps):
    """The mean over tasks and passes of what one forward pass makes of the buffers."""
    twin = MAML(model, lr=lr, engine="reference")
    start = {name: buffer.clone() for name, buffer in model.named_buffers()}
    found = []
    for support, query in zip(batch.support.tasks(), batch.query.tasks(), strict=True):
        for step in range(steps + 1):
            task = adapted(twin, support, step)
            x, weights = (support.x, support.weights) if step < steps else (query.x, query.weights)
            buffers = {name: buffer.clone() for name, buffer in start.items()}
            torch.func.functional_call(model, (task, buffers), (x if weights is None else x[weights > 0],))
            found.append(buffers)
    return {
        name: torch.stack([buffers[name].double() for buffers in found]).mean(0).to(buffer.dtype)
        for name, buffer in start.items()
    }


def adapted(maml, support, steps):
    state = maml.adapt_task(support.x, support.y, support.weights, steps=steps).state_dict()
    return {name: state[name] for name, _ in maml.model.named_parameters()}


def test_in_eval_mode_the_running_statistics_are_used_and_stay():
    model, batch = with_statistics(), task_batch()
    maml = MAML(model, lr=0.1, batch_norm="running")
    for _ in range(3):
        maml.backward(batch)
    maml.eval().zero_grad()
    kept = [buffer.clone() for buffer in maml.buffers()]
    maml.backward(batch)
    wanted = gradients(maml)
    reference = MAML(model, lr=0.1, batch_norm="running", engine="reference")
    reference.zero_grad()
    reference.backward(batch)
    torch.testing.assert_close(wanted, gradients(reference))
    assert all(torch.equal(*pair) for pair in zip(maml.buffers(), kept, strict=True))
    with torch.no_grad():
        model[1].running_mean += 1
    maml.zero_grad()
    maml.backward(batch)
    assert not torch.allclose(wanted, gradients(maml))


def test_a_pass_that_draws_random_numbers_leaves_no_trace_in_the_random_state():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()
    batch, states = task_batch(), []
    for batch_norm in ("batch", "running"):
        torch.manual_seed(0)
        MAML(model, batch_norm=batch_norm, engine="reference").meta_loss(batch)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_a_compiled_step_refuses_to_keep_statistics():
    maml = MAML(with_statistics(), batch_norm="running")
    compiled = torch.compile(lambda batch: maml.meta_loss(batch), backend="eager")
    with pytest.raises(RuntimeError, match="batch_norm: 'running' changes buffers"):
        compiled(task_batch())


def test_a_model_that_cannot_be_copied_says_so():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    model.held = (i for i in range(3))
    maml = MAML(model)
    batch = TaskBatch(Samples(*[torch.randn(2, 4, 3), torch.randn(2, 4, 2)]), Samples(*[torch.randn(2, 4, 3)] * 2))
    maml.eval()
    with pytest.raises(ValueError, match=r"model: Sequential keeps running statistics and cannot be copied.*generator"):
        maml.meta_loss(batch)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_tensor_that_is_a_plain_attribute_is_not_left_behind(mode):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.mask = network(norm=True), torch.ones(2).double()

        def forward(self, x):
            return self.inner(x) * self.mask

    maml, batch = MAML(Masked(), engine="functional"), task_batch()
    getattr(maml, mode)()
    before = maml.predict(batch, steps=0)
    maml.model.mask[0] = 0
    torch.testing.assert_close(maml.predict(batch, steps=0), before * torch.tensor([0.0, 1.0]).double())
