"""The C++ core (csrc) as an engine. Python checks shapes; the core sees addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from fastmaml import _core
from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines.base import Accumulated, Differentiated, Engine, Linearised, MetaGradient, PreparedStep
from fastmaml.engines.cpu.model import core_model
from fastmaml.gradients import FirstOrder, GradientRule, SecondOrder
from fastmaml.plan import InnerLr, Plan

_EXCHANGE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)  # from torch 2.10
_get_num_threads = torch.get_num_threads
_SUFFIXES = {torch.float32: "float32", torch.float64: "float64"}
_models: WeakKeyDictionary[Plan, dict[tuple[int, ...] | None, _core.Model]] = WeakKeyDictionary()


class CpuEngine(Engine):
    """The whole batched inner loop in one call of the compiled core: float32 and float64, any number of threads.

    Results are bitwise the same for any `torch.set_num_threads`. Memory grows with K by parameter copies of the
    tasks in flight only.
    """

    name = "cpu"
    needs_layers = True
    checks_labels = True
    accumulates = True

    def refusal(
        self,
        plan: Plan,
        rule: GradientRule | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        inner_lr: InnerLr | None = None,
    ) -> str | None:
        if device is not None and device.type != "cpu":
            return f"it runs on CPUs, and the parameters are on {device}"
        if dtype is not None and dtype not in _SUFFIXES:
            return f"it computes in float32 and float64, and the parameters are {dtype}"
        if plan.layers is None:
            return plan.obstacle
        if plan.loss_name is None:
            return "it knows the losses 'mse', 'cross_entropy', 'gaussian' and 'categorical', not callables"
        if rule is not None and not isinstance(rule, (SecondOrder, FirstOrder)):
            return f"it knows the gradient rules SecondOrder and FirstOrder, not {type(rule).__name__}"
        if plan.num_outputs is None:
            return "the network has no layer with parameters"
        return None

    def adapt(
        self, plan: Plan, parameters: Tensor, inner_lr: InnerLr, support: Samples, steps: int
    ) -> tuple[Tensor, Tensor]:
        parameters = _plain(parameters, parameters.dtype)
        tasks = support.x.shape[0]
        fast = parameters.new_empty(tasks, plan.num_parameters)
        losses = _support_losses(parameters, tasks, steps)
        rates, kept = _plain(inner_lr.values, parameters.dtype), _Samples(plan, support, parameters.dtype)
        call = _verb(plan, "adapt", parameters.dtype, support.x)
        problem = call(
            parameters.data_ptr(), parameters.dim() == 1, rates.data_ptr(), kept.addresses, tasks, steps,
            torch.get_num_threads(), fast.data_ptr(), losses.data_ptr(),
        )  # fmt: skip
        _raise(problem, plan)
        return fast, losses

    def meta_gradient(
        self,
        plan: Plan,
        parameters: Tensor,
        inner_lr: InnerLr,
        batch: TaskBatch,
        steps: int,
        rule: GradientRule,
    ) -> MetaGradient:
        dtype = parameters.dtype
        parameters = _plain(parameters, dtype)
        tasks, queries = batch.query.x.shape[:2]
        losses, gradient = parameters.new_empty(tasks), torch.empty_like(parameters)
        outputs = parameters.new_empty(tasks, queries, plan.num_outputs or 0)
        learned = torch.empty_like(parameters) if inner_lr.learned else None
        support, query = _Samples(plan, batch.support, dtype), _Samples(plan, batch.query, dtype)
        rates = _plain(inner_lr.values, dtype)
        shares = batch.shares()
        scales = None if shares is None else _plain(shares * tasks, dtype)
        problem = _verb(plan, "meta_gradient", dtype, batch.query.x)(
            parameters.data_ptr(), rates.data_ptr(), inner_lr.uniform, support.addresses, query.addresses, tasks,
            steps, rule.through_steps, torch.get_num_threads(), _place(scales), losses.data_ptr(),
            gradient.data_ptr(), _place(learned), outputs.data_ptr(),
        )  # fmt: skip
        if problem is not None:
            _raise(problem, plan)
        return MetaGradient(losses, plan.only_meta_learned(gradient), learned, outputs)

    def prepare(
        self, plan: Plan, parameters: Sequence[Tensor], like: Tensor, inner_lr: InnerLr, batch: TaskBatch
    ) -> PreparedStep:
        return _PreparedStep(plan, parameters, like, inner_lr, batch)

    def predict(self, plan: Plan, fast: Tensor, x: Tensor) -> Tensor:
        fast, x = _plain(fast, fast.dtype), _plain(x, fast.dtype)
        tasks, n = x.shape[:2]
        outputs = fast.new_empty(tasks, n, plan.num_outputs or 0)
        call = _verb(plan, "predict", fast.dtype, x)
        _raise(call(fast.data_ptr(), x.data_ptr(), tasks, n, torch.get_num_threads(), outputs.data_ptr()), plan)
        return outputs

    def hvp(self, plan: Plan, fast: Tensor, support: Samples, vectors: Tensor) -> Tensor:
        fast, vectors = _plain(fast, fast.dtype), _plain(vectors, fast.dtype)
        products = torch.empty_like(fast)
        kept = _Samples(plan, support, fast.dtype)
        problem = _verb(plan, "hvp", fast.dtype, support.x)(
            fast.data_ptr(), kept.addresses, vectors.data_ptr(), fast.shape[0], torch.get_num_threads(),
            products.data_ptr(),
        )  # fmt: skip
        _raise(problem, plan)
        return products

    def linearise(self, plan: Plan, fast: Tensor, support: Samples, stationary: bool = False) -> Linearised:
        fast, shared, tasks = _plain(fast, fast.dtype), fast.dim() == 1, support.num_tasks
        kept = _Samples(plan, support, fast.dtype)
        gradient = None if stationary else fast.new_empty(tasks, plan.num_parameters)
        found = _verb(plan, "linearise", fast.dtype, support.x)(
            fast.data_ptr(), shared, kept.addresses, tasks, torch.get_num_threads(),
            0 if gradient is None else gradient.data_ptr(),
        )  # fmt: skip
        if isinstance(found, tuple):
            _raise(found, plan)

        def product(vectors: Tensor) -> Tensor:
            vectors = _plain(vectors, fast.dtype)
            products = fast.new_empty(tasks, plan.num_parameters)
            found.product(vectors.data_ptr(), vectors.dim() == 1, torch.get_num_threads(), products.data_ptr())
            return products

        return Linearised(gradient, product)


class _PreparedStep(PreparedStep):
    """The core looks at all tensors itself: what Python would ask them takes longer than a small meta-step."""

    def __init__(
        self, plan: Plan, parameters: Sequence[Tensor], like: Tensor, inner_lr: InnerLr, batch: TaskBatch
    ) -> None:
        tasks, queries = batch.query.x.shape[:2]
        self._plan = plan
        self._rates = _plain(inner_lr.values, like.dtype)
        self._call = getattr(_core, f"PreparedCall_{_SUFFIXES[like.dtype]}")(
            _model(plan, batch.query.x),
            _EXCHANGE,
            torch.empty_like,
            tuple(
                (parameter, like.new_empty(slot.shape), slot.meta_learned)
                for parameter, slot in zip(parameters, plan.slots, strict=True)
            ),
            self._rates.data_ptr(),
            inner_lr.uniform,
            _tensors(batch),
            (
                like.new_empty(()),
                like.new_empty(tasks),
                like.new_empty(tasks, queries, plan.num_outputs or 0),
                like.new_empty(plan.num_parameters),
            ),
        )
        self._accumulate, self._meta_gradient = self._call.accumulate, self._call.meta_gradient  # bound once

    @property
    def seconds(self) -> float:
        """What the core itself has taken in the last call."""
        seconds: float = self._call.seconds
        return seconds

    def takes(self, batch: TaskBatch) -> bool:
        taken: bool = self._call.takes(_tensors(batch))
        return taken

    def accumulate(
        self, batch: TaskBatch, steps: int, rule: GradientRule, outputs: bool, overwrite: bool
    ) -> Accumulated | None:
        done = self._accumulate(_tensors(batch), steps, rule.through_steps, _get_num_threads(), not overwrite, outputs)
        if done is None:
            return None
        if len(done) != 4:
            _raise(done, self._plan)
        return Accumulated._make(done)  # sooner than by its constructor

    def meta_gradient(self, batch: TaskBatch, steps: int, rule: GradientRule, details: bool) -> Differentiated | None:
        done = self._meta_gradient(_tensors(batch), steps, rule.through_steps, _get_num_threads(), details)
        if done is None:
            return None
        if len(done) != 4:
            _raise(done, self._plan)
        loss, gradient, query_losses, query_outputs = done
        return Differentiated(loss, gradient, query_losses, query_outputs, self._pieces)

    def _pieces(self, gradient: Tensor, scale: Tensor) -> Sequence[Tensor] | None:
        made: tuple[Tensor, ...] | None = self._call.pieces(gradient, scale)
        return made


def _tensors(batch: TaskBatch) -> tuple[Tensor | None, ...]:
    support, query = batch.support, batch.query
    return support.x, support.y, support.weights, query.x, query.y, query.weights


class _Samples:
    """Samples as the core takes them; holds on to whatever had to be copied."""

    __slots__ = ("addresses", "tensors")

    def __init__(self, plan: Plan, samples: Samples, dtype: torch.dtype) -> None:
        x, weights = _plain(samples.x, dtype), samples.weights
        y = _plain(samples.y, torch.int64 if plan.loss_name == "cross_entropy" else dtype)
        weights = None if weights is None else _plain(weights, dtype)
        self.tensors = (x, y, weights)
        self.addresses = _addresses(Samples(x, y, weights))


def _support_losses(like: Tensor, tasks: int, steps: int) -> Tensor:
    try:
        return like.new_empty(tasks, steps)
    except (RuntimeError, TypeError):  # at which another engine would try
        size = tasks * steps * like.element_size() / 2**30
        raise MemoryError(
            f"steps: the support losses of {tasks} tasks at each of {steps} inner steps need {size:.3g} GiB of memory, "
            "which cannot be had; take fewer steps, or fewer tasks at a time"
        ) from None


def _addresses(samples: Samples) -> tuple[int, int, int, int]:
    weights = samples.weights
    return (
        _address("x", samples.x),
        _address("y", samples.y),
        0 if weights is None else _address("weights", weights),
        samples.x.shape[1],
    )


def _address(name: str, tensor: Tensor) -> int:
    """Where a plain tensor's numbers are. TypeError for one that has no memory: 0 means what is not given."""
    try:
        address = tensor.data_ptr()
    except RuntimeError:
        address = 0
    if not address:
        raise TypeError(
            f"samples.{name}: given a {type(tensor).__name__} without memory of its own (as fake tensors are); "
            "allowed are dense tensors that hold their numbers"
        )
    return address


