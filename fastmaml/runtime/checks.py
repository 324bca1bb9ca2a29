"""Checks of what a user hands in, against what the model takes. Each error names the argument and the remedy."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastmaml.batch import Samples, TaskBatch
from fastmaml.plan import BatchNormLayer, Plan

#: what an error says of samples [N, ...] that lack a dimension for tasks
ONE_TASK = (
    "one task's samples; allowed is [T, N, ...] (tasks, samples, ...): call unsqueeze(0) on x and y, or give them to "
    "adapt_task"
)

_LARGEST = 2**63 - 1  # what the core's indices hold


def whole_number(name: str, value: Any, least: int, hint: str = "") -> int:
    """`value` as an int ≥ `least`; TypeError or ValueError otherwise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: given {value!r}; allowed is a whole number from {least}{hint}") from None
    if isinstance(value, bool) or number < least:
        raise ValueError(f"{name}: given {value!r}; allowed is a whole number from {least}{hint}")
    if number > _LARGEST:
        raise ValueError(f"{name}: given {value!r}; allowed is a whole number from {least} to 2**63 - 1{hint}")
    return number


def signature(samples: Samples) -> tuple[Any, ...]:
    """All of the samples but their numbers, to see at a glance that they are as before.

    Raises AttributeError, TypeError or RuntimeError for what is no ordinary tensor.
    """
    x, y, weights = samples.x, samples.y, samples.weights
    key = (
        *(type(x), x.shape, x.dtype, x.device, x.is_contiguous(), x.requires_grad, x.is_inference(), x.is_neg()),
        *(type(y), y.shape, y.dtype, y.device, y.is_contiguous(), y.requires_grad, y.is_inference(), y.is_neg()),
    )
    return key if weights is None else (*key, *signature(Samples(weights, weights)))


def check_no_graph(*sets: tuple[str, Samples]) -> None:
    """Raises ValueError, if autograd is on, for samples that wait for a gradient, which they would never get."""
    for name, samples in sets if torch.is_grad_enabled() else ():
        for field, tensor in samples.fields():
            if isinstance(tensor, Tensor) and tensor.requires_grad:
                raise ValueError(
                    f"{name + '.' if name else ''}{field}: given a tensor that requires grad, and adaptation gives its "
                    "samples no gradient. Make what comes before it a part of the model (adapted= says which "
                    "parameters adapt), or call .detach() if no gradient is meant"
                )


def check_batch_in_no_graph(batch: TaskBatch) -> None:
    """`check_no_graph` of both sets, in a hurry where all is well."""
    support, query = batch.support, batch.query
    try:
        waits = support.x.requires_grad or support.y.requires_grad or query.x.requires_grad or query.y.requires_grad
    except AttributeError:  # no tensor, as the check of kinds will say
        return
    if waits or support.weights is not None or query.weights is not None:
        check_no_graph(("support", support), ("query", query))


def check_parameters(plan: Plan, parameters: Sequence[Tensor]) -> None:
    """Raises ValueError unless the parameters fit into one flat vector: one floating dtype, one device."""
    first = parameters[0]
    if not first.is_floating_point():
        raise ValueError(f"model: its parameters are {first.dtype}; allowed are floating-point numbers")
    for slot, parameter in zip(plan.slots, parameters, strict=True):
        if (parameter.dtype, parameter.device) != (first.dtype, first.device):
            raise ValueError(
                f"model: '{plan.slots[0].name}' is {first.dtype} on {first.device}, but '{slot.name}' is "
                f"{parameter.dtype} on {parameter.device}; all parameters share one dtype and device: call model.to()"
            )


def check_tasks(sets: Sequence[tuple[str, Samples]]) -> None:
    """ValueError unless all sets have the same number of tasks."""
    first, tasks = sets[0][0], sets[0][1].num_tasks
    for name, samples in sets:
        if samples.num_tasks != tasks:
            raise ValueError(
                f"{name}.x: given {samples.num_tasks} tasks, but {first}.x has {tasks}; "
                "all are [T, ...] of the same tasks"
            )


