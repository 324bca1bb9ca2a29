"""Whatever is thrown at the public API, it gives what the reference gives, or says which argument is wrong."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastmaml import MAML, FirstOrder, Samples, SecondOrder, TaskBatch
from tests.problems import ON_CPU, gradients, network, relative_error

ARGUMENTS = ("batch", "support.", "query.", "x:", "steps:", "model:", "engine:")
DTYPES = (torch.float64, torch.float32, torch.int64, torch.int32, torch.float16, torch.bool)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-3}
SIZES = st.integers(1, 4)


@st.composite
def layouts(draw, tensor):
    """The same numbers with other strides, or in a graph."""
    kind = draw(st.sampled_from(["plain", "plain", "transposed", "sliced", "strided", "graph", "expanded"]))
    if kind == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == "sliced":
        return torch.cat([tensor, tensor], -1)[..., : tensor.shape[-1]] if tensor.dim() else tensor
    if kind == "strided" and tensor.dim():
        return tensor.repeat_interleave(2, 0)[::2]
    if kind == "graph" and tensor.is_floating_point():
        return tensor.clone().requires_grad_()
    if kind == "expanded" and tensor.dim():
        return tensor[:1].expand_as(tensor)
    return tensor


@st.composite
def spoilt(draw, tensor):
    """A tensor of another shape or dtype, or with a number that may not be."""
    kind = draw(st.sampled_from(["shape", "shape", "dtype", "number", "none"]))
    if kind == "shape":
        sizes = [*tensor.shape]
        where = draw(st.integers(0, len(sizes) - 1))
        change = draw(st.sampled_from(["drop", "insert", "resize"]))
        sizes[where : where + (change != "insert")] = {
            "drop": [],
            "insert": [draw(st.integers(0, 3))],
            "resize": [draw(st.integers(0, 5))],
        }[change]
        return torch.zeros(sizes, dtype=tensor.dtype)
    if kind == "dtype":
        return tensor.to(draw(st.sampled_from(DTYPES)))
    if kind == "number" and tensor.numel():
        bad = [torch.nan, torch.inf, -1.0] if tensor.is_floating_point() else [-1, -100, 9, 2**40]
        tensor = tensor.clone(memory_format=torch.contiguous_format)
        tensor.view(-1)[draw(st.integers(0, tensor.numel() - 1))] = draw(st.sampled_from(bad))
        return tensor
    return None if kind == "none" else tensor


@st.composite
def problems(draw):
    """Settings of a MAML, and a batch that fits it but for at most one tensor."""
    norm, loss = draw(st.booleans()), draw(st.sampled_from(["mse", "cross_entropy"]))
    dtype = draw(st.sampled_from([torch.float64, torch.float32]))
    inputs, outputs, hidden = draw(SIZES), draw(SIZES), draw(SIZES)
    torch.manual_seed(draw(st.integers(0, 99)))
    model = network((inputs, hidden, hidden, outputs), draw(st.sampled_from([nn.Tanh, nn.ReLU])), norm, dtype)
    shape = (inputs,)
    if draw(st.booleans()):
        model, shape = nn.Sequential(nn.Flatten(), model), draw(st.sampled_from([(inputs,), (1, inputs), (inputs, 1)]))
    tasks, counts = draw(SIZES), (draw(SIZES), draw(SIZES))
    tensors = []
    for count in counts:
        y = torch.randn(tasks, count, outputs, dtype=dtype)
        weights = None
        if draw(st.booleans()):
            weights = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=tasks * count)))
            weights = weights[: tasks * count].reshape(tasks, count).to(dtype)
        labels = torch.randint(outputs, (tasks, count))
        tensors += [torch.randn(tasks, count, *shape, dtype=dtype), y if loss == "mse" else labels, weights]
    tensors = [tensor if tensor is None else draw(layouts(tensor)) for tensor in tensors]
    if draw(st.booleans()):
        where = draw(st.sampled_from([index for index, tensor in enumerate(tensors) if tensor is not None]))
        tensors[where] = draw(spoilt(tensors[where].detach()))
    learn_lr = draw(st.sampled_from([False, "parameter", "element"]))
    rule = draw(st.sampled_from([SecondOrder(), FirstOrder()]))
    arguments = {"lr": 0.01, "steps": draw(st.integers(1, 3)), "loss": loss, "rule": rule, "learn_lr": learn_lr}
    return model, arguments, TaskBatch(Samples(*tensors[:3]), Samples(*tensors[3:]))


def attempt(call):
    """What the call gives, or the error it raises, which must name an argument."""
    try:
        return call()
    except (ValueError, TypeError) as error:
        found = error
    assert str(found).startswith(ARGUMENTS), found
    return found


def trained(model, arguments, batch, engine):
    """Loss, outputs and all gradients."""
    maml = MAML(model, engine=engine, **arguments)
    maml.zero_grad()
    loss, details = maml.meta_loss(batch, details=True)
    loss.backward()
    return loss.detach(), details.outputs, gradients(maml)


def adapted(model, arguments, batch, engine):
    """Fast parameters, losses, and outputs on the query set."""
    tasks = MAML(model, engine=engine, **arguments).adapt_tasks(batch.support)
    return tasks.parameters, tasks.losses, tasks(batch.query.x)


def agree(verb, problem, engine):
    """An engine does as the reference does, whether that is a result or an error."""
    model, arguments, batch = problem
    wanted = attempt(lambda: verb(model, arguments, batch, "reference"))
    found = attempt(lambda: verb(model, arguments, batch, engine))
    if isinstance(found, Exception) and str(found).startswith("engine:"):
        assert engine != "auto"
        return
    assert isinstance(found, Exception) == isinstance(wanted, Exception), (found, wanted)
    if isinstance(wanted, Exception):
        return
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.shape == theirs.shape
        assert torch.equal(ours.isfinite(), theirs.isfinite())
        error = relative_error(ours[theirs.isfinite()], theirs[theirs.isfinite()])
        assert error < TOLERANCE[theirs.dtype] or torch.allclose(ours, theirs, atol=1e-5), error


@pytest.mark.parametrize("engine", [*ON_CPU, "auto"])
@pytest.mark.parametrize("verb", [trained, adapted])
@settings(max_examples=60)
@given(problem=problems())
def test_result_or_reason(verb, engine, problem):
    agree(verb, problem, engine)
