"""The paper's experiments, as data."""

from __future__ import annotations

from fastmaml.recipes.base import Recipe
from fastmaml.recipes.convolutional import CifarFsRecipe, MiniImagenetRecipe, OmniglotRecipe
from fastmaml.recipes.omniglot import OmniglotMLPRecipe
from fastmaml.recipes.reinforcement import (
    AntDirectionRecipe,
    AntVelocityRecipe,
    CheetahDirectionRecipe,
    CheetahVelocityRecipe,
    NavigationRecipe,
    PolicyRecipe,
)
from fastmaml.recipes.sinusoid import SinusoidRecipe

RECIPES: dict[str, type[Recipe]] = {
    recipe.name: recipe
    for recipe in (SinusoidRecipe, OmniglotMLPRecipe, OmniglotRecipe, MiniImagenetRecipe, CifarFsRecipe)
}

POLICY_RECIPES: dict[str, type[PolicyRecipe]] = {
    recipe.name: recipe
    for recipe in (
        NavigationRecipe,
        CheetahDirectionRecipe,
        CheetahVelocityRecipe,
        AntDirectionRecipe,
        AntVelocityRecipe,
    )
}

__all__ = [
    "POLICY_RECIPES",
    "RECIPES",
    "AntDirectionRecipe",
    "AntVelocityRecipe",
    "CheetahDirectionRecipe",
    "CheetahVelocityRecipe",
    "CifarFsRecipe",
    "MiniImagenetRecipe",
    "NavigationRecipe",
    "OmniglotMLPRecipe",
    "OmniglotRecipe",
    "PolicyRecipe",
    "Recipe",
    "SinusoidRecipe",
]
