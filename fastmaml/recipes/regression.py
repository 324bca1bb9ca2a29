"""The paper's regression figure in full: MAML, the pretrained network that is fine-tuned, and the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastmaml.evaluation import Evaluation, evaluate
from fastmaml.maml import MAML
from fastmaml.models import SinusoidMLP
from fastmaml.recipes.baselines import fine_tuning, ordinary_regression, regression_source, tune_lr
from fastmaml.recipes.options import option
from fastmaml.recipes.run import EVALUATION_BATCH, check_folder, fit, train
from fastmaml.recipes.sinusoid import SinusoidRecipe
from fastmaml.recipes.standing import standing
from fastmaml.tasks import Sinusoid
from fastmaml.training.trainer import TrainResult

SHOTS = (5, 10, 20)
"""K at test, of the paper's figure 6; figure 3 is K = 10, the table K = 5."""


@dataclass(frozen=True, kw_only=True)
class RegressionFigure(SinusoidRecipe):
    """The sinusoid recipe, and what its baselines need."""

    tuning_tasks: int = option(
        600, "tasks that the step size of fine-tuning is chosen on, apart from test's", minimum=2
    )

    @property
    def tuning_seed(self) -> int:
        """Seed of the tasks to tune on: neither training's nor test's."""
        return self.seed + 2_000_003


@dataclass(frozen=True)
class Method:
    """A trained network and how it adapts at test, by the number of support points; `steps` 0 if it does not."""

    name: str
    adapting: Mapping[int, MAML]
    inner_lr: Mapping[int, float]
    steps: int
    oracle: bool = False


@dataclass
class Progress:
    """What the experiment says while it runs, and how its trainings are shown."""

    say: Callable[[str], object] = print
    options: Mapping[str, Any] = field(default_factory=dict)


class Interrupted(Exception):
    """A training was stopped by a signal; `result` says where."""

    def __init__(self, result: TrainResult) -> None:
        super().__init__(f"stopped after iteration {result.iteration}")
        self.result = result


def methods(recipe: RegressionFigure, folder: Path, only_maml: bool, progress: Progress) -> list[Method]:
    """Train what is not trained yet, each method in a folder of its own; gives them ready for test.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM; the next call goes on from there.
    """
    trained = [_maml(recipe, folder / "maml", progress)]
    if not only_maml:
        trained.append(_pretrained(recipe, folder / "pretrained", progress))
        trained.append(_oracle(recipe, folder / "oracle", progress))
    return trained


def learning_curves(recipe: RegressionFigure, method: Method) -> dict[int, Evaluation]:
    """Loss after 0 … test_steps steps on the test tasks, by K; every method gets the same tasks."""
    return {
        shots: evaluate(
            maml,
            Sinusoid(shots, recipe.test_queries, oracle=method.oracle),
            tasks=recipe.test_tasks,
            steps=method.steps,
            meta_batch=EVALUATION_BATCH,
            seed=recipe.test_seed,
        )
        for shots, maml in method.adapting.items()
    }


def _maml(recipe: RegressionFigure, folder: Path, progress: Progress) -> Method:
    progress.say("MAML: weights from which one gradient step on a few points of a new wave fits it")
    progress.say(_standing(recipe, folder))
    maml, result = train(recipe, folder, **progress.options)
    _check_complete(result)
    adapting = dict.fromkeys(SHOTS, recipe.at_test(maml))
    return Method("MAML", adapting, dict.fromkeys(SHOTS, recipe.test_lr), steps=recipe.test_steps)


def _pretrained(recipe: RegressionFigure, folder: Path, progress: Progress) -> Method:
    progress.say("pretrained: the same network, trained by ordinary regression on all waves at once")
    model = _regress(recipe, folder, progress, oracle=False)
    progress.say(f"pretrained: choosing step sizes of fine-tuning on {recipe.tuning_tasks:,} other tasks")
    lrs = {shots: _tuned_lr(recipe, model, shots) for shots in SHOTS}
    chosen = ", ".join(f"{lr:g} at K={shots}" for shots, lr in lrs.items())
    progress.say(f"pretrained: step sizes {chosen}")
    adapting = {shots: fine_tuning(model, lr, recipe.engine) for shots, lr in lrs.items()}
    return Method("pretrained", adapting, lrs, steps=recipe.test_steps)


def _tuned_lr(recipe: RegressionFigure, model: SinusoidMLP, shots: int) -> float:
    tuning = tune_lr(
        model,
        Sinusoid(shots, recipe.test_queries),
        steps=recipe.test_steps,
        tasks=recipe.tuning_tasks,
        seed=recipe.tuning_seed,
        engine=recipe.engine,
    )
    return tuning.lr


def _oracle(recipe: RegressionFigure, folder: Path, progress: Progress) -> Method:
    progress.say("oracle: ordinary regression, the amplitude and the phase given as inputs")
    maml = ordinary_regression(_regress(recipe, folder, progress, oracle=True), recipe.engine)
    return Method("oracle", dict.fromkeys(SHOTS, maml), dict.fromkeys(SHOTS, 0.0), steps=0, oracle=True)


def _regress(recipe: RegressionFigure, folder: Path, progress: Progress, oracle: bool) -> SinusoidMLP:
    """A network trained on as many meta-batches of as many points as MAML is.

    It starts from the same weights, and the same Adam with the same schedule of its step size trains it, so that what
    sets MAML apart is the adaptation alone.
    """
    check_folder(folder, recipe)
    progress.say(_standing(recipe, folder))
    model = recipe.network(inputs=3 if oracle else 1)
    source = regression_source(recipe.shots, oracle)
    maml = ordinary_regression(model.to(recipe.device), recipe.engine)
    _, result = fit(recipe, maml, source, folder, **progress.options)
    _check_complete(result)
    return model


def _standing(recipe: RegressionFigure, folder: Path) -> str:
    return f"  {standing(folder, recipe.iterations, recipe.meta_batch)}"


def _check_complete(result: TrainResult) -> None:
    if result.interrupted:
        raise Interrupted(result)
