"""MAML around any nn.Module: a loss whose backward pass is the meta-gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from fastmaml.batch import Samples, TaskBatch
from fastmaml.diagnosis import Diagnosis, diagnose
from fastmaml.engines.base import Accumulated, Engine, MetaGradient
from fastmaml.gradients import GradientRule, SecondOrder
from fastmaml.plan import InnerLr
from fastmaml.plan.inner_lr import LearnLr
from fastmaml.runtime import checks, direct, ops
from fastmaml.runtime.adapted import Adapt, AdaptedTask, AdaptedTasks, Details, steps_of, without_padding
from fastmaml.runtime.autograd import Computed, MetaLoss
from fastmaml.runtime.configured import Configured
from fastmaml.runtime.options import Options
from fastmaml.runtime.running import update_statistics
from fastmaml.runtime.state import State
from fastmaml.runtime.synchronisation import Group, check_synchronised, several_processes
from fastmaml.stacking import are_tasks

_UNSAID = Group.UNSAID


class MAML(Configured):
    """Model-agnostic meta-learning of a network's initialisation.

    Source: Finn, Abbeel, Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017,
    algorithms 1 and 2 (arXiv 1703.03400); a learned inner lr: Li et al., "Meta-SGD", 2017 (arXiv 1707.09835).

        maml = MAML(model, lr=0.4, steps=1, loss="cross_entropy")
        optimizer = torch.optim.Adam(maml.parameters(), lr=1e-3)
        maml.meta_loss(batch).backward()
        optimizer.step()

    Every option may be assigned later (`maml.lr = 0.05`), and counts from the next call; learn_lr alone cannot. So a
    schedule of the inner step size is an assignment before each call.

    Args:
        model: the network. It is wrapped, not copied; its buffers stay as they are, but for batch_norm="running".
        lr: inner step size, of a mean-reduced loss; one number, or {fnmatch pattern on parameter names: number},
            of which the first that matches counts.
        steps: inner steps K ≥ 1.
        loss: "mse", "cross_entropy", torch's own form of these (nn.MSELoss(), F.cross_entropy, ...), or a callable
            loss(outputs [N, ...], targets [N, ...][, weights [N]]) -> mean.
        rule: how the meta-gradient is taken.
        engine: "auto" (the fastest that runs the model), a name in `fastmaml.engines.NAMES`, or an Engine.
        adapted, meta_learned: fnmatch patterns on parameter names: which ones inner steps change, and which ones get
            a meta-gradient; None for all. Parameters with requires_grad=False are neither.
        learn_lr: False, or one learned step size for each "parameter" or each "element"; then `maml.inner_lr`, in
            the order of `maml.plan.slots`, is among maml.parameters().
        batch_norm: what norms with running statistics normalise by. "batch": by the batch at hand, in train and eval
            mode alike, as in the paper; running statistics are neither used nor changed. "running": in train mode by
            the batch at hand, in eval mode by the running statistics. These move at each `meta_loss` and `backward`
            in train mode: the K support passes and the query pass of each task update copies of them by the norm's
            momentum, and the mean of these copies over tasks and passes takes their place.
    Raises:
        TypeError, ValueError: naming the argument, what was given, and what is allowed.
    """

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
        batch_norm: str = "batch",
    ) -> None:
        options = Options(lr, steps, loss, rule, engine, adapted, meta_learned, learn_lr, batch_norm)
        super().__init__(model, options)
        self._handle = ops.register(self)

    def forward(self, x: Tensor) -> Tensor:
        """The wrapped model's own output."""
        outputs: Tensor = self.model(x)
        return outputs

    @overload
    def meta_loss(
        self, batch: Any, steps: int | None = None, details: Literal[False] = False, *, group: Group | None = ...
    ) -> Tensor: ...

    @overload
    def meta_loss(
        self, batch: Any, steps: int | None = None, *, details: Literal[True], group: Group | None = ...
    ) -> tuple[Tensor, Details]: ...

    def meta_loss(
        self, batch: Any, steps: int | None = None, details: bool = False, *, group: Group | None = _UNSAID
    ) -> Tensor | tuple[Tensor, Details]:
        """The mean query loss over tasks after the inner steps; its backward pass gives the meta-gradient.

        The gradient is computed at once, by the engine. Under torch.no_grad() the loss is in no graph.

        Args:
            batch: a TaskBatch, (support_x, support_y, query_x, query_y), {"train": (x, y), "test": (x, y)}, or a list
                of tasks as `TaskBatch.of_tasks` takes them; x is [T, N, ...]; y is [T, N] int64 labels or
                [T, N, outputs] targets. None of them may require grad.
            steps: inner steps ≥ 1, if others than the MAML's own.
            details: whether to return (loss, Details(task_losses [T], outputs [T, M, ...])). The loss alone is
                differentiable: details are in no graph.
            group: None says that the caller brings the gradients of several processes together.
        Returns:
            a scalar. It may be infinite or NaN where training diverges. Its backward pass runs once, unless it is
            told to retain the graph.
        Raises:
            TypeError, ValueError: naming the argument, what was given, and what is allowed; NaN in the data, too.
            RuntimeError: several processes train, and nothing would bring their gradients together.
        """
        if torch.compiler.is_compiling():
            return self._compiled(batch, steps, details, group is None)
        batch = TaskBatch.of(batch)
        steps = self._options.steps if steps is None else checks.whole_number("steps", steps, 1)
        state = self._current()
        _check_untransformed("meta_loss")
        differentiable = torch.is_grad_enabled()
        if differentiable:
            checks.check_batch_in_no_graph(batch)
            if group is not _UNSAID or several_processes():
                check_synchronised(state.model, group, through_autograd=True)
        loss, derivative, query_losses, outputs = self._differentiated(state, batch, steps, details)
        if state.updates_statistics:
            self._update_statistics(state, batch, steps)
        if differentiable:
            inputs = state.wired_parameters if self.inner_lr is None else [*state.wired_parameters, self.inner_lr]
            loss = MetaLoss.wire(loss, derivative, inputs)
        if not details:
            return loss
        assert query_losses is not None
        assert outputs is not None
        return loss, Details(query_losses, without_padding(outputs, batch.query.weights))

    def backward(self, batch: Any, steps: int | None = None, *, group: Group | None = _UNSAID) -> Tensor:
        """`meta_loss(batch, steps)` and its `backward()` in one: adds the meta-gradient to the parameters' `.grad`.

        It leaves out autograd's engine, which costs more than all of a small meta-step. Hooks on the parameters run;
        those that DistributedDataParallel puts beside them do not.

        Args:
            batch, steps: as `meta_loss`.
            group: None says that the caller brings the gradients of several processes together.
        Returns:
            the mean query loss [], in no graph.
        Raises:
            TypeError, ValueError, RuntimeError: as `meta_loss`; then no gradient has been touched.
        """
        return self.accumulate(batch, steps, group=group).loss

    def accumulate(
        self,
        batch: Any,
        steps: int | None = None,
        outputs: bool = False,
        overwrite: bool = False,
        group: Group | None = _UNSAID,
    ) -> Accumulated:
        """`backward` as a trainer calls it.

        Args:
            outputs: whether the query outputs are wanted.
            overwrite: write over the gradients that are there, instead of adding to them.
        """
        if group is not _UNSAID or several_processes():
            check_synchronised(self.model, group, through_autograd=False)
        overridden = getattr(self.meta_loss, "__func__", None) is not MAML.meta_loss  # someone adds to the loss
        if self.inner_lr is None and not overridden and not torch.compiler.is_compiling():
            number = self._options.steps if steps is None else checks.whole_number("steps", steps, 1)
            state = self._current()
            _check_adapts(state, number)
            admitted = batch if type(batch) is TaskBatch else TaskBatch.of(batch)
            checks.check_batch_in_no_graph(admitted)
            done = direct.accumulate(state, admitted, number, self._options.rule, outputs, overwrite)
            if done is not None:
                if state.updates_statistics:
                    self._update_statistics(state, admitted, number)
                return done
        return self._accumulate_by_autograd(batch, steps, overwrite)

    def _accumulate_by_autograd(self, batch: Any, steps: int | None, overwrite: bool) -> Accumulated:
        alone: dict[str, None] = {"group": None} if several_processes() else {}  # which `accumulate` has checked
        with torch.inference_mode(False), torch.enable_grad():
            loss, details = self.meta_loss(batch, steps, details=True, **alone)
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
            as `meta_loss`; RuntimeError inside a transform of torch.func.
        """
        adapt, start, steps = self._adaptation(support, steps, "adapt_tasks")
        return AdaptedTasks(self, *adapt(start, steps))

    def adapt_task(self, x: Any, y: Tensor, weights: Tensor | None = None, steps: int | None = None) -> AdaptedTask:
        """Adapts the model to one task: `adapt_tasks` without a dimension for tasks.

        Args:
            x: inputs [N, ...].
            y: int64 labels [N], or float targets [N, outputs].
            weights: [N], or None.
            steps: as `adapt_tasks`.
        """
        given = (("x", x), ("y", y), ("weights", weights))
        for name, tensor in given:
            if not isinstance(tensor, Tensor) and not (tensor is None and name == "weights"):
                raise TypeError(f"{name}: given {type(tensor).__name__}; allowed is a torch.Tensor [N, ...]")
        support = Samples(x[None], y[None], None if weights is None else weights[None])
        return AdaptedTask(self.adapt_tasks(support, steps))

    def adapt_steps(self, support: Any, steps: int | None = None) -> Iterator[AdaptedTasks]:
        """Adapts the model to T tasks and gives them after 0, 1, … `steps` inner steps, each from the one before.

        Arguments are checked, and the initialisation is read, when it is called; a step is taken when it is asked for.

        Args:
            support, steps: as `adapt_tasks`.
        Raises:
            as `adapt_tasks`.
        """
        adapt, start, steps = self._adaptation(support, steps, "adapt_steps")
        return steps_of(self, adapt, start, steps)

    def _adaptation(self, support: Any, steps: int | None, verb: str) -> tuple[Adapt, Tensor, int]:
        """Checks what adaptation is given; how to adapt to the support set, from where [P], and how many steps."""
        support = Samples.of(support)
        steps = self._options.steps if steps is None else checks.whole_number("steps", steps, 0)
        state = self._current()
        _check_untransformed(verb)
        checks.check_no_graph(("support", support))
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

        return adapt, flat, steps

    def predict(self, batch: Any, x: Tensor | None = None, steps: int | None = None) -> Tensor:
        """Adapts to a support set, then runs the adapted networks on x: outputs [T, M, ...].

        Args:
            batch: a support set, as `adapt_tasks` takes it, or a TaskBatch, whose support set is meant.
            x: inputs [T, M, ...]; may be left out for a TaskBatch, whose query.x is then meant.
        """
        if isinstance(batch, dict) or (isinstance(batch, (tuple, list)) and (len(batch) == 4 or are_tasks(batch))):
            batch = TaskBatch.of(batch)
        if isinstance(batch, TaskBatch):
            x = batch.query.x if x is None else x
            batch = batch.support
        if x is None:
            raise TypeError("x: not given; it may be left out only where a whole TaskBatch is given")
        return self.adapt_tasks(batch, steps)(x)

    def check(self, batch: Any, steps: int | None = None) -> Diagnosis:
        """Compares the meta-gradient of the model and the loss with finite differences, in float64, on the first task.

        What it is for: code that is silently not meta-learned, as by `.data`, `.detach()` or a copy of a parameter in
        the forward pass. It also says which buffers a forward pass changes, and whether it draws random numbers. The
        MAML is left as it is. It takes a few adaptations for each parameter tensor.

            print(maml.check(batch))

        Args:
            batch, steps: as `meta_loss`.
        Returns:
            a Diagnosis; `ok` says whether every parameter gets the gradient that it should.
        Raises:
            TypeError, ValueError: as `meta_loss`, and where the model cannot be copied.
        """
        return diagnose(self, batch, self._options.steps if steps is None else checks.whole_number("steps", steps, 1))

    def inner_lr_in_force(self) -> InnerLr:
        """The inner step size of every element, as engines take it."""
        return self._lr(self._current(), self.inner_lr)

    def run_adapted(self, parameters: Tensor, x: Tensor) -> Tensor:
        """Outputs [T, M, ...] of fast parameters [T, P] on x [T, M, ...], in no graph."""
        state = self._current()
        _check_untransformed("an adapted network")
        checks.check_no_graph(("", Samples(x, x)))
        with _no_graph():
            found = state.admit_inputs(x, parameters)
            x = checks.plain(x)
            return state.choice.run(found, lambda engine: engine.predict(state.plan, parameters, x))

    def computed(
        self, parameters: Sequence[Tensor], inner_lr: Tensor | None, batch: TaskBatch, steps: int, alone: bool
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
        """What compiled code asks for: loss, gradient [P], gradient of the inner lr, task losses, outputs."""
        state, steps = self._current(), checks.whole_number("steps", steps, 1)
        check_synchronised(state.model, None if alone else _UNSAID, through_autograd=True)
        if state.updates_statistics:
            raise RuntimeError(
                "batch_norm: 'running' changes buffers in train mode, which a compiled step cannot; "
                "leave meta_loss out of what is compiled"
            )
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
            found = engine.meta_gradient(state.plan, flat, lr, batch, self._options.steps, self._options.rule)
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
        rule = self._options.rule
        with _no_graph():
            found, batch = state.admit(batch)
            _check_adapts(state, steps)
            flat, lr = state.flatten(parameters), self._lr(state, learned_lr)
            if len(found) == 1:
                result = found[0].meta_gradient(state.plan, flat, lr, batch, steps, rule)
            else:
                result = state.choice.run(
                    found, lambda engine: engine.meta_gradient(state.plan, flat, lr, batch, steps, rule)
                )
            loss = state.mean(result.query_losses, batch.shares())
            if not math.isfinite(loss.item()):
                checks.check_finite(("support", batch.support), ("query", batch.query))
        return result, loss

    def _differentiated(
        self, state: State, batch: TaskBatch, steps: int, details: bool
    ) -> tuple[Tensor, Computed, Tensor | None, Tensor | None]:
        """The mean query loss, its derivative, and where details are wanted the query losses and outputs."""
        if self.inner_lr is None and state.adapts:
            found = direct.meta_gradient(state, batch, steps, self._options.rule, details)
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

    def _update_statistics(self, state: State, batch: TaskBatch, steps: int) -> None:
        with _no_graph():
            found, batch = state.admit(batch)
            update_statistics(state.plan, self._passes(state, found, batch, steps))

    def _passes(
        self, state: State, found: list[Engine], batch: TaskBatch, steps: int
    ) -> Iterator[tuple[Tensor, Samples]]:
        """The forward passes of a meta-step: fast parameters [T, P] and the samples that they see."""
        plan, lr = state.plan, self._lr(state, self.inner_lr)
        fast = state.flatten(state.parameters).expand(batch.num_tasks, -1).contiguous()
        for _ in range(steps):
            yield fast, batch.support
            fast, _ = state.choice.run(found, lambda engine: engine.adapt(plan, fast, lr, batch.support, 1))  # noqa: B023
        yield fast, batch.query

    def _compiled(self, batch: Any, steps: int | None, details: bool, alone: bool) -> Tensor | tuple[Tensor, Details]:
        batch = TaskBatch.of(batch)
        support, query = batch.support, batch.query
        checks.check_batch_in_no_graph(batch)
        loss, _, _, task_losses, outputs = ops.meta_loss(
            list(self.model.parameters()),
            self.inner_lr,
            support.x,
            support.y,
            support.weights,
            query.x,
            query.y,
            query.weights,
            batch.weights,
            self._handle,
            self._options.steps if steps is None else steps,
            details,
            alone,
        )
        return (loss, Details(task_losses, outputs)) if details else loss

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._handle = ops.register(self)


def _check_untransformed(what: str) -> None:
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{what} cannot be transformed by torch.func, which knows nothing of how its numbers are made; use "
            "meta_loss(batch).backward() or torch.autograd.grad"
        )


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
