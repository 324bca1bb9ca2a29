"""The grid of `fastmaml verify` and its judgement: it passes the engines and catches wrong ones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fastmaml.engines.base import MetaGradient
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.gradients import FirstOrder
from fastmaml.verify import (
    BOUNDS,
    CASES,
    DTYPES,
    IMAGE_CASES,
    Case,
    Contestant,
    ImageCase,
    Problem,
    Truth,
    build,
    contestants,
    full_cases,
    judge,
    relative_errors,
    verify,
)
from fastmaml.verify.image_problem import CLEAR, margin

SMALL = Case((3, 9, 2), tasks=3, support=6, query=7, steps=2)
LIGHT = [case for case in CASES if case.tasks * case.steps <= 30 and case.work < 400_000]


class Altered(ReferenceEngine):
    """The reference, but for a meta-gradient that `change` has altered."""

    name = "altered"

    def __init__(self, change) -> None:
        self.change = change

    def meta_gradient(self, *arguments) -> MetaGradient:
        result = super().meta_gradient(*arguments)
        return replace(result, gradient=self.change(result.gradient))


class IgnoringRule(ReferenceEngine):
    """Takes the first-order gradient whatever it is asked for."""

    name = "ignoring-rule"

    def meta_gradient(self, plan, parameters, inner_lr, batch, steps, rule) -> MetaGradient:
        return super().meta_gradient(plan, parameters, inner_lr, batch, steps, FirstOrder())


class Refusing(ReferenceEngine):
    name = "refusing"

    def refusal(self, *arguments, **named) -> str:
        return "it has no mind to"


def test_cases_reach_every_end_of_the_grid():
    depths = {len(case.widths) - 1 for case in CASES}
    widths = {width for case in CASES for width in case.widths}
    assert depths == {1, 2, 3, 4, 5, 6}
    assert {1, 300} <= widths
    assert {1, 130} <= {case.tasks for case in CASES}
    assert {1, 40} <= {case.support for case in CASES} & {case.query for case in CASES}
    assert {1, 10} <= {case.steps for case in CASES}
    assert {case.norm for case in CASES} == {"none", "plain", "shift", "affine"}
    assert {case.regime for case in CASES} == {"usual", "dead", "dead layer", "saturated"}


def test_names_tell_all_cases_apart():
    names = [case.name for case in (*full_cases(), *IMAGE_CASES)]
    assert len(set(names)) == len(names)


def test_a_case_gives_the_same_problem_every_time():
    one, other = build(SMALL), build(SMALL)
    assert torch.equal(one.parameters, other.parameters)
    assert torch.equal(one.batch.query.x, other.batch.query.x)
    assert not torch.equal(one.parameters, build(replace(SMALL, seed=1)).parameters)


@pytest.mark.parametrize("case", LIGHT[::5], ids=lambda case: case.name)
def test_all_numbers_of_a_problem_are_exact_in_float32(case):
    problem = build(case)
    numbers = [
        problem.parameters,
        problem.inner_lr.values,
        problem.vectors,
        problem.batch.support.x,
        problem.batch.query.x,
    ]
    assert all(torch.equal(number, number.float().double()) for number in numbers)


@pytest.mark.parametrize("case", [case for case in LIGHT if case.activation == "relu"], ids=lambda case: case.name)
def test_relus_stay_clear_of_their_kinks(case):
    assert relu_margin(build(case)) > 3e-5  # a hundred times float32's rounding


@pytest.mark.parametrize(("regime", "least", "most"), [("usual", 0, 0), ("dead", 0.2, 0.5), ("dead layer", 0.5, 0.5)])
def test_units_are_dead_where_the_case_says_so(regime, least, most):
    problem = build(Case((4, 30, 30, 3), tasks=2, regime=regime))
    active = torch.cat([z > 0 for z in relu_inputs(problem, problem.parameters)], dim=1)  # [N, all units]
    assert least <= (~active).all(dim=0).float().mean() <= most


def test_saturated_tanh_is_flat():
    problem = build(Case((4, 30, 30, 3), tasks=2, activation="tanh", regime="saturated"))
    slope = 1 - torch.tanh(problem.plan.module[0](problem.batch.support.x.flatten(0, 1))).square()
    assert slope.median() < 1e-6


@pytest.mark.parametrize("contestant", contestants(), ids=lambda contestant: contestant.name)
@pytest.mark.parametrize("case", LIGHT[::4], ids=lambda case: case.name)
def test_engines_pass(case, contestant):
    truth = Truth.of(build(case))
    for dtype in DTYPES:
        verdict = judge(contestant, truth, dtype)
        assert verdict.passed, (verdict.errors, verdict.bounds)


@pytest.mark.parametrize("contestant", contestants(), ids=lambda contestant: contestant.name)
@pytest.mark.parametrize("case", IMAGE_CASES, ids=lambda case: case.name)
def test_engines_pass_on_images(case, contestant):
    truth = image_truth(case)
    for dtype in DTYPES:
        verdict = judge(contestant, truth, dtype)
        assert verdict.refusal is None or contestant.name == "functional"
        assert verdict.passed, (verdict.errors, verdict.bounds)


@cache
def image_truth(case: ImageCase) -> Truth:
    return Truth.of(build(case))


def test_image_cases_have_what_networks_on_images_are_made_of():
    modules = [module for case in IMAGE_CASES for module in image_truth(case).problem.plan.module.modules()]
    convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
    assert {module.stride for module in convolutions} >= {(1, 1), (2, 2), (2, 1)}
    assert {module.padding for module in convolutions} >= {(0, 0), (1, 1), (1, 0)}
    assert {module.bias is None for module in convolutions} == {True, False}
    norms = [module for module in modules if isinstance(module, nn.BatchNorm2d)]
    frozen = {module.weight is not None and module.weight.requires_grad for module in norms}
    assert frozen == {True, False}
    assert any(module.weight is None for module in norms)
    assert {nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Tanh, nn.ReLU} <= {type(module) for module in modules}
    assert {case.rule for case in IMAGE_CASES} == {"first", "second"}


def test_images_stay_clear_of_their_kinks():
    problem = image_truth(IMAGE_CASES[0]).problem
    assert margin(problem) >= CLEAR
    near = replace(problem, batch=replace(problem.batch, query=problem.batch.support))
    near.batch.support.x[:] = 0  # every pixel alike: norm gives exactly the shift to each ReLU
    with torch.no_grad():
        for name, parameter in problem.plan.module.named_parameters():
            if "norm" in name and name.endswith("bias"):
                parameter.zero_()
    flat = problem.plan.flatten(dict(problem.plan.module.named_parameters())).detach()
    assert margin(replace(near, parameters=flat)) < CLEAR


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_error_just_above_the_bound_is_caught(dtype):
    truth = Truth.of(build(SMALL))
    within, beyond = 1 + 0.2 * BOUNDS[dtype], 1 + 1.5 * BOUNDS[dtype]
    assert judge(Contestant(Altered(lambda g: (g.double() * within).to(g.dtype))), truth, dtype).passed
    verdict = judge(Contestant(Altered(lambda g: (g.double() * beyond).to(g.dtype))), truth, dtype)
    assert not verdict.passed
    assert verdict.worst == "meta-gradient"


def test_nan_is_caught():
    verdict = judge(Contestant(Altered(lambda g: g * float("nan"))), Truth.of(build(SMALL)), torch.float32)
    assert not verdict.passed
    assert verdict.worst == "meta-gradient"


def test_a_wrong_shape_is_an_error():
    with pytest.raises(ValueError, match=r"meta-gradient: the engine gave shape \(1,\)"):
        judge(Contestant(Altered(lambda g: g[:1])), Truth.of(build(SMALL)), torch.float32)


def test_the_first_order_gradient_is_told_from_the_second():
    truth = Truth.of(build(SMALL))
    assert not judge(Contestant(IgnoringRule()), truth, torch.float32).passed


def test_only_ill_conditioned_networks_loosen_the_bound():
    truth = Truth.of(build(SMALL))
    assert truth.bound("meta-gradient", torch.float32) == BOUNDS[torch.float32]
    hard = Truth.of(build(Case((6, 12, 12, 3), tasks=9, support=2, query=2, norm="plain", loss="cross_entropy")))
    assert hard.bound("hvp", torch.float32) == 2 * hard.eager["hvp"] > BOUNDS[torch.float32]


def test_error_where_the_truth_is_zero_is_absolute():
    zero, small = torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 3e-9, 4e-9])
    assert relative_errors({"a": small}, {"a": zero})["a"] == pytest.approx(5e-9)


def test_table_tells_failures_and_refusals():
    lines: list[str] = []
    wrong, refusing = Contestant(Altered(lambda g: 2 * g)), Contestant(Refusing())
    verdicts = verify([SMALL], [wrong, refusing], write=lines.append)
    assert [verdict.passed for verdict in verdicts] == [False, False, True, True]
    text = "\n".join(lines)
    assert f"FAIL altered float32, {SMALL.name}: meta-gradient 1.0e+00 > 1.0e-05" in text
    assert "refusing refused" in text
    assert "it has no mind to" in text
    assert lines[-1] == "0 of 2 checks passed, 2 failed, 2 refused"


def test_reference_is_no_contestant():
    with pytest.raises(ValueError, match="reference"):
        contestants(["reference"])


def relu_margin(problem: Problem) -> float:
    """The smallest |input| of any ReLU over tasks, samples and inner steps, relative to its layer's largest."""
    reference, margin = ReferenceEngine(), float("inf")
    theta = problem.parameters
    for _ in range(problem.case.steps + 1):
        inputs = relu_inputs(problem, theta)
        margin = min([margin, *((z.abs().min() / z.abs().max()).item() for z in inputs)])
        theta, _ = reference.adapt(problem.plan, theta, problem.inner_lr, problem.batch.support, 1)
    return margin


def relu_inputs(problem: Problem, theta: Tensor) -> list[Tensor]:
    """What each ReLU is given, for every task and set, at theta [P] or [T, P]."""
    found: list[Tensor] = []
    relus = [module for module in problem.plan.module.modules() if isinstance(module, nn.ReLU)]
    handles = [relu.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0])) for relu in relus]
    for samples in (problem.batch.support, problem.batch.query):
        for task, parameters in enumerate(theta.expand(samples.num_tasks, -1)):
            kept = slice(None) if samples.weights is None else samples.weights[task] > 0
            functional_call(problem.plan.module, problem.plan.unflatten(parameters), (samples.x[task][kept],))
    for handle in handles:
        handle.remove()
    return [z.detach() for z in found]
