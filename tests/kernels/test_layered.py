"""Networks of convolutions layer by layer: the four verbs against the reference in float64, launches counted."""

import pytest
import torch
from torch import nn

from fastmaml import FirstOrder, SecondOrder, TaskBatch
from fastmaml.batch import Samples
from fastmaml.engines import get
from fastmaml.plan import InnerLr, Plan
from tests.problems import parameters_of, relative_error

pytestmark = pytest.mark.usefixtures("poisoned")


class GlobalMean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def conv4(channels=3, side=9, ways=3, depth=2, pool=False):
    """Omniglot's form (stride 2, spatial mean) or MiniImagenet's (max-pool, flatten), small; with its stages."""
    from fastmaml.kernels.conv_launch import Conv
    from fastmaml.kernels.layered import Stage
    from fastmaml.kernels.norm_launch import Unit

    layers, stages, inputs, offset = [], [], 1, 0
    for number in range(depth):
        layers += [nn.Conv2d(inputs, channels, 3, 1 if pool else 2, 1), nn.BatchNorm2d(channels), nn.ReLU()]
        weights = channels * inputs * 9
        conv = Conv(inputs, channels, side, side, 3, 1 if pool else 2, 1, offset, offset + weights)
        scale = offset + weights + channels
        offset = scale + 2 * channels
        side = conv.out_height
        kind = {"window": 2} if pool else {"pool": "mean", "window": side} if number == depth - 1 else {}
        stages.append(Stage(conv, Unit(channels, side, side, True, scale, scale + channels, 1e-5, "relu", **kind)))
        layers += [nn.MaxPool2d(2)] if pool else []
        side, inputs = side // 2 if pool else side, channels
    features = channels * side**2 if pool else channels
    head = Conv(features, ways, 1, 1, 1, 1, 0, offset, offset + features * ways)
    layers += [nn.Flatten() if pool else GlobalMean(), nn.Linear(features, ways)]
    return nn.Sequential(*layers).double(), (*stages, Stage(head))


def tasks_of(side, ways, tasks=2, samples=4, weighted=False):
    def draw():
        x = torch.randn(tasks, samples, 1, side, side, dtype=torch.float64)
        weights = 0.5 + torch.rand(tasks, samples, dtype=torch.float64) if weighted else None
        return Samples(x, torch.randint(ways, (tasks, samples)), weights)

    return TaskBatch(draw(), draw())


def data(samples, device):
    from fastmaml.kernels.mlp_launch import Data

    moved = samples.to(device, torch.float32)
    return Data(moved.x, moved.y, moved.weights)


@pytest.mark.parametrize(
    ("pool", "steps", "rule", "learned", "weighted"),
    [(False, 1, "second", False, False), (True, 2, "second", True, True), (False, 2, "first", False, False)],
)
def test_the_four_verbs(device, pool, steps, rule, learned, weighted):
    from fastmaml.kernels.layered import Layered

    module, stages = conv4(pool=pool)
    plan, batch, reference = Plan.of(module, "cross_entropy"), tasks_of(9, 3, weighted=weighted), get("reference")
    theta = parameters_of(plan)
    lr = InnerLr(0.1 * torch.rand_like(theta), uniform=False, learned=learned)
    order = SecondOrder() if rule == "second" else FirstOrder()
    wanted = reference.meta_gradient(plan, theta, lr, batch, steps, order)
    fast, losses = reference.adapt(plan, theta, lr, batch.support, steps)
    layered = Layered(stages, plan.num_parameters, "cross_entropy", "ieee")
    single, rates = theta.float().to(device), lr.values.float().to(device)
    support, query = data(batch.support, device), data(batch.query, device)
    found = layered.meta_gradient(single, rates, support, query, steps, order.through_steps, learned)

    def close(given, exact):
        assert given.shape == exact.shape
        assert relative_error(given.cpu(), exact) < 1e-5

    close(found.losses, wanted.query_losses)
    close(found.gradient, wanted.gradient)
    close(found.outputs, wanted.query_outputs)
    if learned:
        close(found.lr_gradient, wanted.inner_lr_gradient)
    found = layered.adapt(single, rates, support, steps)
    close(found[0], fast)
    close(found[1], losses)
    near = fast.float().to(device)
    close(layered.predict(near, query.x), reference.predict(plan, fast, batch.query.x))
    vectors = near.flip(1).contiguous()
    close(layered.hvp(near, support, vectors), reference.hvp(plan, fast, batch.support, vectors.cpu().double()))


def test_launches_of_omniglots_network_are_at_most_60(device, launches):
    """Four stages of convolution, norm and ReLU, a spatial mean and a linear layer; one inner step, second order."""
    from fastmaml.kernels.layered import Layered

    module, stages = conv4(channels=1, side=7, ways=2, depth=4)
    plan, batch = Plan.of(module, "cross_entropy"), tasks_of(7, 2, tasks=1, samples=2)
    theta = parameters_of(plan).float().to(device)
    layered = Layered(stages, plan.num_parameters, "cross_entropy", "ieee")
    launches.clear()
    layered.meta_gradient(
        theta, torch.ones_like(theta), data(batch.support, device), data(batch.query, device), 1, True, False
    )
    assert len(launches) <= 60
