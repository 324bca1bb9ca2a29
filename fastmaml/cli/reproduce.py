"""fastmaml reproduce: the paper's figures and tables, from nothing."""

from __future__ import annotations

import argparse
from typing import Any

from fastmaml.cli.common import add_run_options, recipe_of, say, set_threads, stopped, trainer_options, warned
from fastmaml.cli.options import Parser, add_options
from fastmaml.cli.places import check_folder
from fastmaml.recipes import NavigationRecipe
from fastmaml.recipes import run_policies as policies
from fastmaml.recipes.divergence import divergence, untrained_loss
from fastmaml.recipes.regression import Interrupted, Progress, RegressionFigure, learning_curves, methods
from fastmaml.recipes.reports import policy_report
from fastmaml.recipes.reports.figures import check_matplotlib
from fastmaml.recipes.reports.regression_report import result_table, write_report
from fastmaml.recipes.run import write_text


def add_to(commands: Any) -> None:
    help = "train and draw what the paper shows, its numbers beside ours"
    parser = commands.add_parser("reproduce", help=help, description=help)
    experiments = parser.add_subparsers(title="experiments", metavar="EXPERIMENT", required=True, parser_class=Parser)
    title = "figures 2, 3 and 6 and the table of the regression experiment, with the pretrained baseline and the oracle"
    sinusoid = experiments.add_parser("sinusoid", help=title, description=title)
    sinusoid.add_argument(
        "--only", choices=("maml",), help="leave the baselines out: train MAML alone, a third of the time"
    )
    add_run_options(sinusoid, "runs/reproduce-sinusoid")
    _add_no_figures(sinusoid)
    add_options(sinusoid, RegressionFigure, without=("test_shots",))
    sinusoid.set_defaults(run=run)
    title = "returns over gradient steps of MAML, pretrained, random and oracle, and trajectories as in figure 4"
    nav2d = experiments.add_parser("nav2d", help=title, description=title)
    add_run_options(nav2d, "runs/reproduce-nav2d")
    _add_no_figures(nav2d)
    add_options(nav2d, NavigationRecipe, without=("train_steps",))
    nav2d.set_defaults(run=run_policies)


def _add_no_figures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-figures", action="store_true", help="write tables and CSV files alone, which takes no matplotlib"
    )


def _check_figures(arguments: argparse.Namespace) -> None:
    """Raises ModuleNotFoundError where figures are wanted and cannot be drawn."""
    try:
        if not arguments.no_figures:
            check_matplotlib()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; or give --no-figures for tables and CSV files alone") from error


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    recipe = recipe_of(RegressionFigure, arguments)
    assert isinstance(recipe, RegressionFigure)
    check_folder("--out", arguments.out)
    _check_figures(arguments)
    progress = Progress(say=say, options=trainer_options(arguments))
    say(recipe.tasks_line())
    try:
        trained = methods(recipe, arguments.out, arguments.only == "maml", progress)
    except Interrupted as interruption:
        return stopped(interruption.result)
    say(f"judging on {recipe.test_tasks:,} new tasks of 5, 10 and 20 points each")
    results = {method.name: learning_curves(recipe, method) for method in trained}
    summary = result_table(recipe, trained, results)
    print(f"\n{summary}\n")
    write_text(arguments.out / "table.txt", summary + "\n")
    written = write_report(recipe, trained, results, arguments.out, drawn=not arguments.no_figures)
    print("\n".join(f"wrote {path}" for path in written))
    untrained = untrained_loss(recipe)
    return warned(
        *(
            divergence(evaluation, untrained, f"{name} at K={shots}")
            for name, evaluations in results.items()
            for shots, evaluation in evaluations.items()
        )
    )


def run_policies(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    recipe = recipe_of(NavigationRecipe, arguments)
    check_folder("--out", arguments.out)
    _check_figures(arguments)
    try:
        found = policy_report.methods(recipe, arguments.out, say, **trainer_options(arguments))
    except policy_report.Interrupted as interruption:
        return stopped(interruption.result)
    summary = policy_report.result_table(recipe, found)
    print(f"\n{summary}\n")
    write_text(arguments.out / "table.txt", summary + "\n")
    written = policy_report.write_report(recipe, found, arguments.out, drawn=not arguments.no_figures)
    print("\n".join(f"wrote {path}" for path in written))
    return warned(*(policies.divergence(method.judged) for method in found))
