"""An optimizer's state from a checkpoint, checked against what its step will read.

torch's fused kernels take the addresses of the state and believe its shapes, so that a state of other shapes has them
read and write beyond it. What torch's own optimizers keep is known; the state of others is left to their own loading.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import reduce
from itertools import chain
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim import Optimizer

from fastmaml.runs.checkpoint import CheckpointError, describe
from fastmaml.runs.saved import LARGEST, Saved

#: what a step reads of each parameter once there is anything; Adagrad's from the start, the others' from the first step
_NEEDED: dict[type[Optimizer], tuple[str, ...]] = {
    optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    optim.Adam: ("step", "exp_avg", "exp_avg_sq"),
    optim.Adamax: ("step", "exp_avg", "exp_inf"),
    optim.NAdam: ("step", "mu_product", "exp_avg", "exp_avg_sq"),
    optim.RAdam: ("step", "exp_avg", "exp_avg_sq"),
    optim.SparseAdam: ("step", "exp_avg", "exp_avg_sq"),
    optim.Adagrad: ("step", "sum"),
    optim.Adadelta: ("step", "square_avg", "acc_delta"),
    optim.ASGD: ("step", "eta", "mu", "ax"),
    optim.RMSprop: ("step", "square_avg"),
    optim.Rprop: ("step", "prev", "step_size"),
    optim.SGD: (),
    optim.LBFGS: (),
}
_NEWER = {"Adafactor": ("step",), "Muon": ()}  # than the oldest torch that is supported
_NEEDED |= {getattr(optim, name): needed for name, needed in _NEWER.items() if hasattr(optim, name)}

#: and where an option of the group is set
_NEEDED_IF = {"amsgrad": "max_exp_avg_sq", "momentum": "momentum_buffer", "centered": "grad_avg"}
_SCALARS = ("mu_product", "eta", "mu")
_LIKE_PARAMETER = (
    *("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "sum", "square_avg", "acc_delta", "ax", "grad_avg"),
    *("prev", "step_size", "momentum_buffer", "variance"),
)
_LBFGS_NEEDED = ("d", "t", "old_dirs", "old_stps", "ro", "H_diag", "prev_flat_grad", "prev_loss")

#: options that no scheduler changes: what a loop or a list is as long as, and what kernels a step takes
_FIXED = ("max_iter", "max_eval", "history_size", "line_search_fn", "ns_steps", "capturable", "differentiable")
_SCHEDULED = ("initial_lr", "max_lr", "min_lr", "max_momentum", "base_momentum")


def restore(saved: Saved, optimizer: Optimizer) -> None:
    """Loads what `optimizer.state_dict()` gave, after checking it; a learning rate that is a tensor stays that tensor.

    Raises:
        CheckpointError: it does not fit an optimizer of torch's own, which then is as it was. What others raise is
            their own affair.
    """
    state = saved.mapping()
    kind = _kind(optimizer)
    if kind is not None:
        own = optimizer.state_dict()
        _check_groups(saved.entry("param_groups"), kind, optimizer, own["param_groups"])
        parameters = _indexed(optimizer, own["param_groups"])
        _check_state(saved, kind, parameters)
        kept = _laid_out(state["state"], parameters)
        if kind is optim.SGD:
            _complete_fused(kept, state["param_groups"], parameters)
        state = {**state, "state": kept}
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict(state)  # type: ignore[arg-type]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        if isinstance(rate, Tensor):  # which checkpoints bring back on the CPU
            group["lr"] = rate.copy_(torch.as_tensor(group["lr"]))


def check_fused(parameter: Tensor, state: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Raises ValueError unless a fused kernel can walk through the state and its parameter side by side."""
    for name in names:
        value = state.get(name)
        fits = isinstance(value, Tensor) and _form(value) == _form(parameter)
        if not fits:
            found = describe(value) if not isinstance(value, Tensor) else f"{describe(value)}, strides {value.stride()}"
            raise ValueError(
                f"optimizer: '{name}' of a parameter is {found}; allowed is {describe(parameter)}, strides "
                f"{parameter.stride()}, on {parameter.device}, as the parameter. Make the optimizer anew"
            )