def check_inputs(name: str, x: Tensor, plan: Plan, like: Tensor) -> None:
    """Raises ValueError unless x has the dtype and device of `like`, and features for the plan's first layer."""
    _check_kind(name, x, like, integers=plan.layers is None)
    sample = tuple(x.shape[2:])
    obstacle = plan.shape_obstacle(sample)
    if obstacle is not None and plan.layers is not None and plan.shape_obstacle(tuple(x.shape[1:])) is None:
        raise ValueError(f"{name}: given shape {list(x.shape)}, which is {ONE_TASK}")
    if obstacle is not None and plan.takes_images:
        raise ValueError(
            f"{name}: given shape {list(x.shape)}; {obstacle}: give images of another size or number of channels"
        )
    if obstacle is None or plan.num_inputs is None:
        return
    flattens = plan.flattens
    features = None
    if sample:
        features = math.prod(sample) if flattens else sample[-1]
    if features != plan.num_inputs:
        form = "any shape of that many numbers" if flattens else f"[T, N, {plan.num_inputs}]"
        raise ValueError(
            f"{name}: given shape {list(x.shape)}, but the model takes {plan.num_inputs} features a sample; "
            f"allowed is {form}: reshape x, or unsqueeze(-1) where one feature has no dimension of its own"
        )


def check_counts(name: str, samples: int, plan: Plan) -> None:
    """Batch norm needs two samples: ValueError for one."""
    norms = [layer for layer in plan.layers or () if isinstance(layer, BatchNormLayer) and not layer.on_images]
    if norms and samples < 2:
        raise ValueError(
            f"{name}: given {samples} sample a task, but batch norm (layer '{norms[0].name}') needs at least 2 to "
            "take statistics of; give more samples, or leave batch norm out of the model"
        )


def check_targets(name: str, samples: Samples, plan: Plan, output: tuple[int, ...], like: Tensor) -> None:
    """Raises ValueError unless y is what the loss compares outputs [T, N, *output] with."""
    y, given = samples.y, f"{samples.y.dtype} of shape {list(samples.y.shape)}"
    counts = list(samples.x.shape[:2])
    _check_device(f"{name}.y", y, like)
    if plan.loss_name == "cross_entropy":
        if len(output) != 1:
            raise ValueError(
                f"{name}.x: given shape {list(samples.x.shape)}, of which the model makes {[*counts, *output]}; "
                "cross_entropy takes logits [T, N, ways]: reshape x, or give a callable loss"
            )
        if y.dtype != torch.int64 or list(y.shape) != counts:
            raise ValueError(f"{name}.y: given {given}; cross_entropy takes torch.int64 labels {counts}")
    elif plan.loss_name in ("gaussian", "categorical"):
        _check_policy_targets(name, samples, plan.loss_name, output, like)
    elif plan.loss_name == "mse" and (y.dtype != like.dtype or list(y.shape) != [*counts, *output]):
        raise ValueError(
            f"{name}.y: given {given}; mse takes {like.dtype} targets {[*counts, *output]}, shaped as the outputs"
        )


def _check_policy_targets(name: str, samples: Samples, loss: str, output: tuple[int, ...], like: Tensor) -> None:
    counts = list(samples.x.shape[:2])
    if len(output) != 1 or (loss == "gaussian" and output[0] % 2):
        raise ValueError(
            f"model: gives outputs {[*counts, *output]}; {loss} takes "
            + ("mean and log_std [T, N, 2A]" if loss == "gaussian" else "logits [T, N, A]")
        )
    wanted = [*counts, output[0] + (loss == "gaussian")]
    if samples.y.dtype != like.dtype or list(samples.y.shape) != wanted:
        raise ValueError(
            f"{name}.y: given {samples.y.dtype} of shape {list(samples.y.shape)}; {loss} takes {like.dtype} targets "
            f"{wanted}: " + ("centre, spread, scale" if loss == "gaussian" else "one-hot actions times advantages")
        )


def check_task_weights(weights: Tensor, tasks: int, like: Tensor) -> None:
    """Raises TypeError or ValueError unless the weights of a batch's tasks are [T], at least 0 and not all 0."""
    if not isinstance(weights, Tensor):
        raise TypeError(
            f"weights: given {type(weights).__name__}; allowed is a torch.Tensor [{tasks}], one of each task"
        )
    if list(weights.shape) != [tasks]:
        raise ValueError(f"weights: given shape {list(weights.shape)}; allowed is [{tasks}], one of each task")
    _check_kind("weights", weights, like, integers=False)
    bad = ~((weights >= 0) & weights.isfinite())
    if bool(bad.any()):
        task = int(bad.nonzero()[0])
        raise ValueError(f"weights: given {weights[task].item()} for task {task}; allowed are finite numbers from 0")
    if not bool((weights > 0).any()):
        raise ValueError("weights: all tasks weigh 0; one at least has to count")


