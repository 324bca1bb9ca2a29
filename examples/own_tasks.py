"""Meta-learn a network of your own on tasks of your own: parabolas from five points.

    python examples/own_tasks.py

Anything with a method `sample(num_tasks, generator)` is a source of tasks. The network is an ordinary module.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from fastmaml import MAML, Samples, TaskBatch
from fastmaml.evaluation import evaluate
from fastmaml.training.trainer import Trainer


class Parabolas:
    """Tasks y = a (x - b)² + c with a, b, c uniform in [-1, 1] and x uniform in [-1, 1]."""

    def __init__(self, shots: int = 5, queries: int = 20) -> None:
        self.shots, self.queries = shots, queries

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        coefficients = 2 * torch.rand(3, num_tasks, 1, 1, generator=generator) - 1
        support, query = (self._points(coefficients, count, generator) for count in (self.shots, self.queries))
        return TaskBatch(support, query)

    def _points(self, coefficients: Tensor, count: int, generator: torch.Generator) -> Samples:
        a, b, c = coefficients
        x = 2 * torch.rand(len(a), count, 1, generator=generator) - 1  # [T, N, 1]
        return Samples(x, a * (x - b).square() + c)


def main(iterations: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    maml = MAML(model, lr=0.1, steps=3, loss="mse")
    print(maml.explain())
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3, fused=True)
    before = evaluate(maml, Parabolas(), tasks=500, steps=3)
    Trainer(maml, Parabolas(), optimizer, meta_batch=25, iterations=iterations, seed=1).run()
    after = evaluate(maml, Parabolas(), tasks=500, steps=3)
    print("mean squared error after 0 … 3 inner steps")
    for name, evaluation in (("before", before), ("after", after)):
        print(f"{name:>7}", " ".join(f"{loss:7.4f}" for loss in evaluation.loss.tolist()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=2000, help="meta-iterations [default: 2000]")
    main(parser.parse_args().iterations)
