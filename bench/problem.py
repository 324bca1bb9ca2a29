"""The meta-gradients to be taken: a network, a meta-batch, a number of inner steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import SecondOrder
from fastmaml.models import Conv4, functorch_omniglot
from fastmaml.plan import InnerLr, Plan
from fastmaml.tasks import Sinusoid

_MARGIN_SEED = 220


@dataclass(frozen=True, eq=False)
class Problem:
    """One exact second-order meta-gradient. Every parameter of `network` is adapted and meta-learned.

    Args:
        name: of the case.
        network: with its parameters; contestants copy it, or leave it as it was.
        batch: T tasks.
        steps: inner steps K.
        lr: inner step size.
        loss: "mse" or "cross_entropy".
    """

    name: str
    network: nn.Module
    batch: TaskBatch
    steps: int
    lr: float
    loss: str

    @property
    def plan(self) -> Plan:
        return Plan.of(self.network, self.loss)

    def inner_lr(self, plan: Plan) -> InnerLr:
        first = next(self.network.parameters())
        return InnerLr(torch.full((plan.num_parameters,), self.lr, dtype=first.dtype, device=first.device))

    def to(self, dtype: torch.dtype) -> Problem:
        """A copy in another floating dtype."""
        network = deepcopy(self.network).to(dtype)
        return replace(self, network=network, batch=self.batch.to(dtype))

    def on(self, device: torch.device) -> Problem:
        """A copy on another device."""
        return replace(self, network=deepcopy(self.network).to(device), batch=self.batch.to(device))

    def reference(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The meta-gradient [P] by the reference engine, in float64 or another floating dtype."""
        exact = self.to(dtype)
        plan = exact.plan
        parameters = plan.flatten(exact.network.parameters()).detach()
        answer = ReferenceEngine().meta_gradient(
            plan, parameters, exact.inner_lr(plan), exact.batch, self.steps, SecondOrder()
        )
        return answer.gradient


def sinusoid(steps: int, tasks: int = 25, points: int = 10) -> Problem:
    """1-40-40-1, ReLU, squared error; `points` support and as many query points a task (Finn et al. 2017, 5.1)."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    batch = Sinusoid(shots=points, queries=points).sample(tasks, torch.Generator().manual_seed(0))
    return Problem(f"sinusoid-{steps}", network, batch, steps, lr=0.01, loss="mse")


def omniglot_mlp(steps: int = 1, tasks: int = 32, ways: int = 5, shots: int = 1, queries: int = 5) -> Problem:
    """784-256-128-64-64-ways, each hidden layer with batch norm and ReLU, cross-entropy (Finn et al. 2017, 5.2).

    `queries` counts samples a class. The images are blots of ink: nothing here depends on what they show. The seed
    is one at which, with the other arguments left alone, no ReLU gets an input within 1e-5 of zero, where rounding
    alone would decide on which side of the kink a contestant's gradient is taken.
    """
    generator = torch.Generator().manual_seed(_MARGIN_SEED)
    torch.manual_seed(_MARGIN_SEED)
    widths = (784, 256, 128, 64, 64)
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        norm = nn.BatchNorm1d(outputs, track_running_stats=False)
        layers += [nn.Linear(inputs, outputs), norm, nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear(widths[-1], ways))
    support, query = _blots(tasks, ways, shots, generator), _blots(tasks, ways, queries, generator)
    return Problem("omniglot-mlp", network, TaskBatch(support, query), steps, lr=0.4, loss="cross_entropy")


def images(
    name: str,
    network: nn.Module,
    size: Sequence[int],
    *,
    tasks: int,
    shots: int,
    queries: int,
    steps: int,
    ways: int = 5,
    lr: float = 0.01,
    dtype: torch.dtype = torch.float32,
) -> Problem:
    """Few-shot classification of noise, smoothed so that it looks like images; `queries` counts samples a class."""
    generator = torch.Generator().manual_seed(0)

    def samples(each: int) -> Samples:
        labels = torch.arange(ways).repeat_interleave(each).expand(tasks, -1).contiguous()
        height, width = size[1] + 4, size[2] + 4
        noise = torch.randn(tasks * ways * each, size[0], height, width, generator=generator)
        x = functional.avg_pool2d(noise, kernel_size=5, stride=1) * 2
        return Samples(x.reshape(tasks, ways * each, *size), labels)

    return Problem(name, network, TaskBatch(samples(shots), samples(queries)), steps, lr, "cross_entropy")


def omniglot_conv(steps: int = 1, tasks: int = 32, ways: int = 5) -> Problem:
    """The paper's Omniglot network, stride 2, with affine norms, for contestants that know no frozen parameters."""
    torch.manual_seed(0)
    network = Conv4(ways, affine=True).layers
    name = f"omniglot-{ways}way"
    return images(name, network, (1, 28, 28), tasks=tasks, shots=1, queries=1, steps=steps, ways=ways)


def mini_imagenet(steps: int = 5, tasks: int = 4, shots: int = 1, queries: int = 15) -> Problem:
    """The paper's MiniImagenet network on 84×84 images, 75 queries."""
    torch.manual_seed(0)
    network = Conv4(channels=3, filters=32, strided=False, size=84, affine=True).layers
    name = f"mini-imagenet-{shots}shot"
    return images(name, network, (3, 84, 84), tasks=tasks, shots=shots, queries=queries, steps=steps)


def functorch(steps: int = 5, tasks: int = 32) -> Problem:
    """The network of functorch's MAML example, 5-way 5-shot, 75 queries."""
    torch.manual_seed(0)
    return images(
        "functorch-omniglot", functorch_omniglot(), (1, 28, 28), tasks=tasks, shots=5, queries=15, steps=steps
    )


CASES: Mapping[str, Callable[[], Problem]] = {
    "sinusoid-1": lambda: sinusoid(1),
    "sinusoid-5": lambda: sinusoid(5),
    "omniglot-mlp": omniglot_mlp,
    "omniglot-5way": omniglot_conv,
    "omniglot-20way": lambda: omniglot_conv(steps=5, tasks=16, ways=20),
    "mini-imagenet-1shot": mini_imagenet,
    "mini-imagenet-5shot": lambda: mini_imagenet(tasks=2, shots=5),
    "functorch-omniglot": functorch,
}


def _blots(tasks: int, ways: int, each: int, generator: torch.Generator) -> Samples:
    labels = torch.arange(ways).repeat_interleave(each).expand(tasks, -1).contiguous()
    noise = torch.randn(tasks * ways * each, 1, 32, 32, generator=generator)
    ink = functional.avg_pool2d(noise, kernel_size=5, stride=1) > 0.25  # 28×28
    return Samples(ink.float().reshape(tasks, ways * each, -1), labels)