def check_count(step: Any) -> None:
    """Raises ValueError unless it is a tensor [] as a fused kernel counts with."""
    if not isinstance(step, Tensor) or step.dim() or step.dtype != torch.float32 or step.device.type != "cpu":
        raise ValueError(f"optimizer: 'step' is {describe(step)}; allowed is float32 [] on the CPU. Make it anew")


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.device, _strides(tensor)


def _strides(tensor: Tensor) -> list[int]:
    """Of the dimensions along which there is anywhere to go."""
    return [stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]


def _kind(optimizer: Optimizer) -> type[Optimizer] | None:
    """The optimizer of torch's own whose step and whose way of loading this one has; None for others."""
    if type(optimizer).load_state_dict is not Optimizer.load_state_dict or _hooks(optimizer):
        return None
    for kind in type(optimizer).__mro__:
        if kind in _NEEDED:
            return kind if _behind(type(optimizer).step) is _behind(kind.step) else None
    return None


def _behind(function: Callable[..., Any]) -> Callable[..., Any]:
    return inspect.unwrap(function)


def _hooks(optimizer: Optimizer) -> bool:
    """Whether someone changes the state on its way out or in."""
    return any(
        getattr(optimizer, hooks, None)
        for hooks in ("_optimizer_state_dict_post_hooks", "_optimizer_load_state_dict_pre_hooks")
    )


def _indexed(optimizer: Optimizer, own_groups: list[dict[str, Any]]) -> dict[int, Tensor]:
    """The parameters by their index in the state."""
    return {
        index: parameter
        for group, own in zip(optimizer.param_groups, own_groups, strict=True)
        for index, parameter in zip(own["params"], group["params"], strict=True)
    }


def _check_groups(saved: Saved, kind: type[Optimizer], optimizer: Optimizer, own_groups: list[dict[str, Any]]) -> None:
    groups = [*saved.items()]
    if len(groups) != len(own_groups):
        raise saved.refusal(f"a list of {len(own_groups)}, one for each parameter group")
    for group, own in zip(groups, own_groups, strict=True):
        params = group.entry("params")
        if params.value != own["params"]:
            raise params.refusal(f"{own['params']}, the indices of the parameters")
        for name in [*optimizer.defaults, *_SCHEDULED]:
            if name in own:
                _check_option(group, name, own[name])
        _check_together(group, kind, optimizer)


def _check_option(group: Saved, name: str, own: Any) -> None:
    saved = group.optional(name)
    saved.alike(own)
    if name in _FIXED and saved.value not in (own, None):
        raise saved.refusal(f"{own!r}, as it is here")


def _check_together(group: Saved, kind: type[Optimizer], optimizer: Optimizer) -> None:
    """Has the optimizer's own constructor look at the options."""
    options = {name: group.mapping().get(name, own) for name, own in optimizer.defaults.items() if name != "lr"}
    taken = inspect.signature(kind).parameters
    like = optimizer.param_groups[0]["params"][0].detach().new_zeros(1, 1)
    options = {name: value for name, value in options.items() if name in taken}
    try:
        kind([like.requires_grad_()], lr=optimizer.defaults["lr"], **options)  # type: ignore[call-arg]
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{group.path}: '{group.field}' has options that {kind.__name__} refuses ({error}); "
            "build the optimizer as it was saved, or give another log_dir"
        ) from error


def _check_state(saved: Saved, kind: type[Optimizer], parameters: Mapping[int, Tensor]) -> None:
    state, groups = saved.entry("state"), saved.entry("param_groups").value
    for index in state.mapping():
        if index not in parameters or isinstance(index, bool) or not isinstance(index, int):
            raise state.entry(index).refusal(f"an entry for one of the {len(parameters)} parameters, from 0")
    options = [group for group in groups for _ in group["params"]]
    for (index, parameter), its_options in zip(parameters.items(), options, strict=True):
        entry = state.optional(index)
        if entry.value is None and kind is not optim.Adagrad:
            continue
        if kind is optim.LBFGS:
            _check_lbfgs(entry, [*parameters.values()], its_options["history_size"])
        else:
            _check_entries(entry, kind, parameter, its_options)


