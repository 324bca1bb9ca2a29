"""fastmaml train: one of the paper's experiments, or a variation of it."""

from __future__ import annotations

import argparse
from typing import Any

from fastmaml.cli.common import add_run_options, recipe_of, set_threads, stopped, trainer_options
from fastmaml.cli.options import Parser, add_options
from fastmaml.recipes import RECIPES
from fastmaml.recipes.run import judge, train
from fastmaml.recipes.tables import evaluation_table, write_evaluation


def add_to(commands: Any) -> None:
    help = "train a recipe, and judge it on test tasks"
    parser = commands.add_parser("train", help=help, description=help)
    recipes = parser.add_subparsers(title="recipes", metavar="RECIPE", required=True, parser_class=Parser)
    for recipe in RECIPES.values():
        described = recipes.add_parser(recipe.name, help=recipe.title, description=recipe.title)
        add_run_options(described, f"runs/{recipe.name}")
        add_options(described, recipe)
        described.set_defaults(run=run, recipe=recipe)


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    recipe = recipe_of(arguments.recipe, arguments)
    maml, result = train(recipe, arguments.out, **trainer_options(arguments))
    if result.interrupted:
        return stopped(result)
    evaluation = judge(recipe, maml)
    write_evaluation(recipe, evaluation, arguments.out / "evaluation.csv")
    print(evaluation_table(recipe, evaluation))
    print(f"\ncheckpoints, logs and evaluation.csv are in {arguments.out}")
    return 0