def _place(tensor: Tensor | None) -> int:
    """The address of a tensor of our own; 0 means what is not given."""
    return 0 if tensor is None else tensor.data_ptr()


def _plain(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor as its address tells it: contiguous, and without the negative bit that z.conj().imag has."""
    if tensor.dtype != dtype:
        tensor = tensor.to(dtype)
    return tensor.contiguous().resolve_neg()


def _verb(plan: Plan, verb: str, dtype: torch.dtype, x: Tensor) -> Any:
    """The core's function."""
    return getattr(_model(plan, x), f"{verb}_{_SUFFIXES[dtype]}")


def _model(plan: Plan, x: Tensor) -> _core.Model:
    """The core's model, made once for each plan, and for each size of images x."""
    size = tuple(x.shape[2:]) if plan.takes_images else None
    models = _models.get(plan)
    if models is None:
        models = _models[plan] = {}
    model = models.get(size)
    if model is None:
        model = models[size] = core_model(plan, size)
    return model


def _raise(problem: tuple[str, str, int, int, int] | None, plan: Plan) -> None:
    if problem is None:
        return
    what, set_name, task, sample, value = problem
    if what == "no_weight":
        raise ValueError(
            f"{set_name}.weights: all weights of task {task} are zero; every task needs a sample of positive weight"
        )
    raise ValueError(
        f"{set_name}.y: label {value} of task {task}, sample {sample} is out of range; the network has "
        f"{plan.num_outputs} outputs, so allowed are 0 to {(plan.num_outputs or 0) - 1}; "
        "weigh samples without a label 0"
    )
