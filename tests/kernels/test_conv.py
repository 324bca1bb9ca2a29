"""Per-task convolutions against torch's own in float64, on odd sizes and memory that holds NaN until written."""

import pytest
import torch
import torch.nn.functional as F

from tests.problems import relative_error

pytestmark = pytest.mark.usefixtures("poisoned")

SIZES = [  # inputs, outputs, height, width, kernel, step, pad, samples, bias
    (1, 5, 7, 7, 3, 2, 1, 3, True),
    (3, 33, 5, 6, 3, 1, 1, 2, True),
    (4, 3, 5, 4, 3, 1, 0, 2, False),
    (35, 4, 1, 1, 1, 1, 0, 5, True),
]


def problem(size, device):
    from fastmaml.kernels.conv_launch import Conv

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
    y = torch.empty_like(bar)
    conv.forward(x, theta, y, "ieee")
    exact = [t.double() for t in (theta, x, direction, x_dot)]
    close(y, truth(conv, exact[0], exact[1]))
    conv.forward(x, theta[0].contiguous(), y, "ieee")
    close(y, truth(conv, exact[0][0], exact[1]))
    conv.forward(x, theta, y, "ieee", x_dot, direction)
    _, tangent = torch.func.jvp(lambda a, b: truth(conv, a, b), tuple(exact[:2]), tuple(exact[2:]))
    close(y, tangent)
    conv.forward(x, theta, y, "ieee", None, direction)
    close(y, truth(conv, exact[2], exact[1]))


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_backward_and_its_tangent(size, splits, device):
    conv, (theta, direction), (x, x_dot), (bar, bar_dot) = problem(size, device)
    used = slice(conv.weight, theta.shape[1] - 1 - (conv.outputs if conv.bias < 0 else 0))
    gradient, x_bar = theta.new_empty(splits, *theta.shape), torch.empty_like(x)

    def both(a, b, c):
        return torch.func.vjp(lambda a, b: truth(conv, a, b), a, b)[1](c)

    exact = [t.double() for t in (theta, x, bar, direction, x_dot, bar_dot)]
    wanted = both(*exact[:3])
    conv.backward(bar, x, theta, gradient, x_bar, "ieee")
    close(gradient.sum(0)[:, used], wanted[0][:, used])
    close(x_bar, wanted[1])
    _, tangents = torch.func.jvp(both, tuple(exact[:3]), tuple(exact[3:]))
    conv.backward(bar, x, theta, gradient, x_bar, "ieee", bar_dot, x_dot, direction)
    close(gradient.sum(0)[:, used], tangents[0][:, used])
    close(x_bar, tangents[1])


def test_the_first_layer_needs_no_input_gradient(device):
    conv, (theta, direction), (x, _), (bar, bar_dot) = problem(SIZES[0], device)
    gradient = theta.new_empty(1, *theta.shape)
    conv.backward(bar, x, theta, gradient, None, "ieee", bar_dot, None, direction)
    _, pull = torch.func.vjp(lambda a: truth(conv, a, x.double()), theta.double())
    close(gradient[0][:, conv.weight : -1], pull(bar_dot.double())[0][:, conv.weight : -1])
