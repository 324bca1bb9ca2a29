"""The functional engine against the reference, over layers that torch.func is known to differentiate in its own way."""

import pytest
import torch
from torch import nn

from fastmaml import Samples, SecondOrder, TaskBatch
from fastmaml.engines import get
from fastmaml.plan import InnerLr, Plan
from tests.problems import inner_lr, network, parameters_of, relative_error, samples, task_batch

FUNCTIONAL, REFERENCE = get("functional"), get("reference")


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(4, 2, batch_first=True), nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(x + self.attention(x, x, x, need_weights=False)[0])


def convolution(layer):
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), layer, nn.Flatten())


ZOO = {
    "attention": (Attention(), (5, 4)),
    "layer_norm": (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), (3,)),
    "rms_norm": (nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2)), (3,)),
    "batch_norm": (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Softplus(), nn.Linear(4, 2)), (3,)),
    "batch_norm_plain": (nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)), (3,)),
    "batch_norm_2d": (convolution(nn.BatchNorm2d(4)), (2, 4, 4)),
    "batch_norm_3d": (nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.Flatten()), (1, 3, 3, 3)),
    "batch_norm_sequence": (nn.Sequential(nn.BatchNorm1d(3), nn.Flatten(), nn.Linear(12, 2)), (3, 4)),
    "instance_norm": (convolution(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), (2, 4, 4)),
    "group_norm": (convolution(nn.GroupNorm(2, 4)), (2, 4, 4)),
    "max_pool": (convolution(nn.MaxPool2d(2)), (2, 4, 4)),
    "gelu_softmax": (nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.Softmax(-1)), (3,)),
    "sequence": (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (5, 3)),
}


@pytest.mark.parametrize("name", ZOO)
def test_zoo(name):
    module, shape = ZOO[name]
    plan = Plan.of(module.double())
    theta = parameters_of(plan)
    x = torch.randn(3, 6, *shape).double()
    y = torch.randn_like(REFERENCE.predict(plan, theta.expand(3, -1), x))
    batch = TaskBatch(Samples(x, y), Samples(x.flip(0) + 0.1, y))
    lr = InnerLr(torch.full_like(theta, 0.1), learned=True)
    given, wanted = (e.meta_gradient(plan, theta, lr, batch, 2, SecondOrder()) for e in (FUNCTIONAL, REFERENCE))
    assert relative_error(given.gradient, wanted.gradient) < 1e-12
    assert relative_error(given.inner_lr_gradient, wanted.inner_lr_gradient) < 1e-12
    vectors = torch.randn(3, plan.num_parameters).double()
    products = (e.hvp(plan, theta.expand(3, -1), batch.support, vectors) for e in (FUNCTIONAL, REFERENCE))
    assert relative_error(*products) < 1e-12


def test_integer_inputs():
    plan = Plan.of(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2)).double())
    theta, x, y = parameters_of(plan), torch.randint(9, (3, 5, 2)), torch.randn(3, 5, 2).double()
    batch = TaskBatch(Samples(x, y), Samples(x, y))
    arguments = (plan, theta, inner_lr(plan), batch, 2, SecondOrder())
    given, wanted = (e.meta_gradient(*arguments).gradient for e in (FUNCTIONAL, REFERENCE))
    assert relative_error(given, wanted) < 1e-12


def test_running_statistics_are_left_alone_and_stay_live():
    module = network(norm=True)
    plan, batch = Plan.of(module, batch_norm="running"), task_batch()
    theta = parameters_of(plan)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    FUNCTIONAL.meta_gradient(plan, theta, inner_lr(plan), batch, 2, SecondOrder())
    assert all(torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
    assert module[1].track_running_stats

    module.eval()
    plan, fast = Plan.of(module, batch_norm="running"), theta.expand(3, -1)
    first = FUNCTIONAL.predict(plan, fast, batch.query.x)
    module[1].running_mean += 1
    second = FUNCTIONAL.predict(plan, fast, batch.query.x)
    torch.testing.assert_close(second, REFERENCE.predict(plan, fast, batch.query.x))
    assert not torch.allclose(first, second)


def test_other_buffers_are_used_as_they_are_now():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = network(norm=True)
            self.register_buffer("scale", torch.tensor(1.0).double())

        def forward(self, x):
            return self.scale * self.layers(x)

    module = Scaled()
    plan, x = Plan.of(module), samples().x
    fast = parameters_of(plan).expand(3, -1)
    once = FUNCTIONAL.predict(plan, fast, x)
    module.scale.fill_(2)
    torch.testing.assert_close(FUNCTIONAL.predict(plan, fast, x), 2 * once)


def test_refuses_padding_only_with_batch_norm():
    ragged = samples(ragged=True)
    assert FUNCTIONAL.data_refusal(Plan.of(network()), ragged) is None
    norm = Plan.of(network(norm=True))
    assert "'reference' and 'cpu'" in FUNCTIONAL.data_refusal(norm, ragged)
    even = Samples(ragged.x, ragged.y, torch.rand(3, 5).double() + 0.1)
    assert FUNCTIONAL.data_refusal(norm, even) is None
    assert FUNCTIONAL.data_refusal(norm, samples()) is None


def test_dropout_draws_anew_for_each_task():
    plan = Plan.of(nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5)).double())
    x = torch.ones(2, 1, 3).double()
    outputs = FUNCTIONAL.predict(plan, parameters_of(plan).expand(2, -1), x)
    assert ((outputs[0] == 0) != (outputs[1] == 0)).any()


def test_skeletons_do_not_outlive_their_plans():
    engine = type(FUNCTIONAL)()
    plan = Plan.of(network())
    engine.predict(plan, parameters_of(plan)[None], samples(1).x)
    assert len(engine._skeletons) == 1
    del plan
    assert len(engine._skeletons) == 0