def check_weights_kind(name: str, samples: Samples, like: Tensor) -> None:
    if samples.weights is not None:
        _check_kind(f"{name}.weights", samples.weights, like, integers=False)


def _check_device(name: str, tensor: Tensor, like: Tensor) -> None:
    if tensor.device != like.device:
        raise ValueError(
            f"{name}: given on {tensor.device}, but the model is on {like.device}; move one of them with .to()"
        )


def _check_kind(name: str, tensor: Tensor, like: Tensor, integers: bool) -> None:
    _check_device(name, tensor, like)
    if tensor.dtype != like.dtype and not (integers and not tensor.is_floating_point()):
        raise ValueError(
            f"{name}: given {tensor.dtype}, but the model's parameters are {like.dtype}; "
            f"convert with .to({like.dtype}), or the model with .to({tensor.dtype})"
        )


def check_weights(name: str, samples: Samples, plan: Plan) -> None:
    """Looks at the weights: ValueError for one that is negative or not finite, and for a task that has none."""
    weights = samples.weights
    if weights is None:
        return
    bad = ~((weights >= 0) & weights.isfinite())
    if bool(bad.any()):
        task, sample = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name}.weights: given {weights[task, sample].item()} for sample {sample} of task {task}; "
            "allowed are finite numbers from 0, where 0 is padding"
        )
    real = (weights > 0).sum(1)
    fewest, task = (int(value) for value in real.min(0))
    if fewest == 0:
        raise ValueError(f"{name}.weights: all weights of task {task} are zero; each task needs a sample that counts")
    check_counts(f"{name}.weights, task {task}", fewest, plan)


def check_labels(name: str, samples: Samples, ways: int) -> None:
    """ValueError for a label outside 0 … ways − 1, padding aside."""
    bad = (samples.y < 0) | (samples.y >= ways)
    if samples.weights is not None:
        bad &= samples.weights > 0
    if bool(bad.any()):
        task, sample = bad.nonzero()[0].tolist()
        raise ValueError(
            f"{name}.y: given label {samples.y[task, sample].item()} for sample {sample} of task {task}; "
            f"allowed are 0 to {ways - 1}, as the model has {ways} outputs"
        )


def check_finite(*sets: tuple[str, Samples]) -> None:
    """ValueError where x or y holds NaN or infinity in a sample that counts; says which."""
    for name, samples in sets:
        for field, tensor in (("x", samples.x), ("y", samples.y)):
            if not tensor.is_floating_point():
                continue
            bad = ~tensor.isfinite().flatten(2).all(2) if tensor.dim() > 2 else ~tensor.isfinite()  # [T, N]
            if samples.weights is not None:
                bad &= samples.weights > 0
            if bool(bad.any()):
                task, sample = bad.nonzero()[0].tolist()
                raise ValueError(
                    f"{name}.{field}: holds NaN or infinity, first in sample {sample} of task {task}; "
                    "allowed are finite numbers: clean the data, or weigh such samples 0"
                )


def is_plain(samples: Samples) -> bool:
    """Whether all tensors are contiguous, in no graph, not made in inference mode, and no view of negated numbers."""
    weights = samples.weights
    return _is_plain(samples.x) and _is_plain(samples.y) and (weights is None or _is_plain(weights))


def _is_plain(tensor: Tensor) -> bool:
    return tensor.is_contiguous() and not tensor.requires_grad and not tensor.is_inference() and not tensor.is_neg()


def plain_samples(samples: Samples) -> Samples:
    """The samples with tensors as `plain` makes them."""
    weights = None if samples.weights is None else plain(samples.weights)
    return Samples(plain(samples.x), plain(samples.y), weights)


def plain(tensor: Tensor) -> Tensor:
    """The tensor, contiguous, in no graph, its numbers as they are in memory; copied only where that takes it."""
    if tensor.is_inference():
        with torch.inference_mode(False):
            return tensor.clone(memory_format=torch.contiguous_format).resolve_neg()
    return tensor.detach().contiguous().resolve_neg()
