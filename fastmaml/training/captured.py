"""A meta-step recorded once, as a CUDA graph, and replayed: one launch, the optimizer's step included."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from fastmaml.batch import Samples, TaskBatch
from fastmaml.evaluation.metrics import task_accuracies
from fastmaml.maml import MAML
from fastmaml.plan.statistics import updates_statistics
from fastmaml.training.step import MetaStep, is_hooked


class Graph(Protocol):
    """Launches on a device that are recorded once and replayed; `CudaGraph`, or what stands in for it."""

    def capture(self, body: Callable[[], None]) -> None:
        """Records what `body` launches, without running it."""
        ...

    def replay(self) -> None:
        """Runs what was recorded, on the same memory."""
        ...


class CudaGraph:
    """A CUDA graph of one device."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._graph = device, torch.cuda.CUDAGraph()

    def capture(self, body: Callable[[], None]) -> None:
        with torch.cuda.device(self._device):
            before = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                    body()
            finally:
                torch.cuda.set_stream(before)  # which a capture that fails does not put back

    def replay(self) -> None:
        with torch.cuda.device(self._device):
            self._graph.replay()


def capture_obstacle(maml: MAML, optimizer: Optimizer, scheduler: LRScheduler | None = None) -> str | None:
    """Why meta-steps cannot be recorded as a CUDA graph, and what to change; None where they can."""
    parameter = next(maml.model.parameters())
    if parameter.device.type != "cuda":
        return f"the parameters are on {parameter.device}, and CUDA graphs are of CUDA devices"
    if not maml.engine.capturable:
        return f"engine {maml.engine.name!r} waits for the device; 'gpu' does not"
    if getattr(maml.meta_loss, "__func__", None) is not MAML.meta_loss:
        return f"{type(maml).__name__} has a meta_loss of its own"
    if maml.batch_norm == "running" and any(map(updates_statistics, maml.model.modules())):
        return "batch_norm='running' changes buffers beside the parameters"
    return _optimizer_obstacle(optimizer, scheduler) or _hooks_obstacle(maml, optimizer)


def _optimizer_obstacle(optimizer: Optimizer, scheduler: LRScheduler | None) -> str | None:
    if not all(group.get("capturable", False) for group in optimizer.param_groups):
        name = type(optimizer).__name__
        if "capturable" in optimizer.defaults:
            return f"the optimizer waits for the device; make it with capturable=True, as {name}(..., capturable=True)"
        return f"{name} cannot be captured; torch.optim.Adam(..., capturable=True) can"
    numbers = any(not isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
    if numbers and scheduler is not None and not isinstance(scheduler, ReduceLROnPlateau):
        return "the scheduler changes a learning rate that is a number; give lr=torch.tensor(0.001, device='cuda')"
    return None


def _hooks_obstacle(maml: MAML, optimizer: Optimizer) -> str | None:
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in maml.parameters()):
        return "a parameter has a hook that waits for its gradient"
    return "the optimizer has hooks" if is_hooked(optimizer) else None


class CapturedStep:
    """A MetaStep whose batches of one form are recorded and replayed.

    The first two steps of a form launch one by one, which compiles kernels and makes the optimizer's state; then the
    step is recorded. All three do the same arithmetic. The uncaptured step takes batches with weights, those that the
    engine leaves to another one, and one whose loss, meta-gradient or labels are not in order: it says what is wrong,
    and the parameters are as before.

    Args:
        step: what is done to a batch that cannot be recorded, and with what optimizer and bounds.
        graph_of: device ↦ Graph; another one is for tests.
    """

    def __init__(self, step: MetaStep, graph_of: Callable[[torch.device], Graph] = CudaGraph) -> None:
        self.maml, self._step, self._graph_of = step.maml, step, graph_of
        self._engine = self.maml.engine.name  # another one that takes over may not be capturable
        self._key: tuple[Any, ...] = ()
        self._record: _Record | None = None

    def __call__(self, batch: TaskBatch, meanwhile: Callable[[], None] | None = None) -> tuple[float, float | None]:
        """As MetaStep. `meanwhile` runs once all is launched, while the device works."""
        if any(weights is not None for weights in (batch.support.weights, batch.query.weights, batch.weights)):
            return self._step(batch, meanwhile)
        record = self._recorded(batch)
        if record is None:
            return self._step(batch, meanwhile)
        if not record.run(batch, meanwhile):
            self.clear()
            return self._step(batch)
        if self._step.scheduler is not None:
            self._step.scheduler.step()
        return record.loss, record.accuracy

    def clear(self) -> None:
        """Forgets what was recorded, and sets the gradients to None."""
        self._key, self._record = (), None
        self._step.clear()

    def _recorded(self, batch: TaskBatch) -> _Record | None:
        key = self._key_of(batch)
        if key != self._key:
            taken = self.maml.admit(batch).name == self._engine
            self._key, self._record = key, _Record(self._step, batch, self._graph_of) if taken else None
        return self._record

    def _key_of(self, batch: TaskBatch) -> tuple[Any, ...]:
        """All that a recorded step takes for given; tensors by where they are."""
        maml, groups = self.maml, self._step.optimizer.param_groups
        return (
            maml.plan,  # another one whenever the model has changed
            maml.options,
            tuple((t.shape, t.dtype, t.device) for t in _tensors(batch)),
            tuple(p.data_ptr() for p in maml.parameters()),
            tuple((k, id(v) if isinstance(v, Tensor) else v) for g in groups for k, v in g.items() if k != "params"),
            torch.get_float32_matmul_precision(),
            torch.backends.cudnn.allow_tf32,
        )


