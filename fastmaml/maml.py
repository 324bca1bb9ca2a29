"""MAML: wraps a model, calls an engine, hands autograd the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from fastmaml import engines, inner_lr, ops
from fastmaml.adapted import AdaptedTasks
from fastmaml.batch import Samples, TaskBatch
from fastmaml.checks import blame_data, check_samples, check_steps
from fastmaml.engines import Engine, MetaGradient
from fastmaml.gradients import GradientRule, SecondOrder
from fastmaml.plan import InnerLr, Plan


class Details(NamedTuple):
    """Beside the meta-loss, detached: query losses [T] and the adapted networks' query outputs [T, M, ...]."""

    task_losses: Tensor
    outputs: Tensor


class _Resolved(NamedTuple):
    plan: Plan
    engines: list[Engine]  # all that may run it, the fastest first
    refusals: list[tuple[str, str]]


class MAML(nn.Module):
    """Model-agnostic meta-learning of a model's initialisation.

    Args:
        model: any nn.Module; its structure must not change afterwards. Networks that are a straight line of Linear,
            BatchNorm1d, ReLU, Tanh and Flatten run in the compiled core.
        lr: inner step size α, or {fnmatch pattern on parameter names: α}.
        steps: inner steps K ≥ 1.
        loss: "mse", "cross_entropy", or a callable loss(outputs [N, ...], targets [N, ...]) -> mean.
        rule: how the meta-gradient is taken, see `fastmaml.gradients`.
        engine: "auto" takes the fastest that runs the model; else "cpu", "functional" or "reference".
        adapted: fnmatch patterns of the parameters that inner steps change; None for all (ANIL: the head's).
        meta_learned: patterns of the parameters that get a meta-gradient; None for all.
        learn_lr: "parameter" learns α of each parameter tensor, "element" of each number (Meta-SGD).
    Raises:
        TypeError, ValueError: naming the argument, what was given and what is allowed.
    Source: Finn, Abbeel, Levine 2017, algorithm 1 (arXiv 1703.03400).
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float | Mapping[str, float] = 0.01,
        steps: int = 1,
        loss: str | Callable[..., Tensor] = "mse",
        rule: GradientRule | None = None,
        engine: str = "auto",
        adapted: Iterable[str] | None = None,
        meta_learned: Iterable[str] | None = None,
        learn_lr: inner_lr.LearnLr = False,
    ) -> None:
        super().__init__()
        rule = SecondOrder() if rule is None else rule
        if not isinstance(rule, GradientRule):
            raise TypeError(f"rule: given {rule!r}; allowed is a gradient rule such as SecondOrder() or FirstOrder()")
        if engine != "auto":
            engines.get(engine)
        self._patterns = (_kept(adapted), _kept(meta_learned))
        self.loss, self.rule, self.steps, self._engine_name = loss, rule, check_steps(steps, 1), engine
        plan = Plan.of(model, loss, *self._patterns)
        self.model = model
        self._all_modules = tuple(model.modules())
        self._rates = inner_lr.rates(lr, [slot.name for slot in plan.slots])
        self.inner_lr = inner_lr.learned_rates(learn_lr, self._rates, plan.slots, next(model.parameters()))
        self._forget()
        self._resolve()

    def _forget(self) -> None:
        self._resolved: dict[Any, _Resolved] = {}
        self._fixed: dict[Any, InnerLr] = {}
        self._number: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_resolved": {}, "_fixed": {}, "_number": None}

    @property
    def learns_lr(self) -> bool:
        return len(self.inner_lr) > 0

    @property
    def plan(self) -> Plan:
        """The model's plan in its present mode."""
        return self._resolve().plan

    @property
    def engine(self) -> Engine:
        """The engine that runs the model as it is now."""
        return self._resolve().engines[0]

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """The wrapped model's own forward."""
        return self.model(*inputs, **named)

    def explain(self) -> str:
        """Which engine runs, and why not each faster one, naming the layer."""
        found = self._resolve()
        lines = [f"engine '{found.engines[0].name}' runs {type(self.model).__name__}"]
        if self._engine_name != "auto":
            return f"{lines[0]}, as it was asked for (engine={self._engine_name!r})"
        faster = engines.NAMES[: engines.NAMES.index(found.engines[0].name)]
        lines += [f"not '{name}': {reason}" for name, reason in found.refusals if name in faster]
        return "\n".join(lines)

    @overload
    def meta_loss(self, batch: Any, steps: int | None = None, *, details: Literal[False] = False) -> Tensor: ...
    @overload
    def meta_loss(self, batch: Any, steps: int | None = None, *, details: Literal[True]) -> tuple[Tensor, Details]: ...

    def meta_loss(
        self, batch: Any, steps: int | None = None, *, details: bool = False
    ) -> Tensor | tuple[Tensor, Details]:
        """Mean query loss after adaptation; backward() puts the meta-gradient into the model's parameters.

        Args:
            batch: a TaskBatch, (support_x, support_y, query_x, query_y) or {"train": (x, y), "test": (x, y)}.
            steps: inner steps, if others than the MAML's own.
            details: also give `Details`; not inside torch.compile.
        Returns:
            a scalar in the autograd graph, differentiable once.
        Raises:
            TypeError, ValueError: for bad input, NaN in the data included. A loss that is not finite although the
            data are is returned as it is.
        """
        batch, steps = TaskBatch.of(batch), self.steps if steps is None else steps
        tensors = [*self._parameter_list(), *self.inner_lr]
        if torch.compiler.is_compiling():
            return self._compiled_meta_loss(tensors, batch, steps, details)
        found: list[MetaGradient] = []
        loss = ops.MetaLoss.apply(self, batch, steps, found, *tensors)
        if not details:
            return loss
        return loss, Details(found[0].query_losses, found[0].query_outputs)

    def adapt_tasks(self, support: Any, steps: int | None = None) -> AdaptedTasks:
        """Adapts to each task's support set.

        Args:
            support: Samples, (x [T, N, ...], y) or (x, y, weights).
            steps: inner steps, if others than the MAML's own; 0 gives the initialisation.
        """
        support = Samples.of(support, "support")
        steps = check_steps(self.steps if steps is None else steps, 0)
        tensors = [*self._parameter_list(), *self.inner_lr]
        found = self._resolve()
        support.check("support")
        check_samples(found.plan, support, "support", tensors[0], labels=True)
        engine = self._runner(found, support)
        parameters = found.plan.flatten([tensor.detach() for tensor in tensors[: len(found.plan.slots)]])
        rates = self._inner_lr(found.plan, tensors)
        fast, losses = engine.adapt(found.plan, parameters, rates, _detached(support), steps)
        if not bool(losses.isfinite().all()):
            blame_data(support)
        return AdaptedTasks(found.plan, engine, fast, losses)

    def predict(self, batch: Any, x: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Outputs [T, M, ...] after adaptation: on x, or on the query set of a whole batch."""
        if x is None:
            tasks = TaskBatch.of(batch)
            return self.adapt_tasks(tasks.support, steps)(tasks.query.x)
        return self.adapt_tasks(batch.support if isinstance(batch, TaskBatch) else batch, steps)(x)

    def _compiled_meta_loss(self, tensors: list[Tensor], batch: TaskBatch, steps: int, details: bool) -> Tensor:
        if details:
            raise ValueError("details: given True inside torch.compile; call meta_loss(details=True) outside of it")
        if self._number is None:
            raise RuntimeError("call MAML.prepare_compile() before compiling a step around meta_loss")
        s, q = batch.support, batch.query
        return ops.meta_loss_op(tensors, s.x, s.y, s.weights, q.x, q.y, q.weights, self._number, steps)[0]

    def _run(self, batch: TaskBatch, steps: int, tensors: Sequence[Tensor]) -> tuple[Plan, MetaGradient]:
        """Checks everything, and has the engine take the meta-gradient."""
        steps = check_steps(steps, 1)
        found = self._resolve()
        plan, labels = found.plan, not found.engines[0].checks_labels
        batch.check()
        check_samples(plan, batch.support, "support", tensors[0], labels)
        check_samples(plan, batch.query, "query", tensors[0], labels)
        engine = self._runner(found, batch.support, batch.query)
        parameters = plan.flatten([tensor.detach() for tensor in tensors[: len(plan.slots)]])
        batch = TaskBatch(_detached(batch.support), _detached(batch.query))
        result = engine.meta_gradient(plan, parameters, self._inner_lr(plan, tensors), batch, steps, self.rule)
        if not math.isfinite(result.query_losses.sum().item()):
            blame_data(batch)
        return plan, result

    def _runner(self, found: _Resolved, *sets: Samples) -> Engine:
        """The first engine that takes these samples."""
        reasons = []
        for engine in found.engines:
            refusals = [engine.data_refusal(found.plan, samples) for samples in sets]
            if engine.needs_layers:
                refusals += [found.plan.shape_obstacle(tuple(samples.x.shape[2:])) for samples in sets]
            reason = next((refusal for refusal in refusals if refusal is not None), None)
            if reason is None:
                return engine
            reasons.append(f"'{engine.name}': {reason}")
        raise ValueError(f"engine: none takes this batch. {'; '.join(reasons)}")

    def _inner_lr(self, plan: Plan, tensors: Sequence[Tensor]) -> InnerLr:
        learned = tensors[len(plan.slots) :]
        if learned:
            return inner_lr.current(plan, learned)
        key = (id(plan), tensors[0].dtype, tensors[0].device)
        if key not in self._fixed:
            self._fixed[key] = inner_lr.fixed(plan, self._rates, tensors[0].detach())
        return self._fixed[key]

    def _parameter_list(self) -> list[Tensor]:
        return list(dict.fromkeys(p for m in self._all_modules for p in m._parameters.values() if p is not None))

    def _resolve(self) -> _Resolved:
        """Plan and engines of the model as it is now: its mode, dtype, device and frozen parameters."""
        parameters = self._parameter_list()
        first = parameters[0]
        key = (
            tuple([module.training for module in self._all_modules]),
            tuple([parameter.requires_grad for parameter in parameters]),
            first.dtype,
            first.device,
        )
        found = self._resolved.get(key)
        if found is None:
            found = self._resolved[key] = self._decide(first)
        return found

    def _decide(self, first: Tensor) -> _Resolved:
        plan = Plan.of(self.model, self.loss, *self._patterns)
        if self._engine_name == "auto":
            return _Resolved(plan, *engines.candidates(plan, self.rule, first.device, first.dtype))
        engine = engines.get(self._engine_name)
        refusal = engine.refusal(plan, self.rule, first.device, first.dtype)
        if refusal is not None:
            raise ValueError(
                f"engine: given {self._engine_name!r}, which cannot run this model: {refusal}; engine='auto' "
                "takes one that can"
            )
        return _Resolved(plan, [engine], [])

    def prepare_compile(self) -> MAML:
        """Makes the meta-loss known to torch.compile; call it once before compiling a step around it."""
        if self._number is None:
            self._number = ops.register(self)
        return self


def _kept(patterns: Iterable[str] | None) -> tuple[str, ...] | None:
    if patterns is None or isinstance(patterns, str):
        return None if patterns is None else (patterns,)
    return tuple(patterns)


def _detached(samples: Samples) -> Samples:
    x, y, weights = samples.x, samples.y, samples.weights
    if not (x.requires_grad or y.requires_grad or (weights is not None and weights.requires_grad)):
        return samples
    return Samples(x.detach(), y.detach(), None if weights is None else weights.detach())
