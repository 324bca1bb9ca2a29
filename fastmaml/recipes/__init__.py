"""The paper's experiments, as data."""

from __future__ import annotations

from fastmaml.recipes.base import Recipe
from fastmaml.recipes.convolutional import CifarFsRecipe, MiniImagenetRecipe, OmniglotRecipe
from fastmaml.recipes.omniglot import OmniglotMLPRecipe
from fastmaml.recipes.sinusoid import SinusoidRecipe

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (SinusoidRecipe, OmniglotMLPRecipe, OmniglotRecipe, MiniImagenetRecipe, CifarFsRecipe)
}

__all__ = [
    "RECIPES",
    "CifarFsRecipe",
    "MiniImagenetRecipe",
    "OmniglotMLPRecipe",
    "OmniglotRecipe",
    "Recipe",
    "SinusoidRecipe",
]
