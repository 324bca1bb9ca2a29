"""MAML around any nn.Module: a loss whose backward pass is the meta-gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fastmaml import checks, direct, ops
from fastmaml.adapted import AdaptedTasks, Details, steps_of, without_padding
from fastmaml.autograd import Computed, MetaLoss
from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Accumulated, Engine, MetaGradient
from fastmaml.gradients import GradientRule, SecondOrder
from fastmaml.inner_lr import LearnLr, check_learn, initial
from fastmaml.plan import InnerLr, Plan
from fastmaml.state import State


class MAML(nn.Module):
    """Model-agnostic meta-learning of a network's initialisation.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017,
    algorithms 1 and 2 (arXiv 1703.03400); a learned inner lr: Li et al., "Meta-SGD", 2017 (arXiv 1707.09835).

        maml = MAML(model, lr=0.4, steps=1, loss="cross_entropy")
        optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3)
        maml.meta_loss(batch).backward()
        optimizer.step()

    Args:
        model: the network. It is wrapped, not copied; its buffers, running statistics included, stay as they are.
        lr: inner step size, of a mean-reduced loss; one number, or {fnmatch pattern on parameter names: number},
            of which the first that matches counts.
        steps: inner steps K ≥ 1.
        loss: "mse", "cross_entropy", or a callable loss(outputs [N, ...], targets [N, ...][, weights [N]]) -> mean.
        rule: how the meta-gradient is taken.
        engine: "auto" (the fastest that runs the model), a name in `fastmaml.engines.NAMES`, or an Engine.
        adapted, meta_learned: fnmatch patterns on parameter names: which ones inner steps change, and which ones get
            a meta-gradient; None for all. Parameters with requires_grad=False are neither.
        learn_lr: False, or one learned step size for each "parameter" or each "element"; then `maml.inner_lr`, in
            the order of `maml.plan.slots`, is among maml.parameters().
    Raises:
        TypeError, ValueError: naming the argument, what was given, and what is allowed.
    """

    inner_lr: nn.Parameter | None

    def __init__(
        self,
        model: nn.Module,
        lr: float | Mapping[str, float] = 0.01,
        steps: int = 1,
        loss: str | Callable[..., Tensor] = "mse",
        rule: GradientRule = SecondOrder(),  # noqa: B008 - frozen
        engine: str | Engine = "auto",
        adapted: Iterable[str] | None = None,
        meta_learned: Iterable[str] | None = None,
        learn_lr: LearnLr = False,
    ) -> None:
        super().__init__()
        if not isinstance(rule, GradientRule):
            raise TypeError(f"rule: given {rule!r}; allowed is a GradientRule, such as SecondOrder() or FirstOrder()")
        check_learn(learn_lr)
        self.lr = dict(lr) if isinstance(lr, Mapping) else lr
        self.loss, self.rule, self.asked_engine = loss, rule, engine
        self.adapted, self.meta_learned = _kept(adapted), _kept(meta_learned)
        self.steps = checks.whole_number("steps", steps, 1)
        self.learn_lr = learn_lr
        self.inner_lr = None
        if isinstance(model, nn.Module):  # Plan.of says what is wrong otherwise
            self.model = model
        else:
            Plan.of(model)
        self._state: State | None = None
        self._handle = ops.register(self)
        if learn_lr:
            state = self._current()
            self.inner_lr = nn.Parameter(initial(state.rates, state.plan, learn_lr, state.like))
        self._current()

    def forward(self, x: Tensor) -> Tensor:
        """The wrapped model's own output."""
        outputs: Tensor = self.model(x)
        return outputs

    @property
    def plan(self) -> Plan:
        """The model's Plan in its present mode."""
        return self._current().plan

    @property
    def engine(self) -> Engine:
        """The engine that runs the model in its present mode."""
        return self._current().choice.engines[0]

    def explain(self) -> str:
        """Which engine runs the model, and why not each faster one."""
        return self._current().choice.explain()

    def extra_repr(self) -> str:
        lr = f"learned per {self.learn_lr}" if self.learn_lr else self.lr
        return f"lr={lr}, steps={self.steps}, loss={self.loss!r}, rule={self.rule}, engine={self.asked_engine!r}"

    @overload
    def meta_loss(self, batch: Any, steps: int | None = None, details: Literal[False] = False) -> Tensor: ...

    @overload
    def meta_loss(self, batch: Any, steps: int | None = None, *, details: Literal[True]) -> tuple[Tensor, Details]: ...

    def meta_loss(self, batch: Any, steps: int | None = None, details: bool = False) -> Tensor | tuple[Tensor, Details]:
        """The mean query loss over tasks after the inner steps; its backward pass gives the meta-gradient.

        The gradient is computed at once, by the engine. Under torch.no_grad() the loss is in no graph.

        Args:
            batch: a TaskBatch, (support_x, support_y, query_x, query_y), or {"train": (x, y), "test": (x, y)};
                x is [T, N, ...]; y is [T, N] int64 labels or [T, N, outputs] targets.
            steps: inner steps ≥ 1, if others than the MAML's own.
            details: whether to return (loss, Details(task_losses [T], outputs [T, M, ...])).
        Returns:
            a scalar. It may be infinite or NaN where training diverges.
        Raises:
            TypeError, ValueError: naming the argument, what was given, and what is allowed; NaN in the data, too.
        """
        if torch.compiler.is_compiling():
            return self._compiled(batch, steps, details)
        batch = TaskBatch.of(batch)
        steps = self.steps if steps is None else checks.whole_number("steps", steps, 1)
        state = self._current()
        loss, derivative, query_losses, outputs = self._differentiated(state, batch, steps, details)
        if torch.is_grad_enabled():
            inputs = state.wired_parameters if self.inner_lr is None else [*state.wired_parameters, self.inner_lr]
            loss = MetaLoss.wire(loss, derivative, inputs)
        if not details:
            return loss
        assert query_losses is not None
        assert outputs is not None
        return loss, Details(query_losses, without_padding(outputs, batch.query.weights))

    def backward(self, batch: Any, steps: int | None = None) -> Tensor:
        """`meta_loss(batch, steps)` and its `backward()` in one: adds the meta-gradient to the parameters' `.grad`.

        It leaves out autograd's engine, which costs more than all of a small meta-step. Hooks on the parameters run;
        those that DistributedDataParallel puts beside them do not.

        Returns:
            the mean query loss [], in no graph.
        Raises:
            TypeError, ValueError: as `meta_loss`; then no gradient has been touched.
        """
        return self.accumulate(batch, steps).loss

    def accumulate(
        self, batch: Any, steps: int | None = None, outputs: bool = False, overwrite: bool = False
    ) -> Accumulated:
        """`backward` as a trainer calls it.

        Args:
            outputs: whether the query outputs are wanted.
            overwrite: write over the gradients that are there, instead of adding to them.
        """
        overridden = getattr(self.meta_loss, "__func__", None) is not MAML.meta_loss  # someone adds to the loss
        if self.inner_lr is None and not overridden and not torch.compiler.is_compiling():
            number = self.steps if steps is None else checks.whole_number("steps", steps, 1)
            state = self._current()
            _check_adapts(state, number)
            admitted = batch if type(batch) is TaskBatch else TaskBatch.of(batch)
            done = direct.accumulate(state, admitted, number, self.rule, outputs, overwrite)
            if done is not None:
                return done
        return self._accumulate_by_autograd(batch, steps, overwrite)

    def _accumulate_by_autograd(self, batch: Any, steps: int | None, overwrite: bool) -> Accumulated:
        with torch.inference_mode(False), torch.enable_grad():
            loss, details = self.meta_loss(batch, steps, details=True)
            if overwrite:
                self.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        finite = math.isfinite(loss.item()) and _all_finite([p.grad for p in self.parameters() if p.grad is not None])
        return Accumulated(loss.detach(), finite, details.task_losses, details.outputs)

    def adapt_tasks(self, support: Any, steps: int | None = None) -> AdaptedTasks:
        """Adapts the model to T tasks.

        Args:
            support: Samples, (x [T, N, ...], y) or (x, y, weights [T, N]).
            steps: inner steps ≥ 0, if others than the MAML's own; 0 gives the initialisation.
        Raises:
            as `meta_loss`.
        """
        support = Samples.of(support)
        steps = self.steps if steps is None else checks.whole_number("steps", steps, 0)
        state = self._current()
        with _no_graph():
            found, support = state.admit_support(support)
            _check_adapts(state, steps)
            flat, lr = state.flatten(state.parameters), self._lr(state, self.inner_lr)
            fast, losses = state.choice.run(found, lambda engine: engine.adapt(state.plan, flat, lr, support, steps))
            if not math.isfinite(losses.sum().item()):
                checks.check_finite(("support", support))
        return AdaptedTasks(self, fast, losses)

    def adapt_steps(self, support: Any, steps: int | None = None) -> Iterator[AdaptedTasks]:
        """Adapts the model to T tasks and gives them after 0, 1, … `steps` inner steps, each from the one before.

        Arguments are checked, and the initialisation is read, when it is called; a step is taken when it is asked for.

        Args:
            support, steps: as `adapt_tasks`.
        Raises:
            as `meta_loss`.
        """
        support = Samples.of(support)
        steps = self.steps if steps is None else checks.whole_number("steps", steps, 0)
        state = self._current()
        with _no_graph():
            found, support = state.admit_support(support)
            _check_adapts(state, steps)
            flat, lr = state.flatten(state.parameters), self._lr(state, self.inner_lr)

        def adapt(start: Tensor, count: int) -> tuple[Tensor, Tensor]:
            with _no_graph():
                fast, losses = state.choice.run(
                    found, lambda engine: engine.adapt(state.plan, start, lr, support, count)
                )
                if not math.isfinite(losses.sum().item()):
                    checks.check_finite(("support", support))
            return fast, losses

        return steps_of(self, adapt, flat, steps)

    def predict(self, batch: Any, x: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Adapts to a support set, then runs the adapted networks on x: outputs [T, M, ...].

        Args:
            batch: a support set, as `adapt_tasks` takes it, or a TaskBatch, whose support set is meant.
            x: inputs [T, M, ...]; may be left out for a TaskBatch, whose query.x is then meant.
        """
        if isinstance(batch, dict) or (isinstance(batch, (tuple, list)) and len(batch) == 4):
            batch = TaskBatch.of(batch)
        if isinstance(batch, TaskBatch):
            x = batch.query.x if x is None else x
            batch = batch.support
        if x is None:
            raise TypeError("x: not given; it may be left out only where a whole TaskBatch is given")
        return self.adapt_tasks(batch, steps)(x)

    def run_adapted(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Outputs [T, M, ...] of fast parameters [T, P] on x [T, M, ...], in no graph."""
        state = self._current()
        with _no_graph():
            found = state.admit_inputs(x, parameters)
            x = checks.plain(x)
            return state.choice.run(found, lambda engine: engine.predict(state.plan, parameters, x))

    def computed(
        self, parameters: Sequence[Tensor], inner_lr: Tensor | None, batch: TaskBatch, steps: int
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """What compiled code asks for: loss, gradient [P], gradient of the inner lr, task losses, outputs."""
        state, steps = self._current(), checks.whole_number("steps", steps, 1)
        result, loss = self._run(state, parameters, inner_lr, batch, steps)
        outputs = without_padding(result.query_outputs, batch.query.weights)
        return loss, result.gradient, self._lr_gradient(state, result), result.query_losses, outputs

    def admit(self, batch: TaskBatch) -> Engine:
        """The engine that takes a batch. Raises TypeError or ValueError, as `meta_loss`."""
        state = self._current()
        found, _ = state.admit(batch)
        _check_adapts(state, self.steps)
        return found[0]

    def wired_parameters(self) -> list[Tensor]:
        """The parameters that get a gradient; a learned inner lr is the last."""
        wired = self._current().wired_parameters
        return [*wired] if self.inner_lr is None else [*wired, self.inner_lr]

    def unchecked_meta_gradient(self, batch: TaskBatch) -> tuple[MetaGradient, list[Tensor]]:
        """What the first engine gives for a batch of a form that was admitted, without waiting for the device.

        Returns:
            its answer, and the gradient of each of `wired_parameters`.
        """
        state = self._current()
        with _no_graph():
            flat, lr = state.flatten(state.parameters), self._lr(state, self.inner_lr)
            engine = state.choice.engines[0]
            found = engine.meta_gradient(state.plan, flat, lr, batch, self.steps, self.rule)
            pieces = list(state.plan.unflatten(found.gradient).values())
            gradients = [pieces[index] for index in state.wired]
            of_lr = self._lr_gradient(state, found)
        return found, gradients if of_lr is None else [*gradients, of_lr]

    def learned_slots(self) -> list[int]:
        """What compiled code asks for: the indices of the parameters that get a gradient."""
        return self._current().wired

    def output_shape(self, query_x: Tensor) -> tuple[int, ...]:
        """What compiled code asks for: the shape of one sample's output, without running anything."""
        known = self._current().output_shape(tuple(query_x.shape[2:]))
        if known is None:
            raise RuntimeError("details: the shape of the outputs is not known yet; call meta_loss once uncompiled")
        return known

    def _run(
        self,
        state: State,
        parameters: Sequence[Tensor],
        learned_lr: Tensor | None,
        batch: TaskBatch,
        steps: int,
    ) -> tuple[MetaGradient, Tensor]:
        """What the engine gives, and the mean query loss."""
        with _no_graph():
            found, batch = state.admit(batch)
            _check_adapts(state, steps)
            flat, lr = state.flatten(parameters), self._lr(state, learned_lr)
            if len(found) == 1:
                result = found[0].meta_gradient(state.plan, flat, lr, batch, steps, self.rule)
            else:
                result = state.choice.run(
                    found, lambda engine: engine.meta_gradient(state.plan, flat, lr, batch, steps, self.rule)
                )
            loss = state.mean(result.query_losses)
            if not math.isfinite(loss.item()):
                checks.check_finite(("support", batch.support), ("query", batch.query))
        return result, loss

    def _differentiated(
        self, state: State, batch: TaskBatch, steps: int, details: bool
    ) -> tuple[Tensor, Computed, Tensor | None, Tensor | None]:
        """The mean query loss, its derivative, and where details are wanted the query losses and outputs."""
        if self.inner_lr is None and state.adapts:
            found = direct.meta_gradient(state, batch, steps, self.rule, details)
            if found is not None:
                computed = Computed(found.gradient, None, state.parameters, state.wired, found.pieces)
                return found.loss, computed, found.query_losses, found.query_outputs
        result, loss = self._run(state, state.parameters, self.inner_lr, batch, steps)
        computed = Computed(result.gradient, self._lr_gradient(state, result), state.parameters, state.wired)
        return loss, computed, result.query_losses, result.query_outputs

    def _lr(self, state: State, learned: Tensor | None) -> InnerLr:
        return state.inner_lr.fixed if learned is None else state.inner_lr.learned(learned)

    def _lr_gradient(self, state: State, result: MetaGradient) -> Tensor | None:
        if self.inner_lr is None or result.inner_lr_gradient is None:
            return None
        return state.inner_lr.gradient(result.inner_lr_gradient, self.inner_lr)

    def _compiled(self, batch: Any, steps: int | None, details: bool) -> Tensor | tuple[Tensor, Details]:
        batch = TaskBatch.of(batch)
        support, query = batch.support, batch.query
        loss, _, _, task_losses, outputs = ops.meta_loss(
            list(self.model.parameters()),
            self.inner_lr,
            support.x,
            support.y,
            support.weights,
            query.x,
            query.y,
            query.weights,
            self._handle,
            self.steps if steps is None else steps,
            details,
        )
        return (loss, Details(task_losses, outputs)) if details else loss

    def _current(self) -> State:
        state = self._state
        if state is None or state.watch.changed():
            state = self._state = State(self)
        return state

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._handle = ops.register(self)


def _check_adapts(state: State, steps: int) -> None:
    if steps and not state.adapts:
        raise ValueError(
            "model: no parameter has requires_grad=True, so that inner steps would change none; call "
            "model.requires_grad_(), or give adapted=[] if that is meant"
        )


def _all_finite(gradients: Sequence[Tensor]) -> bool:
    """One sum waits for the device once, and may itself overflow: only then each is looked at."""
    if not gradients or math.isfinite(torch.cat([gradient.reshape(-1) for gradient in gradients]).sum().item()):
        return True
    return all(bool(gradient.isfinite().all()) for gradient in gradients)


def _no_graph() -> AbstractContextManager[Any]:
    if not torch.is_inference_mode_enabled():
        return torch.no_grad()
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.no_grad())
    return stack


def _kept(patterns: Iterable[str] | None) -> tuple[str, ...] | str | None:
    return patterns if patterns is None or isinstance(patterns, str) else tuple(patterns)
