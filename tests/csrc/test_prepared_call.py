"""Tensors that the binding itself looks at: by DLPack's functions, and by their attributes as where torch has none."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from tests.csrc.conftest import core

T, N, M = 3, 4, 5
EXCHANGES = [None]
if hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
    EXCHANGES.append(torch.Tensor.__dlpack_c_exchange_api__)


class Problem:
    """One linear layer of 2 inputs and 1 output, mean squared error."""

    def __init__(self, exchange: Any, dtype: torch.dtype = torch.float32, loss: str = "mse") -> None:
        self.model = core.Model([("linear", 2, 1, 0, 2, 0.0)], loss, [2, 1])
        like = torch.empty(0, dtype=dtype)
        self.parameters = [like.new_ones(1, 2).requires_grad_(), like.new_zeros(1).requires_grad_()]
        self.inner_lr = like.new_full((3,), 0.1)
        self.samples = (
            *(torch.rand(T, N, 2).to(dtype), torch.rand(T, N, 1).to(dtype), None),
            *(torch.rand(T, M, 2).to(dtype), torch.rand(T, M, 1).to(dtype), None),
        )
        self.results = (like.new_empty(()), like.new_empty(T), like.new_empty(T, M, 1), like.new_empty(3))
        self.kind = getattr(core, f"PreparedCall_{str(dtype).removeprefix('torch.')}")
        self.exchange = exchange

    def prepare(self, **others: Any) -> Any:
        given = {
            "parameters": tuple((p, torch.empty_like(p), True) for p in self.parameters),
            "inner_lr": self.inner_lr.data_ptr(),
            "samples": self.samples,
            "results": self.results,
        } | others
        return self.kind(
            self.model, self.exchange, torch.empty_like, given["parameters"], given["inner_lr"], False,
            given["samples"], given["results"],
        )  # fmt: skip

    def gradient(self) -> Tensor:
        """By autograd, after one inner step."""
        weight, bias = self.parameters
        x, y, _, query_x, query_y, _ = self.samples
        losses = []
        for task in range(T):
            inner = (x[task] @ weight.t() + bias - y[task]).square().mean()
            steps = torch.autograd.grad(inner, [weight, bias], create_graph=True)
            fast = [p - 0.1 * step for p, step in zip((weight, bias), steps, strict=True)]
            losses.append((query_x[task] @ fast[0].t() + fast[1] - query_y[task]).square().mean())
        return torch.cat([g.flatten() for g in torch.autograd.grad(torch.stack(losses).mean(), [weight, bias])])


@pytest.fixture(params=EXCHANGES, ids=lambda exchange: "attributes" if exchange is None else "dlpack")
def p(request: pytest.FixtureRequest) -> Problem:
    return Problem(request.param)


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_made_added_to_and_written_over(dtype: torch.dtype, exchange: Any) -> None:
    p = Problem(exchange, dtype)
    call, wanted = p.prepare(), p.gradient()
    for times, add in ((1, True), (2, True), (1, False)):
        loss, finite, losses, outputs = call.accumulate(p.samples, 1, True, 2, add, False)
        found = torch.cat([parameter.grad.flatten() for parameter in p.parameters])
        torch.testing.assert_close(found, times * wanted, rtol=1e-5, atol=1e-6)
        assert (finite, losses, outputs) == (True, None, None)
        assert loss.shape == ()
    assert call.seconds > 0


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_for_autograd_is_that_which_is_accumulated(dtype: torch.dtype, exchange: Any) -> None:
    p = Problem(exchange, dtype)
    call = p.prepare()
    loss, gradient, losses, outputs = call.meta_gradient(p.samples, 1, True, 2, False)
    assert call.seconds > 0
    assert (losses, outputs) == (None, None)
    assert all(parameter.grad is None for parameter in p.parameters)
    wanted, *_ = call.accumulate(p.samples, 1, True, 2, True, False)
    assert torch.equal(loss, wanted)
    assert torch.equal(gradient, torch.cat([parameter.grad.flatten() for parameter in p.parameters]))


def test_details_are_given_where_wanted(p: Problem) -> None:
    loss, _, losses, outputs = p.prepare().meta_gradient(p.samples, 1, True, 1, True)
    torch.testing.assert_close((outputs - p.samples[4]).square().mean((1, 2)), losses)
    torch.testing.assert_close(losses.mean(), loss)


def test_pieces_are_the_scaled_gradient_in_memory_of_their_own(p: Problem) -> None:
    call, gradient = p.prepare(), torch.tensor([1.0, 2, 3])
    weight, bias = call.pieces(gradient, torch.tensor(-2.0))
    assert weight.tolist() == [[-2, -4]]
    assert bias.tolist() == [-6]
    assert len({each.untyped_storage().data_ptr() for each in (weight, bias, gradient)}) == 3


def test_pieces_are_those_of_parameters_that_are_learned(p: Problem) -> None:
    weight, bias = p.parameters
    call = p.prepare(parameters=((weight, torch.empty(1, 2), False), (bias, torch.empty(1), True)))
    (piece,) = call.pieces(torch.tensor([1.0, 2, 3]), torch.tensor(2.0))
    assert piece.tolist() == [6]


NO_SCALES: dict[str, Any] = {
    "dtype": torch.tensor(2.0).double(),
    "dimension": torch.tensor([2.0]),
    "meta": torch.tensor(2.0).to("meta"),
    "negative": torch._neg_view(torch.tensor(2.0)),
    "number": 2.0,
    "None": None,
}


@pytest.mark.parametrize("scale", NO_SCALES)
def test_no_pieces_of_what_is_of_another_form(p: Problem, scale: str) -> None:
    call = p.prepare()
    assert call.pieces(torch.ones(3), NO_SCALES[scale]) is None
    assert call.pieces(torch.ones(4), torch.tensor(2.0)) is None
    assert call.pieces(torch.ones(6)[::2], torch.tensor(2.0)) is None


def test_outputs_are_given_where_wanted(p: Problem) -> None:
    loss, _, _, outputs = p.prepare().accumulate(p.samples, 1, True, 1, True, True)
    assert outputs.shape == (T, M, 1)
    torch.testing.assert_close((outputs - p.samples[4]).square().mean(), loss)


def test_the_losses_tell_what_is_not_finite(p: Problem) -> None:
    p.inner_lr.zero_()
    p.parameters[0].data.fill_(1e-20)
    p.samples[3][1] = 1e30  # an output of 1e10, whose gradient is beyond float32
    call = p.prepare()
    loss, finite, losses, _ = call.accumulate(p.samples, 1, False, 1, True, False)
    assert not finite
    assert loss.isfinite()
    torch.testing.assert_close(losses.mean(), loss)
    assert p.parameters[0].grad.isinf().all()


def test_a_loss_that_is_not_finite_changes_nothing(p: Problem) -> None:
    p.samples[3][1] = torch.nan
    call = p.prepare()
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None
    assert p.parameters[0].grad is None
    for parameter in p.parameters:
        parameter.grad = torch.ones_like(parameter)
    assert call.accumulate(p.samples, 1, True, 1, False, False) is None
    assert p.parameters[0].grad.tolist() == [[1, 1]]
    assert call.meta_gradient(p.samples, 1, True, 1, True) is None


def strided(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


OTHER_FORMS: dict[str, Callable[[Tensor], Any]] = {
    "fewer tasks": lambda x: x[1:],
    "more samples": lambda x: torch.cat([x, x], 1),
    "flat": lambda x: x.flatten(1),
    "one dimension more": lambda x: x[..., None],
    "strides": strided,
    "dtype": lambda x: x.double(),
    "integers": lambda x: x.to(torch.int32),
    "half": lambda x: x.half(),
    "complex": lambda x: x.to(torch.complex64),
    "sparse": lambda x: x.to_sparse(),
    "compressed": lambda x: x[0].to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor([*x]),
    "mkldnn": lambda x: x.to_mkldnn(),
    "fake": lambda x: FakeTensorMode().from_tensor(x),
    "functional": torch._to_functional_tensor,
    "expanded": lambda x: x[:1].expand_as(x),
    "negative": torch._neg_view,
    "meta": lambda x: x.to("meta"),
    "list": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "None": lambda x: None,
    "number": lambda x: 3,
}


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:.*nested tensors", "ignore:Accessing the data pointer")
@pytest.mark.parametrize("place", [0, 1, 3, 4])
@pytest.mark.parametrize("form", OTHER_FORMS)
def test_samples_of_another_form_are_not_taken(p: Problem, form: str, place: int) -> None:
    call, samples = p.prepare(), list(p.samples)
    assert call.takes(p.samples)
    samples[place] = OTHER_FORMS[form](samples[place])
    assert not call.takes(tuple(samples))
    assert call.accumulate(tuple(samples), 1, True, 1, True, False) is None
    assert call.meta_gradient(tuple(samples), 1, True, 1, True) is None
    assert p.parameters[0].grad is None
    assert call.takes(p.samples)


def test_weights_are_taken_where_they_were_prepared_for(p: Problem) -> None:
    weights = torch.ones(T, N)
    weighted = (*p.samples[:2], weights, *p.samples[3:])
    assert not p.prepare().takes(weighted)
    call = p.prepare(samples=weighted)
    assert call.takes(weighted)
    assert not call.takes(p.samples)
    assert not call.takes((*p.samples[:2], weights[:, :1], *p.samples[3:]))
    assert not call.takes(p.samples[:5])
    weights[1] = 0
    problem, name, task, *_ = call.accumulate(weighted, 1, True, 1, True, False)
    assert (problem, name, task) == ("no_weight", "support", 1)
    assert call.meta_gradient(weighted, 1, True, 1, False)[:3] == ("no_weight", "support", 1)


def test_dimensions_of_size_one_may_have_any_stride(p: Problem) -> None:
    samples = list(p.samples)
    samples[1] = samples[1].as_strided(samples[1].shape, (N, 1, 7))
    assert samples[1].is_contiguous()
    assert p.prepare().takes(tuple(samples))


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "dtype": lambda weight: weight.data.double(),
    "strides": lambda weight: strided(weight.data),
    "size": lambda weight: torch.ones(2, 2),
    "expanded": lambda weight: torch.ones(()).expand(1, 2),
    "negative": lambda weight: torch._neg_view(weight.data),
}


@pytest.mark.parametrize("change", CHANGES)
def test_parameters_are_looked_at_anew(p: Problem, change: str) -> None:
    call, weight = p.prepare(), p.parameters[0]
    weight.data = CHANGES[change](weight)
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None
    assert call.meta_gradient(p.samples, 1, True, 1, False) is None


def test_parameters_elsewhere_are_not_taken(p: Problem) -> None:
    weight = p.parameters[0].detach().to("meta").requires_grad_()
    call = p.prepare(parameters=((weight, torch.empty(1, 2), True), (p.parameters[1], torch.empty(1), True)))
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None


def test_gradients_are_looked_at_anew(p: Problem) -> None:
    call, (weight, bias) = p.prepare(), p.parameters
    weight.grad = torch.zeros(1, 2)
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None  # some have one, some none
    bias.grad = torch.zeros(1)
    assert call.accumulate(p.samples, 1, True, 1, True, False) is not None
    weight.grad = strided(torch.zeros(1, 2))
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None
    weight.grad = torch.zeros(1, 2).to_sparse()
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None
    weight.grad = torch._neg_view(torch.zeros(1, 2))
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_are_seen_until_they_are_removed(p: Problem, register: str) -> None:
    call = p.prepare()
    hook = getattr(p.parameters[1], register)(lambda *_: None)
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None
    hook.remove()
    assert call.accumulate(p.samples, 1, True, 1, True, False) is not None


def test_who_is_not_learned_gets_none(p: Problem) -> None:
    weight, bias = p.parameters
    call = p.prepare(parameters=((weight, torch.empty(1, 2), False), (bias, torch.empty(1), True)))
    weight.register_hook(lambda *_: None)
    assert call.accumulate(p.samples, 1, True, 1, True, False) is not None
    assert weight.grad is None
    torch.testing.assert_close(bias.grad, p.gradient()[2:], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"parameters": ()}, "one parameter for each"),
        ({"samples": ()}, "six tensors of samples"),
        ({"results": ()}, "four of results"),
        ({"inner_lr": 0}, "inner_lr must not be null"),
    ],
)
def test_what_is_incomplete_is_refused(p: Problem, others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        p.prepare(**others)


def test_numbers_out_of_range_are_refused(p: Problem) -> None:
    call = p.prepare()
    with pytest.raises(ValueError, match="steps must be at least 1"):
        call.accumulate(p.samples, 0, True, 1, True, False)
    with pytest.raises(ValueError, match="threads must be at least 1"):
        call.accumulate(p.samples, 1, True, 0, True, False)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        call.meta_gradient(p.samples, 0, True, 1, False)


def test_an_error_while_tensors_are_made_is_passed_on(p: Problem) -> None:
    def fails(_: Tensor) -> Tensor:
        raise MemoryError("no more")

    parameters = tuple((parameter, torch.empty_like(parameter), True) for parameter in p.parameters)
    call = p.kind(p.model, p.exchange, fails, parameters, p.inner_lr.data_ptr(), False, p.samples, p.results)
    with pytest.raises(MemoryError, match="no more"):
        call.accumulate(p.samples, 1, True, 1, True, False)
    assert p.parameters[0].grad is None


def test_tensors_that_are_made_otherwise_are_declined(p: Problem) -> None:
    def elsewhere(like: Tensor) -> Tensor:
        return torch.empty_like(like, device="meta")

    parameters = tuple((parameter, torch.empty_like(parameter), True) for parameter in p.parameters)
    call = p.kind(p.model, p.exchange, elsewhere, parameters, p.inner_lr.data_ptr(), False, p.samples, p.results)
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None
    assert call.meta_gradient(p.samples, 1, True, 1, False) is None
    assert call.pieces(torch.ones(3), torch.tensor(2.0)) is None
    assert p.parameters[0].grad is None


def test_gradients_that_another_call_puts_meanwhile_are_added_to(p: Problem) -> None:
    other, nested = p.prepare(), []

    def meanwhile(like: Tensor) -> Tensor:
        if not nested:
            nested.append(None)
            other.accumulate(p.samples, 1, True, 1, True, False)
        return torch.empty_like(like)

    parameters = tuple((parameter, torch.empty_like(parameter), True) for parameter in p.parameters)
    call = p.kind(p.model, p.exchange, meanwhile, parameters, p.inner_lr.data_ptr(), False, p.samples, p.results)
    call.accumulate(p.samples, 1, True, 1, True, False)
    found = torch.cat([parameter.grad.flatten() for parameter in p.parameters])
    torch.testing.assert_close(found, 2 * p.gradient(), rtol=1e-5, atol=1e-6)


def test_gradients_that_others_spoil_meanwhile_are_left_alone(p: Problem) -> None:
    """The call can then no longer put its own, as some parameters have gradients and some none."""
    other, nested = p.prepare(), []

    def meanwhile(like: Tensor) -> Tensor:
        if not nested:
            nested.append(None)
            other.accumulate(p.samples, 1, True, 1, True, False)
            p.parameters[1].grad = None
        return torch.empty_like(like)

    parameters = tuple((parameter, torch.empty_like(parameter), True) for parameter in p.parameters)
    call = p.kind(p.model, p.exchange, meanwhile, parameters, p.inner_lr.data_ptr(), False, p.samples, p.results)
    assert call.accumulate(p.samples, 1, True, 1, True, False) is None
    torch.testing.assert_close(p.parameters[0].grad.flatten(), p.gradient()[:2], rtol=1e-5, atol=1e-6)
    assert p.parameters[1].grad is None


def test_a_call_that_what_it_holds_leads_to_is_collected(p: Problem) -> None:
    call, weight = p.prepare(), p.parameters[0]
    weight.call = [call]  # type: ignore[attr-defined]
    dead = weakref.ref(weight)
    assert any(each is weight for each in gc.get_referents(call))
    p.parameters.clear()
    del call, weight
    gc.collect()
    assert dead() is None


def test_a_call_is_collected_with_the_function_that_makes_its_tensors(p: Problem) -> None:
    class Maker:
        calls: list[Any]

        def __call__(self, like: Tensor) -> Tensor:
            return torch.empty_like(like)

    maker = Maker()
    parameters = tuple((parameter, torch.empty_like(parameter), True) for parameter in p.parameters)
    call = p.kind(p.model, p.exchange, maker, parameters, p.inner_lr.data_ptr(), False, p.samples, p.results)
    maker.calls = [call]
    dead = weakref.ref(maker)
    del maker, call
    gc.collect()
    assert dead() is None


def made_of(seed: int, tasks: int = 5) -> tuple[Tensor | None, ...]:
    x = torch.randn(2, tasks, 10, 1, generator=torch.Generator().manual_seed(seed))
    return x[0], x[0].sin(), None, x[1], x[1].sin(), None


def test_what_one_call_keeps_for_the_next_leaves_no_trace() -> None:
    core.set_poison(False)  # which is what nothing is kept for
    shapes = [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]
    generator = torch.Generator().manual_seed(0)
    parameters = [(0.3 * torch.randn(shape, generator=generator)).requires_grad_() for shape in shapes]
    layers = [("linear", 1, 40, 0, 40, 0.0), ("relu", 40, 40, -1, -1, 0.0), ("linear", 40, 40, 80, 1680, 0.0)]
    layers += [("relu", 40, 40, -1, -1, 0.0), ("linear", 40, 1, 1720, 1760, 0.0)]
    model, lr = core.Model(layers, "mse", [p.numel() for p in parameters]), torch.full((1761,), 0.01)
    results = (torch.empty(()), torch.empty(5), torch.empty(5, 10, 1), torch.empty(1761))

    def prepared() -> Any:
        slots = tuple((p, torch.empty_like(p), True) for p in parameters)
        return core.PreparedCall_float32(
            model, None, torch.empty_like, slots, lr.data_ptr(), True, made_of(0), results
        )  # fmt: skip

    call = prepared()
    for seed, threads in [(0, 2), (1, 2), (2, 3), (0, 1), (1, 2)]:
        alone = prepared().meta_gradient(made_of(seed), 1, True, threads, False)
        again = call.meta_gradient(made_of(seed), 1, True, threads, False)
        assert torch.equal(again[0], alone[0])
        assert torch.equal(again[1], alone[1])
        spoilt = made_of(3)
        assert spoilt[0] is not None
        spoilt[0][seed, 4] = torch.nan
        assert call.meta_gradient(spoilt, 1, True, threads, False) is None
