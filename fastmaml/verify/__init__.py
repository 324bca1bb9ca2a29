"""Every engine held against the float64 reference over a grid of networks.

`CASES` are data: tests of an engine are parametrised over them, as in

    truth = Truth.of(build(case))
    verdict = judge(Contestant(engine), truth, torch.float32)
    assert verdict.passed
"""

from fastmaml.verify.build import build
from fastmaml.verify.cases import CASES, Case, full_cases
from fastmaml.verify.contestants import Contestant, contestants
from fastmaml.verify.image_cases import IMAGE_CASES, ImageCase
from fastmaml.verify.measure import BOUNDS, Truth, measure, relative_errors
from fastmaml.verify.problem import Problem
from fastmaml.verify.report import verify
from fastmaml.verify.verdict import DTYPES, Verdict, judge

__all__ = [
    "BOUNDS",
    "CASES",
    "DTYPES",
    "IMAGE_CASES",
    "Case",
    "Contestant",
    "ImageCase",
    "Problem",
    "Truth",
    "Verdict",
    "build",
    "contestants",
    "full_cases",
    "judge",
    "measure",
    "relative_errors",
    "verify",
]