class _Record:
    """The step for batches of one form, on memory of its own."""

    def __init__(self, step: MetaStep, like: TaskBatch, graph_of: Callable[[torch.device], Graph]) -> None:
        maml, self._step = step.maml, step
        self._graph_of = graph_of
        support, query = (Samples(s.x.detach().clone(), s.y.clone()) for s in (like.support, like.query))
        self._batch = TaskBatch(support, query)
        first = next(maml.model.parameters())
        self._results = first.new_zeros(3, dtype=torch.float32)  # loss, accuracy, whether all is in order
        self._classes = not like.query.y.is_floating_point()
        self._gradients = [torch.zeros_like(p) for p in maml.wired_parameters()]
        for parameter, gradient in zip(maml.wired_parameters(), self._gradients, strict=True):
            parameter.grad = gradient
        self._live: list[Tensor] = []
        self._before: list[Tensor] = []
        self._graph: Graph | None = None
        self._runs = 0
        self.loss, self.accuracy = 0.0, None if not self._classes else 0.0

    def run(self, batch: TaskBatch, meanwhile: Callable[[], None] | None) -> bool:
        """Takes a step; False, with everything as before, where its loss, gradient or labels are not in order."""
        for own, given in zip(_tensors(self._batch), _tensors(batch), strict=True):
            own.copy_(given)
        if self._runs == 0:
            return self._start(meanwhile)
        self._launch()
        if meanwhile is not None:
            meanwhile()
        if not self._is_fine():
            torch._foreach_copy_(self._live, self._before)
            return False
        self._runs += 1
        return True

    def _start(self, meanwhile: Callable[[], None] | None) -> bool:
        """The first step looks at its results before it changes anything, as there is no optimizer's state yet."""
        try:
            self._differentiate()
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError):  # the uncaptured step finds an engine that can, or says what is wrong
            return False
        if not self._is_fine():
            return False
        _without_warning(self._update)
        parameters = [p for group in self._step.optimizer.param_groups for p in group["params"]]
        states = [self._step.optimizer.state.get(p, {}) for p in parameters]
        self._live = [p.detach() for p in parameters]
        self._live += [value for state in states for value in state.values() if isinstance(value, Tensor)]
        self._before = [torch.empty_like(tensor) for tensor in self._live]
        self._runs = 1
        if meanwhile is not None:
            meanwhile()
        return True

    def _launch(self) -> None:
        """One step; nothing waits for the device, but once for what is recorded."""
        if self._runs == 1:
            _without_warning(self._body)
            return
        if self._graph is None:
            self._graph = self._captured()
        self._graph.replay()

    def _captured(self) -> Graph:
        graph = self._graph_of(self._results.device)
        try:
            graph.capture(self._body)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            warnings.warn(f"a meta-step could not be captured and is launched one by one: {error}", stacklevel=2)
            return _Launches(self._body)
        return graph

    def _is_fine(self) -> bool:
        """Waits for the results; whether loss, gradient and labels were in order."""
        self.loss, accuracy, fine = self._results.tolist()
        self.accuracy = accuracy if self._classes else None
        return bool(fine == 1)

    def _body(self) -> None:
        self._differentiate()
        torch._foreach_copy_(self._before, self._live)
        self._update()

    @torch.no_grad()
    def _differentiate(self) -> None:
        """The meta-gradient into the parameters' .grad, and the results."""
        maml, query = self._step.maml, self._batch.query
        found, gradients = maml.unchecked_meta_gradient(self._batch)
        torch._foreach_copy_(self._gradients, gradients)
        loss = found.query_losses.mean()
        fine = loss.isfinite() & found.gradient.isfinite().all()
        if found.inner_lr_gradient is not None:
            fine = fine & found.inner_lr_gradient.isfinite().all()
        accuracy = task_accuracies(found.query_outputs, query)
        if maml.plan.loss_name == "cross_entropy":
            for labels in (self._batch.support.y, query.y):
                fine = fine & ((labels >= 0) & (labels < found.query_outputs.shape[-1])).all()
        mean = loss if accuracy is None else accuracy.mean()
        self._results.copy_(torch.stack([loss, mean, fine.to(loss.dtype)]))

    def _update(self) -> None:
        self._step.clip()
        self._step.optimizer.step()


class _Launches:
    """In place of a graph that could not be made."""

    def __init__(self, body: Callable[[], None]) -> None:
        self._body = body

    def capture(self, body: Callable[[], None]) -> None:
        self._body = body

    def replay(self) -> None:
        _without_warning(self._body)


def _without_warning(body: Callable[[], None]) -> None:
    """Without torch's, that an optimizer made with capturable=True is not being captured."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*capturable=True.*")
        body()


def _tensors(batch: TaskBatch) -> tuple[Tensor, ...]:
    return batch.support.x, batch.support.y, batch.query.x, batch.query.y
