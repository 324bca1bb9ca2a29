"""Networks on images: every verb of the core against the float64 reference, on every instruction set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import nn

from fastmaml import engines
from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.cpu import CpuEngine
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.plan import InnerLr, Plan
from tests.csrc.conftest import core
from tests.csrc.networks import Problem
from tests.csrc.test_core import errors

BOUNDS = {torch.float32: 3e-5, torch.float64: 1e-11}


def norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=affine, track_running_stats=False)


def strided() -> list[nn.Module]:
    """The paper's Omniglot network, narrow."""
    layers: list[nn.Module] = []
    for inputs in (1, 10, 10, 10):
        layers += [nn.Conv2d(inputs, 10, 3, 2, 1, bias=False), norm(10), nn.ReLU()]
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5)]


def pooled() -> list[nn.Module]:
    """Convolution, norm, ReLU, pooling, with a row and a column that no window of the pooling reaches."""
    layers: list[nn.Module] = []
    for inputs in (3, 16, 16):
        layers += [nn.Conv2d(inputs, 16, 3, padding=1), norm(16), nn.ReLU(), nn.MaxPool2d(2)]
    return [*layers, nn.Flatten(), nn.Linear(16 * 4, 5)]


def uneven() -> list[nn.Module]:
    """Windows that are not square, overlap, leave gaps or miss the border; norm without parameters."""
    return [
        *(nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.MaxPool2d(3, 2, 1)),
        *(nn.Conv2d(5, 20, (3, 2), stride=(2, 1), padding=(1, 0)), nn.Tanh(), norm(20, affine=False)),
        *(nn.Conv2d(20, 7, 2, stride=3), nn.Tanh(), nn.Flatten(), nn.Linear(7, 5)),
    ]