def _check_entries(saved: Saved, kind: type[Optimizer], parameter: Tensor, options: Mapping[str, Any]) -> None:
    """What is kept of one parameter."""
    if not saved.mapping() and kind is not optim.Adagrad:
        return
    needed = [*_NEEDED[kind]]
    if needed:  # SGD makes what is absent
        needed += [name for option, name in _NEEDED_IF.items() if options.get(option)]
    if kind.__name__ == "Adafactor":
        needed += ["row_var", "col_var"] if parameter.dim() > 1 else ["variance"]
    for name in needed:
        saved.entry(name)
    for name in saved.mapping():
        entry = saved.optional(name)
        if name == "step":
            _check_count(entry)
        elif name in _SCALARS:
            _check_scalar(entry)
        elif name == "row_var" and entry.value is not None:
            entry.tensor(parameter[..., :1], "its parameter, summed over rows")
        elif name == "col_var" and entry.value is not None:
            entry.tensor(parameter[..., :1, :], "its parameter, summed over columns")
        elif name in _LIKE_PARAMETER and (entry.value is not None or name in needed):
            entry.tensor(parameter, "its parameter")


def _check_count(saved: Saved) -> None:
    value = _check_scalar(saved)
    if not 0 <= value <= LARGEST:
        raise saved.refusal("a number from 0 to 2^53")


def _check_scalar(saved: Saved) -> float:
    """A number, or a tensor [] of one."""
    value = saved.value
    if isinstance(value, Tensor):
        if value.dim() or value.is_complex() or value.dtype == torch.bool:
            raise saved.refusal("a number, or a tensor [] of one")
        return float(value)
    return saved.number()


def _check_lbfgs(saved: Saved, parameters: list[Tensor], history: int) -> None:
    """LBFGS keeps one state for all parameters, of their P elements as one vector."""
    dtype = reduce(torch.promote_types, [parameter.dtype for parameter in parameters]).to_real()
    elements = sum(p.numel() * (2 if p.is_complex() else 1) for p in parameters)
    flat = torch.empty((), dtype=dtype).expand(elements)
    if saved.mapping().get("n_iter") is None or saved.entry("n_iter").whole() == 0:
        return
    for name in _LBFGS_NEEDED:
        saved.entry(name)
    saved.entry("func_evals").whole()
    for name in ("d", "prev_flat_grad"):
        saved.entry(name).tensor(flat, "all parameters as one vector")
    for name in ("t", "H_diag", "prev_loss"):
        _check_scalar(saved.entry(name))
    lengths = {name: len([*saved.entry(name).items()]) for name in ("old_dirs", "old_stps", "ro")}
    if len(set(lengths.values())) != 1 or lengths["ro"] > history:
        raise saved.entry("old_dirs").refusal(f"a list as long as 'old_stps' and 'ro', up to history_size={history}")
    for item in chain(saved.entry("old_dirs").items(), saved.entry("old_stps").items()):
        item.tensor(flat, "all parameters as one vector")
    for item in saved.entry("ro").items():
        _check_scalar(item)
    if "al" in saved.mapping() and len([*saved.entry("al").items()]) != history:
        raise saved.entry("al").refusal(f"a list of history_size={history}")


def _laid_out(state: Mapping[Any, Mapping[str, Any]], parameters: Mapping[int, Tensor]) -> dict[Any, dict[str, Any]]:
    """The state in the memory format of its parameters, which checkpoints do not keep and fused kernels rely on."""
    return {
        index: {name: _laid_out_as(parameters[index], value) for name, value in entries.items()}
        for index, entries in state.items()
    }


def _complete_fused(
    kept: dict[Any, dict[str, Any]],
    groups: list[dict[str, Any]],
    parameters: Mapping[int, Tensor],
) -> None:
    """Gives parameters without momentum one of zeros, where others have it: SGD's fused kernel takes all or none.

    A first step then leaves in it what it would have left without.
    """
    for group in groups:
        present = [i for i in group["params"] if kept.get(i, {}).get("momentum_buffer") is not None]
        if group.get("fused") and present and not group["dampening"]:
            for index in set(group["params"]) - set(present):
                kept[index] = {"momentum_buffer": torch.zeros_like(parameters[index])}


def _laid_out_as(parameter: Tensor, value: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape or _strides(value) == _strides(parameter):
        return value
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device).copy_(value)
