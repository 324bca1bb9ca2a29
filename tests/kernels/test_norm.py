"""Batch norm, activation and pooling in one kernel against torch in float64, tangents and cotangents."""

import pytest
import torch
import torch.nn.functional as F

from fastmaml.kernels.flat import Sink
from fastmaml.kernels.norm_launch import Unit
from tests.kernels.test_conv import close, statistics_of

pytestmark = pytest.mark.usefixtures("poisoned")

UNITS = [
    {"norm": True, "scale": 1, "shift": 4, "eps": 1e-3, "activation": "relu", "window": 2},
    {"norm": True, "shift": 4, "eps": 1e-3, "activation": "relu", "window": 3, "pool": "mean"},
    {"norm": True, "scale": 1, "eps": 1e-5, "activation": "tanh", "window": 2, "pool": "mean"},
    {"activation": "tanh", "window": 2},
    {"activation": "none"},
]


def truth(unit, theta, y):
    """In float64, task by task; y [T, N, C, H, W]."""
    found = []
    for task in range(len(y)):
        row = theta[task] if theta.dim() == 2 else theta
        u = y[task]
        if unit.norm:
            centred = u - u.mean((0, 2, 3), keepdim=True)
            u = centred / (centred.square().mean((0, 2, 3), keepdim=True) + unit.eps).sqrt()
            u = u * (row[1:4].view(1, 3, 1, 1) if unit.scale >= 0 else 1)
            u = u + (row[4:7].view(1, 3, 1, 1) if unit.shift >= 0 else 0)
        u = {"relu": torch.relu, "tanh": torch.tanh, "none": torch.clone}[unit.activation](u)
        found.append(F.max_pool2d(u, unit.window) if unit.pool == "max" else F.avg_pool2d(u, unit.window))
    return torch.stack(found)


@pytest.mark.parametrize("kind", UNITS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_all_four_passes(kind, device):
    unit = Unit(3, 5, 5, **kind)
    draw = lambda *shape: torch.randn(2, *shape, device=device)  # noqa: E731 - two tasks
    theta, direction, y, y_dot = draw(8), draw(8), draw(2, 3, 5, 5), draw(2, 3, 5, 5)
    exact = [t.double() for t in (theta, y)]
    wanted = truth(unit, *exact)
    out = torch.empty(wanted.shape, device=device)
    statistics = statistics_of(y, y_dot, unit.eps).float().contiguous()
    unit.forward(y, theta, out, statistics)
    close(out, wanted)
    dots = (direction.double(), y_dot.double())
    unit.tangent(y, y_dot, theta, direction, out, statistics)
    close(out, torch.func.jvp(lambda a, b: truth(unit, a, b), tuple(exact), dots)[1])

    bar, bar_dot = torch.randn_like(out), torch.randn_like(out)
    gradient, y_bar = torch.zeros(2, 8, device=device), torch.empty_like(y)

    def both(a, b, c):
        return torch.func.vjp(lambda a, b: truth(unit, a, b), a, b)[1](c)

    unit.backward(y, bar, theta, y_bar, Sink.plain(gradient), statistics)
    wanted = both(*exact, bar.double())
    close(y_bar, wanted[1])
    if unit.norm:
        close(gradient, wanted[0])
    unit.backward(y, bar, theta, y_bar, Sink.plain(gradient), statistics, y_dot, bar_dot, direction)
    _, tangents = torch.func.jvp(both, (*exact, bar.double()), (*dots, bar_dot.double()))
    close(y_bar, tangents[1])
    if unit.norm:
        close(gradient, tangents[0])
