"""Per-task convolutions against torch's own in float64, on odd sizes and memory that holds NaN until written."""

import pytest
import torch
import torch.nn.functional as F

from fastmaml.kernels.conv_launch import TILES, Conv, Moments, Reading
from fastmaml.kernels.flat import Sink, update
from fastmaml.kernels.norm_launch import Unit
from tests.problems import relative_error

pytestmark = pytest.mark.usefixtures("poisoned")

SIZES = [  # inputs, outputs, height, width, kernel, step, pad, samples, bias
    (1, 5, 7, 7, 3, 2, 1, 3, True),
    (3, 33, 5, 6, 3, 1, 1, 2, True),
    (4, 3, 5, 4, 3, 1, 0, 2, False),
    (35, 4, 1, 1, 1, 1, 0, 5, True),
]


def problem(size, device):
    inputs, outputs, height, width, kernel, step, pad, samples, bias = size
    numel = outputs * inputs * kernel**2
    conv = Conv(inputs, outputs, height, width, kernel, step, pad, 2, 2 + numel if bias else -1)
    draw = lambda *shape: torch.randn(2, *shape, device=device)  # noqa: E731 - two tasks
    flat = (draw(2 + numel + outputs + 1), draw(2 + numel + outputs + 1))
    maps = draw(samples, inputs, height, width), draw(samples, inputs, height, width)
    bars = [draw(samples, outputs, conv.out_height, conv.out_width) for _ in range(2)]
    return conv, flat, maps, bars


def truth(conv, flat, x):
    """Outputs in float64, task by task."""
    shape = (conv.outputs, conv.inputs, conv.kernel, conv.kernel)
    numel = torch.Size(shape).numel()
    outputs = []
    for task in range(len(x)):
        row = flat[task] if flat.dim() == 2 else flat
        bias = row[conv.bias : conv.bias + conv.outputs] if conv.bias >= 0 else None
        weight = row[conv.weight : conv.weight + numel].reshape(shape)
        outputs.append(F.conv2d(x[task], weight, bias, conv.step, conv.pad))
    return torch.stack(outputs)


def close(given, wanted):
    assert not given.isnan().any()
    assert relative_error(given.cpu(), wanted.detach().cpu()) < 2e-6


@pytest.mark.parametrize("size", SIZES)
def test_forward_and_its_tangent(size, device):
    conv, (theta, direction), (x, x_dot), (bar, _) = problem(size, device)
    y, y_dot = torch.empty_like(bar), torch.empty_like(bar)
    conv.forward(Reading(x), theta, y, "ieee")
    exact = [t.double() for t in (theta, x, direction, x_dot)]
    close(y, truth(conv, exact[0], exact[1]))
    conv.forward(Reading(x), theta[0].contiguous(), y, "ieee")
    close(y, truth(conv, exact[0][0], exact[1]))
    conv.forward(Reading(x, x_dot), theta, y, "ieee", None, y_dot, direction)
    _, tangent = torch.func.jvp(lambda a, b: truth(conv, a, b), tuple(exact[:2]), tuple(exact[2:]))
    close(y_dot, tangent)
    conv.forward(Reading(x), theta, y, "ieee", None, y_dot, direction)
    close(y_dot, truth(conv, exact[2], exact[1]))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_backward_and_its_tangent(size, splits, device):
    conv, (theta, direction), (x, x_dot), (bar, bar_dot) = problem(size, device)
    used = slice(conv.weight, theta.shape[1] - 1 - (conv.outputs if conv.bias < 0 else 0))
    gradient, x_bar = torch.empty_like(theta), torch.empty_like(x)
    parts = conv.parts(splits, 0) if splits > 1 else []
    partial = theta.new_empty(splits, 2, parts[0].span) if parts else None

    def backward(reading, *tangents):
        conv.backward(bar, reading, theta, Sink.plain(gradient), x_bar, "ieee", *tangents, partial=partial)
        if parts:
            update(Sink.plain(gradient), partial, parts)

    def both(a, b, c):
        return torch.func.vjp(lambda a, b: truth(conv, a, b), a, b)[1](c)

    exact = [t.double() for t in (theta, x, bar, direction, x_dot, bar_dot)]
    wanted = both(*exact[:3])
    backward(Reading(x))
    close(gradient[:, used], wanted[0][:, used])
    close(x_bar, wanted[1])
    _, tangents = torch.func.jvp(both, tuple(exact[:3]), tuple(exact[3:]))
    backward(Reading(x, x_dot), bar_dot, direction)
    close(gradient[:, used], tangents[0][:, used])
    close(x_bar, tangents[1])


