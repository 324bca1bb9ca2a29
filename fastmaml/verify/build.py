"""A case made concrete, whatever its network takes."""

from __future__ import annotations

from fastmaml.verify.cases import Case
from fastmaml.verify.image_cases import ImageCase
from fastmaml.verify.image_problem import build_images
from fastmaml.verify.problem import Problem, build_rows


def build(case: Case | ImageCase) -> Problem:
    """The float64 problem of a case; the same for the same case."""
    return build_images(case) if isinstance(case, ImageCase) else build_rows(case)
