"""T adapted networks."""

from __future__ import annotations

from torch import Tensor

from fastmaml.checks import check_inputs
from fastmaml.engines import Engine
from fastmaml.plan import Plan


class AdaptedTasks:
    """What `MAML.adapt_tasks` gives: call it on inputs [T, M, ...] for the T networks' outputs [T, M, ...].

    Args:
        parameters: fast parameters [T, P], in the order of model.named_parameters().
        losses: support losses [T, K], each before its step.
    """

    def __init__(self, plan: Plan, engine: Engine, parameters: Tensor, losses: Tensor) -> None:
        self.plan, self.engine, self.parameters, self.losses = plan, engine, parameters, losses

    def __len__(self) -> int:
        return int(self.parameters.shape[0])

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs [T, M, ...]; task t's inputs go through task t's network."""
        if x.dim() < 2 or x.shape[0] != len(self) or x.shape[1] < 1:
            raise ValueError(f"x: given shape {list(x.shape)}; allowed is [{len(self)}, M, ...] with M of at least 1")
        check_inputs(self.plan, x, "x", self.parameters)
        return self.engine.predict(self.plan, self.parameters, x.detach())

    def state_dict(self, task: int) -> dict[str, Tensor]:
        """One task's parameters by name, as copies: model.load_state_dict(..., strict=False) takes them."""
        if not 0 <= task < len(self):
            raise IndexError(f"task: given {task}; allowed are 0 to {len(self) - 1}")
        return {name: value.clone() for name, value in self.plan.unflatten(self.parameters[task]).items()}