def test_the_first_layer_needs_no_input_gradient(device):
    conv, (theta, direction), (x, _), (bar, bar_dot) = problem(SIZES[0], device)
    gradient = torch.empty_like(theta)
    conv.backward(bar, Reading(x), theta, Sink.plain(gradient), None, "ieee", bar_dot, direction)
    _, pull = torch.func.vjp(lambda a: truth(conv, a, x.double()), theta.double())
    close(gradient[:, conv.weight : -1], pull(bar_dot.double())[0][:, conv.weight : -1])


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in two launches"])
def test_moments_of_the_maps_that_it_writes(device, monkeypatch, at_once):
    """Over several tiles, the last one cut; the mean is far from zero, where squares alone would cancel."""
    monkeypatch.setitem(TILES, "ieee", (16, 32, 16))
    conv, (theta, direction), (x, x_dot), (bar, _) = problem((3, 33, 7, 6, 3, 1, 1, 3, True), device)
    theta[:, conv.bias :] += 100
    parts, counters = conv.moments_room(2, 3, "ieee")
    room = (theta.new_empty(2, 4, 33), theta.new_empty(parts), theta.new_zeros(counters, dtype=torch.int32))
    moments, y, y_dot = Moments(*room, 1e-3, at_once), torch.empty_like(bar), torch.empty_like(bar)
    conv.forward(Reading(x), theta, y, "ieee", moments)
    conv.forward(Reading(x, x_dot), theta, y, "ieee", moments, y_dot, direction)
    wanted = statistics_of(y, y_dot, 1e-3)
    for number in range(4):
        close(moments.statistics[:, number], wanted[:, number])
    assert not moments.counters.any()


def statistics_of(y, y_dot, eps):
    """Mean and r of maps [T, N, C, H, W], m(ẏ) and m(x̂ ẏ): [T, 4, C]."""
    y, y_dot = y.double(), y_dot.double()
    mean, var = y.mean((1, 3, 4)), y.var((1, 3, 4), correction=0)
    r = (var + eps).rsqrt()
    hat = (y - mean[:, None, :, None, None]) * r[:, None, :, None, None]
    return torch.stack([mean, r, y_dot.mean((1, 3, 4)), (hat * y_dot).mean((1, 3, 4))], 1)


READ = [Unit(3, 5, 6, True, 0, 3, 1e-3, "relu"), Unit(3, 5, 6, True, -1, 3, 1e-5, "tanh"), Unit(3, 5, 6)]


def applied(unit, flat, y):
    """unit(y) in float64, task by task, parameters [T, P]."""
    u = y
    if unit.norm:
        centred = y - y.mean((1, 3, 4), keepdim=True)
        u = centred * (centred.square().mean((1, 3, 4), keepdim=True) + unit.eps).rsqrt()
        u = u * flat[:, None, unit.scale : unit.scale + unit.channels, None, None] if unit.scale >= 0 else u
        u = u + flat[:, None, unit.shift : unit.shift + unit.channels, None, None]
    return {"relu": torch.relu, "tanh": torch.tanh, "none": torch.clone}[unit.activation](u)


@pytest.mark.parametrize("linear", [False, True], ids=["convolution", "linear, flattened"])
@pytest.mark.parametrize("unit", READ, ids=lambda unit: f"{unit.norm} {unit.activation}")
def test_a_unit_is_applied_by_the_layer_that_reads_its_maps(device, unit, linear):
    conv = Conv(90, 4, 1, 1, 1, 1, 0, 6, -1) if linear else Conv(3, 4, 5, 6, 3, 2, 1, 6, -1)
    flat = [torch.randn(2, 6 + 4 * conv.inputs * conv.kernel**2, device=device) for _ in range(2)]
    y, y_dot = (torch.randn(2, 2, 3, 5, 6, device=device) for _ in range(2))
    bar, bar_dot = (torch.randn(2, 2, 4, conv.out_height, conv.out_width, device=device) for _ in range(2))
    exact = [t.double() for t in (flat[0], y, bar, flat[1], y_dot, bar_dot)]

    def outputs(theta, maps):
        u = applied(unit, theta, maps)
        return truth(conv, theta, u.reshape(2, 2, -1, 1, 1) if linear else u)

    def gradient_of(theta, maps, cotangent):
        u = applied(unit, theta, maps)
        u = u.reshape(2, 2, -1, 1, 1) if linear else u
        return torch.func.vjp(lambda w: truth(conv, w, u), theta)[1](cotangent)[0]

    statistics = statistics_of(y, y_dot, unit.eps).float().contiguous()
    once, both = Reading(y, None, unit, statistics), Reading(y, y_dot, unit, statistics)
    found, gradient = torch.empty_like(bar), torch.empty_like(flat[0])
    conv.forward(once, flat[0], found, "ieee")
    close(found, outputs(*exact[:2]))
    conv.forward(both, flat[0], found, "ieee", None, found, flat[1])
    close(found, torch.func.jvp(outputs, tuple(exact[:2]), tuple(exact[3:5]))[1])
    conv.backward(bar, once, flat[0], Sink.plain(gradient), None, "ieee")
    close(gradient[:, 6:], gradient_of(*exact[:3])[:, 6:])
    conv.backward(bar, both, flat[0], Sink.plain(gradient), None, "ieee", bar_dot, flat[1])
    close(gradient[:, 6:], torch.func.jvp(gradient_of, tuple(exact[:3]), tuple(exact[3:]))[1][:, 6:])
