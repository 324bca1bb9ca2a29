"""T adapted networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fastmaml.maml import MAML


#: (parameters [P] or [T, P], count) ↦ fast parameters [T, P] after `count` inner steps, support losses [T, count]
Adapt = Callable[[Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class AdaptedTasks:
    """What `MAML.adapt_tasks` gives.

    Args:
        maml: where they come from; its model gives the architecture, and its engine runs it.
        parameters: the fast parameters [T, P].
        losses: support losses [T, K], each taken before its inner step.
    """

    maml: MAML
    parameters: Tensor
    losses: Tensor

    def __len__(self) -> int:
        """T."""
        return len(self.parameters)

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs [T, M, ...] of the adapted networks on x [T, M, ...], in no graph.

        Raises:
            ValueError, TypeError: where x is none for these networks; the message says why.
        """
        return self.maml.run_adapted(self.parameters, x)

    def state_dict(self, task: int) -> dict[str, Tensor]:
        """The adapted network of one task, for `load_state_dict` of a model like the wrapped one.

        Its buffers are those of the model. Raises IndexError for a task that is not there.
        """
        if not -len(self) <= task < len(self):
            raise IndexError(f"task: given {task}; allowed are 0 to {len(self) - 1}")
        model, plan = self.maml.model, self.maml.plan
        fast = plan.unflatten(self.parameters[task])
        adapted = {id(p): fast[name] for name, p in model.named_parameters()}
        state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            state[name] = adapted[id(parameter)].clone()
        return state


class AdaptedTask:
    """What `MAML.adapt_task` gives: one adapted network.

    Args:
        tasks: that task alone.
    """

    def __init__(self, tasks: AdaptedTasks) -> None:
        self._tasks = tasks

    @property
    def parameters(self) -> Tensor:
        """The fast parameters [P]."""
        return self._tasks.parameters[0]

    @property
    def losses(self) -> Tensor:
        """Support losses [K], each taken before its inner step."""
        return self._tasks.losses[0]

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs [M, ...] of the adapted network on x [M, ...], in no graph."""
        return self._tasks(x[None])[0]

    def state_dict(self) -> dict[str, Tensor]:
        """As `AdaptedTasks.state_dict`."""
        return self._tasks.state_dict(0)


@dataclass(frozen=True, eq=False)
class Details:
    """More of a meta-step, in no graph: the loss alone is differentiable, and a term made of these adds no gradient.

    Args:
        task_losses: query losses [T].
        outputs: of the adapted networks on the query set [T, M, ...]; zero in rows of padding.
    """

    task_losses: Tensor
    outputs: Tensor

    def __repr__(self) -> str:
        return f"Details(in no graph: task_losses={self.task_losses}, outputs {list(self.outputs.shape)})"


def steps_of(maml: MAML, adapt: Adapt, start: Tensor, steps: int) -> Iterator[AdaptedTasks]:
    """The tasks after 0, 1, … `steps` inner steps.

    Args:
        start: [P].
    """
    first = adapt(start, 0)

    def each() -> Iterator[AdaptedTasks]:
        fast, losses = first
        yield AdaptedTasks(maml, fast, losses)
        for _ in range(steps):
            fast, loss = adapt(fast, 1)
            losses = torch.cat([losses, loss], 1)
            yield AdaptedTasks(maml, fast, losses)

    return each()


def without_padding(outputs: Tensor, weights: Tensor | None) -> Tensor:
    """Outputs [T, M, ...] with zeros where the weight [T, M] is."""
    if weights is None:
        return outputs
    real = (weights > 0).reshape(weights.shape + (1,) * (outputs.dim() - 2))
    return torch.where(real, outputs, 0)