def norm_first() -> list[nn.Module]:
    """Parameters in front of the first convolution, and a mean over pixels as the output."""
    return [
        *(norm(3), nn.Conv2d(3, 17, 5, padding=2, bias=False), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(17, 5, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ]


def relu_before_norm() -> list[nn.Module]:
    """A ReLU fused into a convolution, norm and pooling in front of the ReLU."""
    return [
        *(nn.Conv2d(3, 9, 3), nn.ReLU(), nn.Conv2d(9, 12, 3, stride=2, padding=2), nn.ReLU(), norm(12)),
        *(nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)),
    ]


def wide() -> list[nn.Module]:
    """More channels than a tile has columns, and more pixels than are summed at a time."""
    return [nn.Conv2d(3, 40, 3), nn.MaxPool2d(2), nn.Conv2d(40, 72, 3, padding=1), nn.Flatten(), nn.Linear(72 * 25, 5)]


def stem() -> list[nn.Module]:
    """Convolution and norm made as one: a stride on one axis, a bias, pooling by three, and no ReLU in between."""
    return [
        *(nn.Conv2d(1, 18, (5, 4), stride=(1, 2), padding=(2, 1)), norm(18), nn.MaxPool2d((3, 2)), nn.Tanh()),
        *(nn.Conv2d(18, 6, 2), nn.Flatten(), nn.Linear(12, 5)),
    ]


def bare_stem() -> list[nn.Module]:
    """As `stem`, of a norm without parameters, and neither pooling nor ReLU."""
    return [nn.Conv2d(3, 7, 3, bias=False), norm(7, affine=False), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def large_patches() -> list[nn.Module]:
    """Patches too large for that."""
    return [
        *(nn.Conv2d(2, 6, 5), norm(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 5, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ]


NETWORKS: dict[str, tuple[tuple[int, ...], Callable[[], list[nn.Module]]]] = {
    "strided": ((1, 28, 28), strided),
    "pooled": ((3, 21, 21), pooled),
    "uneven": ((2, 9, 7), uneven),
    "norm first": ((3, 8, 8), norm_first),
    "relu before norm": ((3, 8, 8), relu_before_norm),
    "wide": ((3, 12, 12), wide),
    "stem": ((1, 9, 11), stem),
    "bare stem": ((3, 9, 8), bare_stem),
    "large patches": ((2, 9, 9), large_patches),
}


def problem(
    name: str, ragged: bool = False, steps: int = 2, tasks: int = 2, rule: GradientRule | None = None
) -> Problem:
    """A float64 problem, the same for the same arguments, whose inner lr is learned."""
    torch.manual_seed(1)
    shape, layers = NETWORKS[name]
    plan = Plan.of(nn.Sequential(*layers()).double(), "cross_entropy")
    assert plan.layers is not None, plan.obstacle
    parameters = plan.flatten(list(plan.module.parameters())).detach()
    parameters = parameters + 0.02 * torch.randn_like(parameters)
    batch = TaskBatch(images(tasks, 5, shape, ragged), images(tasks, 7, shape, ragged))
    return Problem(plan, parameters, InnerLr(torch.full_like(parameters, 0.01), True, True), batch, steps,
                   rule or SecondOrder())  # fmt: skip


def images(tasks: int, n: int, shape: Sequence[int], ragged: bool) -> Samples:
    weights = None
    if ragged:
        weights = torch.rand(tasks, n, dtype=torch.float64) + 0.1
        weights[:, 2] = 0
    x = torch.randn(tasks, n, *shape, dtype=torch.float64)
    return Samples(x, torch.randint(5, (tasks, n)), weights)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_verb_equals_the_reference(name: str, ragged: bool, dtype: torch.dtype, isa: str) -> None:
    found = errors(problem(name, ragged), dtype)
    assert all(error <= BOUNDS[dtype] for error in found.values()), found


@pytest.mark.parametrize(("scale", "shift"), [(0, 0), (-1, -1), (0.01, 0.1), (30, 90), (0.5, 2), (2, -2)])
@pytest.mark.parametrize("name", ["strided", "pooled", "stem", "large patches", "relu before norm"])
def test_norms_whose_outputs_have_few_digits_of_what_they_normalised(
    name: str, scale: float, shift: float, isa: str
) -> None:
    p = problem(name)
    for slot in p.plan.slots:
        owner, _, parameter = slot.name.rpartition(".")
        if isinstance(p.plan.module.get_submodule(owner), nn.BatchNorm2d):
            p.parameters[slot.offset + 1] = scale if parameter == "weight" else shift  # one channel's
    found = errors(p, torch.float64)
    assert all(error <= 1e-11 for error in found.values()), found
    single = errors(p, torch.float32)
    assert all(error <= 1e-4 for error in single.values()), single


@pytest.mark.parametrize("name", ["strided", "pooled"])
def test_first_order(name: str) -> None:
    found = errors(problem(name, steps=3, rule=FirstOrder()), torch.float64)
    assert all(error <= 1e-11 for error in found.values()), found


def test_bitwise_the_same_for_any_number_of_threads(isa: str) -> None:
    p = problem("pooled", tasks=5).to(torch.float32)
    before, results = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        results.append(CpuEngine().meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, 2, p.rule).gradient)
    torch.set_num_threads(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_equal_values_in_a_window_go_to_the_first_as_in_torch() -> None:
    p = problem("pooled")
    p.batch.support.x[:, :, :, 8:] = 0.25  # flat regions: whole windows of equal values
    p.batch.query.x[:, :, :, 8:] = 0.25
    found = errors(p, torch.float64)
    assert all(error <= 1e-11 for error in found.values()), found


@pytest.mark.parametrize("name", ["pooled", "bare stem"])
@pytest.mark.parametrize("scale", [1e-3, 1.0])
def test_statistics_of_images_that_hardly_differ(name: str, scale: float, isa: str) -> None:
    """Bright images of little contrast, and filters that see only edges: where sums of squares would cancel."""
    p = problem(name)
    for samples in (p.batch.support, p.batch.query):
        samples.x.mul_(scale).add_(5)
    slot = p.plan.slots[0]
    weight = p.parameters[slot.offset : slot.offset + slot.numel].view(slot.shape)
    weight -= weight.mean((1, 2, 3), keepdim=True)
    p = p.to(torch.float32)  # what the reference is given, too
    exact = gradient(engines.get("reference"), p.to(torch.float64))
    error, eager = (
        (gradient(engine, p).double() - exact).norm() / exact.norm()
        for engine in (CpuEngine(), engines.get("functional"))
    )
    assert error <= max(1e-5, 2 * eager), (error, eager)
    assert (gradient(CpuEngine(), p.to(torch.float64)) - exact).norm() <= 1e-9 * exact.norm()


def gradient(engine: engines.Engine, p: Problem) -> torch.Tensor:
    return engine.meta_gradient(p.plan, p.parameters, p.inner_lr, p.batch, p.steps, p.rule).gradient


CONV = ("conv", 1, 2, 0, -1, 0.0)
SIZES = [4, 4, 2, 2, 3, 3, 1, 1]


@pytest.mark.parametrize(
    ("layers", "geometry", "message"),
    [
        ([CONV], [[*SIZES, 0]], "10 numbers"),
        ([CONV], [[4, 4, 3, 3, 3, 3, 1, 1, 0, 0]], "reaches beyond the image"),
        ([CONV], [[4, 4, 2, 2, 3, 3, 0, 1, 0, 0]], "size and a stride"),
        ([CONV], [[*SIZES, 3, 0]], "smaller than the kernel"),
        ([CONV], [[20, 20, 5, 5, 16, 16, 1, 1, 0, 0]], "at most 225 taps"),
        ([CONV], [[*SIZES, 0, 0]], "ends in rows"),
        ([CONV], [[*SIZES, 0, 0], []], "one geometry for each layer"),
        ([CONV, ("linear", 7, 2, 0, -1, 0.0)], [[*SIZES, 0, 0], []], "do not chain"),
        ([CONV, ("tanh", 8, 8, -1, -1, 0.0)], [[*SIZES, 0, 0], []], "only a linear layer"),
        ([("linear", 2, 9, 0, -1, 0.0), ("conv", 9, 1, 0, -1, 0.0)], [[], [*SIZES, 0, 0]], "follows one on rows"),
    ],
)
def test_the_binding_refuses(layers: list[tuple[object, ...]], geometry: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        core.Model(layers, "mse", [18], geometry)
