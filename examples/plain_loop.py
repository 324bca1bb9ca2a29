"""The outer loop by hand: the meta-loss is a scalar that autograd knows, so the rest is ordinary PyTorch.

    python examples/plain_loop.py

Here the inner step sizes are learned with the weights, one per parameter tensor, under gradient clipping and a
cosine schedule.
"""

from __future__ import annotations

import argparse

import torch

from fastmaml import MAML
from fastmaml.models import SinusoidMLP
from fastmaml.tasks import Sinusoid


def main(iterations: int) -> None:
    generator = torch.Generator().manual_seed(0)
    maml = MAML(SinusoidMLP(generator=generator), lr=0.01, steps=1, loss="mse", learn_lr="parameter")
    optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)
    source = Sinusoid(shots=10, queries=10)
    for iteration in range(iterations):
        loss = maml.meta_loss(source.sample(25, generator))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(maml.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if (iteration + 1) % max(1, iterations // 10) == 0:
            print(f"iteration {iteration + 1:6d}  query loss {loss.item():.3f}")
    batch = source.sample(1, generator)
    adapted = maml.adapt_tasks(batch.support, steps=3)
    print("a new task, after 3 steps:", torch.nn.functional.mse_loss(adapted(batch.query.x), batch.query.y).item())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=10_000, help="meta-iterations [default: 10000]")
    main(parser.parse_args().iterations)
