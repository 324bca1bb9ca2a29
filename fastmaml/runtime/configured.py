"""A model with options, each of which may change, and what has been worked out of them."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fastmaml.engines.base import Engine
from fastmaml.gradients import GradientRule
from fastmaml.plan import Plan
from fastmaml.plan.inner_lr import LearnLr, initial
from fastmaml.plan.statistics import uses_statistics
from fastmaml.runtime.options import Options
from fastmaml.runtime.state import State

Value = TypeVar("Value")


class _Option(Generic[Value]):
    """An attribute that reads one of the options in force, and puts what it is assigned into force."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Configured | None, owner: type | None = None) -> Value:
        value: Any = self if instance is None else getattr(instance._options, self._name)
        return MappingProxyType(value) if isinstance(value, dict) else value  # type: ignore[return-value]

    def __set__(self, instance: Configured, value: Value) -> None:
        instance._assign(self._name, value)


def _levels_of_ours() -> int:
    """How far up the caller's own line is, which a warning is to show."""
    frame, levels = sys._getframe(1), 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "fastmaml":
        frame, levels = frame.f_back, levels + 1  # type: ignore[assignment]
    return levels


class Configured(nn.Module):
    """What a MAML is of before it does anything: its model, its options, and the State of both.

    Args:
        model: wrapped, not copied.
        options: one that is assigned later replaces the one that is here, and counts from the next call.
    """

    model: nn.Module
    inner_lr: nn.Parameter | None

    lr = _Option[float | Mapping[str, float]]()  # where it is learned, the one that it began with
    steps = _Option[int]()
    loss = _Option[str | Callable[..., Tensor]]()
    rule = _Option[GradientRule]()
    adapted = _Option[Iterable[str] | None]()
    meta_learned = _Option[Iterable[str] | None]()
    batch_norm = _Option[str]()

    def __init__(self, model: nn.Module, options: Options) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            Plan.of(model)  # says what is wrong
        self._options = options
        self._state: State | None = None
        self._warned: set[str] = set()
        self.inner_lr = None
        super().__setattr__("model", model)
        self._keep_loss(options.loss)
        state = self._current()
        if options.learn_lr:
            self.inner_lr = nn.Parameter(initial(state.rates, state.plan, options.learn_lr, state.like))

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "model":
            self._replace_model(value)
        elif name == "loss":  # nn.Module would take one that is a module for a child alone
            self._assign(name, value)
        elif name == "learn_lr":
            raise AttributeError("learn_lr: cannot change, as optimizers hold inner_lr; make another MAML of the model")
        else:
            super().__setattr__(name, value)

    def _assign(self, name: str, value: Any) -> None:
        """Puts an option into force. Raises TypeError or ValueError, as the constructor; then nothing has changed."""
        if name == "lr" and self._options.learn_lr:
            raise ValueError("lr: is learned, and was where inner_lr began; change maml.inner_lr under torch.no_grad()")
        options = replace(self._options, **{name: value})
        if name == "lr":
            self._current().set_lr(options)
        elif name != "steps":  # of which nothing is worked out
            self._state = State(self.model, options)
        self._options = options
        if name == "loss":
            self._keep_loss(value)

    def _replace_model(self, model: Any) -> None:
        state = State(model, self._options) if isinstance(model, nn.Module) else Plan.of(model)
        assert isinstance(state, State)
        if self.inner_lr is not None:
            state.inner_lr.check_learned(self.inner_lr)
        super().__setattr__("model", model)
        self._state = state

    def _keep_loss(self, loss: Any) -> None:
        """A loss that is a module moves with the MAML, and its tensors are in the state_dict."""
        self._modules.pop("loss", None)
        if isinstance(loss, nn.Module):
            self._modules["loss"] = loss

    @property
    def learn_lr(self) -> LearnLr:
        """What has a learned step size of its own."""
        return self._options.learn_lr

    @property
    def options(self) -> Options:
        """All options in force; equal to another MAML's if all are."""
        return self._options

    @property
    def plan(self) -> Plan:
        """The model's Plan in its present mode."""
        return self._current().plan

    @property
    def engine(self) -> Engine:
        """The engine that runs the model in its present mode. Assigning one, or a name, asks for it."""
        return self._current().choice.engines[0]

    @engine.setter
    def engine(self, asked: str | Engine) -> None:
        self._assign("engine", asked)

    @property
    def asked_engine(self) -> str | Engine:
        """The engine as it was asked for, "auto" perhaps."""
        return self._options.engine

    def explain(self) -> str:
        """Which engine runs the model, and why not each faster one."""
        return self._current().choice.explain()

    def extra_repr(self) -> str:
        of = self._options
        lr = f"learned per {of.learn_lr}" if of.learn_lr else of.lr
        return f"lr={lr}, steps={of.steps}, loss={of.loss!r}, rule={of.rule}, engine={of.engine!r}"

    def _current(self) -> State:
        state = self._state
        if state is None or state.model is not self._modules["model"] or state.is_stale():
            state = self._state = State(self.model, self._options)
            self._warn_of_statistics()
        if torch._C._is_any_autocast_enabled():
            self._warn_of_autocast(state)
        return state

    def _warn_of_statistics(self) -> None:
        if self._options.batch_norm == "batch" and any(map(uses_statistics, self.model.modules())):
            self._warn(
                "batch_norm: the model is in eval mode, and its norms keep running statistics, which are not used: "
                "they normalise by the batch at hand. To adapt with running statistics give batch_norm='running', in "
                "training as well; to have none, make the norms with track_running_stats=False"
            )

    def _warn_of_autocast(self, state: State) -> None:
        engine = state.choice.engines[0]
        if engine.needs_layers and torch.is_autocast_enabled(state.like.device.type):
            self._warn(
                f"autocast has no effect on engine {engine.name!r}, which computes in the parameters' dtype "
                f"({state.like.dtype}); leave it out, or convert the model"
            )

    def _warn(self, message: str) -> None:
        """Once."""
        if message not in self._warned:
            self._warned.add(message)
            warnings.warn(message, stacklevel=_levels_of_ours())

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_state": None}
