"""The last layer with its loss, in one kernel, against torch in float64: outputs, losses, gradients, and tangents."""

import pytest
import torch
import torch.nn.functional as F

from fastmaml.kernels import head
from fastmaml.kernels.conv_launch import Conv, Reading
from fastmaml.kernels.flat import Sink
from fastmaml.kernels.norm_launch import Unit
from fastmaml.losses import categorical
from tests.kernels.test_conv import applied, close, statistics_of

pytestmark = pytest.mark.usefixtures("poisoned")

TASKS, FEATURES, OUTPUTS, OFFSET = 2, 35, 3, 70  # parameters: γ and β of the unit, then those of the layer
LAYER = Conv(FEATURES, OUTPUTS, 1, 1, 1, 1, 0, OFFSET, OFFSET + FEATURES * OUTPUTS)
SIZE = LAYER.bias + OUTPUTS
MEAN = Unit(FEATURES, 2, 2, True, 0, FEATURES, 1e-3, "tanh", "mean", 2)


def targets(loss, samples):
    if loss == "cross_entropy":
        return torch.randint(OUTPUTS, (TASKS, samples))
    return torch.randn(TASKS, samples, OUTPUTS)


def task_losses(loss, outputs, y, weights):
    """[T], weighted means, in float64."""
    if loss == "mse":
        each = (outputs - y).square().mean(2)
    elif loss == "categorical":
        return torch.stack([categorical(*task) for task in zip(outputs, y, weights, strict=True)])
    else:
        each = F.cross_entropy(outputs.transpose(1, 2), y, reduction="none")
    return (each * weights).sum(1) / weights.sum(1)


@pytest.mark.parametrize("unit", [None, MEAN], ids=["features", "a norm and a mean to be applied"])
@pytest.mark.parametrize(("loss", "samples"), [("mse", 1), ("cross_entropy", 37), ("categorical", 5)])
def test_all_that_it_gives(device, loss, samples, unit):
    shape = (TASKS, samples, FEATURES, *((2, 2) if unit else ()))
    x, x_dot = torch.randn(*shape, device=device), torch.randn(*shape, device=device)
    theta, direction = torch.randn(TASKS, SIZE, device=device), torch.randn(TASKS, SIZE, device=device)
    y, weights = targets(loss, samples).to(device), 0.5 + torch.rand(TASKS, samples, device=device)
    exact = [t.double() for t in (theta, x, direction, x_dot)]
    exact_y = y.double() if y.is_floating_point() else y

    def features(flat, maps):
        return maps if unit is None else applied(unit, flat, maps).mean((3, 4))

    def outputs_of(flat, values):
        weight = flat[:, OFFSET : LAYER.bias].reshape(TASKS, OUTPUTS, FEATURES)
        return values @ weight.transpose(1, 2) + flat[:, None, LAYER.bias :]

    def gradients(flat, maps):
        """By the parameters of the layer and by its input."""
        values = features(flat, maps)
        return torch.func.grad(
            lambda w, v: task_losses(loss, outputs_of(w, v), exact_y, weights.double()).sum(), argnums=(0, 1)
        )(flat, values)

    statistics = statistics_of(x, x_dot, 1e-3).float().contiguous() if unit else None
    outputs, losses = torch.empty(TASKS, samples, OUTPUTS, device=device), torch.empty(TASKS, device=device)
    gradient, bar = torch.empty_like(theta), torch.empty(TASKS, samples, FEATURES, device=device)

    def run(x_dot, direction):
        reading = Reading(x, x_dot, unit, statistics)
        head.head(
            LAYER, reading, theta, y, weights, loss, outputs, losses, Sink.plain(gradient), bar, "ieee", direction
        )  # fmt: skip

    run(None, None)
    found = outputs_of(exact[0], features(*exact[:2]))
    close(outputs, found)
    close(losses, task_losses(loss, found, exact_y, weights.double()))
    wanted = gradients(*exact[:2])
    close(gradient[:, OFFSET:], wanted[0][:, OFFSET:])
    close(bar, wanted[1])
    run(x_dot, direction)
    wanted = torch.func.jvp(gradients, tuple(exact[:2]), tuple(exact[2:]))[1]
    close(gradient[:, OFFSET:], wanted[0][:, OFFSET:])
    close(bar, wanted[1])


def test_what_it_leaves_to_other_kernels():
    assert head.obstacle(LAYER, "mse") is None
    assert "outputs" in head.obstacle(LAYER, "gaussian")
    assert "more than 64" in head.obstacle(Conv(2, 65, 1, 1, 1, 1, 0, 0, -1), "mse")
