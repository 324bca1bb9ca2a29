"""fastmaml train: one of the paper's experiments, or a variation of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fastmaml.cli.common import add_run_options, recipe_of, say, set_threads, stopped, trainer_options, warned
from fastmaml.cli.options import Parser, add_options
from fastmaml.cli.places import check_folder
from fastmaml.recipes import POLICY_RECIPES, RECIPES, PolicyRecipe, Recipe
from fastmaml.recipes import run_policies as policies
from fastmaml.recipes.divergence import divergence, untrained_loss
from fastmaml.recipes.reports.figures import check_matplotlib
from fastmaml.recipes.reports.tables import evaluation_table, write_evaluation
from fastmaml.recipes.run import judge, train
from fastmaml.recipes.standing import standing


def add_to(commands: Any) -> None:
    help = "train a recipe, and judge it on test tasks"
    parser = commands.add_parser("train", help=help, description=help)
    recipes = parser.add_subparsers(title="recipes", metavar="RECIPE", required=True, parser_class=Parser)
    for recipe in RECIPES.values():
        _add(recipes, recipe, run)
    for policy_recipe in POLICY_RECIPES.values():
        _add(recipes, policy_recipe, run_policies)


def _add(recipes: Any, recipe: type[Recipe] | type[PolicyRecipe], runner: Callable[[argparse.Namespace], int]) -> None:
    described = recipes.add_parser(recipe.name, help=recipe.title, description=recipe.title)
    add_run_options(described, f"runs/{recipe.name}")
    add_options(described, recipe)
    described.set_defaults(run=runner, recipe=recipe)


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    recipe = recipe_of(arguments.recipe, arguments)
    check_folder("--out", arguments.out)
    say(recipe.tasks_line())
    say(standing(arguments.out, recipe.iterations, recipe.meta_batch))
    maml, result = train(recipe, arguments.out, **trainer_options(arguments))
    if result.interrupted:
        return stopped(result)
    evaluation = judge(recipe, maml)
    write_evaluation(recipe, evaluation, arguments.out / "evaluation.csv")
    print(evaluation_table(recipe, evaluation))
    print(f"\ncheckpoints, logs and evaluation.csv are in {arguments.out}")
    return warned(divergence(evaluation, untrained_loss(recipe)))


def run_policies(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    recipe = recipe_of(arguments.recipe, arguments)
    check_folder("--out", arguments.out)
    undrawn = _undrawn()
    if undrawn is not None:
        say(f"no figure of training will be drawn: {undrawn}")
    say(standing(arguments.out, recipe.iterations, recipe.meta_batch))
    meta, result = policies.train(recipe, arguments.out, **trainer_options(arguments))
    if result.interrupted:
        return stopped(result)
    judged = policies.judge(recipe, meta)
    policies.write_returns(recipe, judged, arguments.out / "evaluation.csv")
    print(policies.return_table(recipe, judged))
    drawn = "" if undrawn else f"; {policies.draw_course(arguments.out).name} (returns of training)"
    print(f"\ncheckpoints, logs and evaluation.csv are in {arguments.out}{drawn}")
    return warned(policies.divergence(judged))


def _undrawn() -> str | None:
    """Why no figure can be drawn; None where one can."""
    try:
        check_matplotlib()
    except ModuleNotFoundError as error:
        return str(error)
    return None
