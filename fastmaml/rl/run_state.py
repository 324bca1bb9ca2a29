"""What the next meta-iterations depend on, as it goes into a checkpoint and comes back from one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastmaml.rl.policies import Policy
from fastmaml.rl.random_state import random_state, set_random_state
from fastmaml.runs.checkpoint import CheckpointError, check_tensors
from fastmaml.runs.run_state import check_settings, fitting, restored_counters
from fastmaml.runs.saved import Saved


@dataclass
class Counters:
    """Where a run is: meta-iterations, seconds, steps of the simulator, and its best validation."""

    iteration: int = 0
    seconds: float = 0.0
    env_steps: int = 0
    best_iteration: int | None = None
    best_value: float | None = None


@dataclass
class RunState:
    """The parts of a run that change; `settings` and `config` do not, and say what run it is.

    Args:
        policy: whose parameters are trained.
        generator: draws tasks, first states and actions: all the randomness of a run. Between meta-iterations no
            episode is in flight, so that the simulators have no state of their own.
        settings: what must be the same for a resumed run to be the same run, as plain data.
        config: whatever the user wants to find again in the checkpoint; see `fastmaml.runs.packing.pack`.
    """

    policy: Policy
    generator: np.random.Generator
    settings: Mapping[str, Any]
    config: Mapping[str, Any]
    counters: Counters = dataclasses.field(default_factory=Counters)

    def capture(self) -> dict[str, Any]:
        """The state of a checkpoint; `fastmaml.runs.checkpoint.save` writes it."""
        return {
            "iteration": self.counters.iteration,
            "model": self.policy.state_dict(),
            "random": random_state(self.generator),
            "counters": dataclasses.asdict(self.counters),
            "settings": dict(self.settings),
            "config": dict(self.config),
        }

    def restore(self, path: Path, state: Mapping[str, Any]) -> None:
        """Puts everything back as it was when `state` was captured; `path` is what errors name.

        Raises:
            CheckpointError: where it was captured in a run of other settings or from another policy, or a field is
                absent or of another kind than what will read it.
        """
        saved = Saved(path, state)
        if "settings" not in state or "env_steps" not in saved.entry("counters").mapping():
            raise CheckpointError(f"{path}: holds no run of reinforcement learning; give another log_dir")
        check_tensors(path, saved.entry("model").mapping(), self.policy.state_dict())
        check_settings(path, saved.entry("settings").mapping(), self.settings)
        counters = restored_counters(saved, Counters)
        with fitting(path, "random state"):
            set_random_state(self.generator, saved.entry("random").value)
        self.policy.load_state_dict(state["model"])
        self.counters = counters
