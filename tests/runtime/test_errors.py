"""Bad input: each error names the argument, what was given, and what is allowed; what can work, works."""

import warnings

import pytest
import torch
from torch import nn

from fastmaml import MAML, Samples, TaskBatch
from tests.problems import ON_CPU, network, task_batch

pytestmark = pytest.mark.parametrize("engine", ON_CPU)


def changed(batch, **fields):
    """The batch with support_x, query_weights and so on replaced: by a tensor, or by a function of what is there."""
    parts = {"support": batch.support, "query": batch.query}
    for key, value in fields.items():
        name, field = key.split("_")
        kept = {f: getattr(parts[name], f) for f in ("x", "y", "weights")}
        kept[field] = value(kept[field]) if callable(value) else value
        parts[name] = Samples(**kept)
    return TaskBatch(**parts)


def holding(value, *index):
    def put(tensor):
        tensor = tensor.clone()
        tensor[index] = value
        return tensor

    return put


ONES = torch.ones(3, 5).double()

REGRESSION = {
    "rank of x": ({"support_x": torch.randn(3, 5).double()}, r"support.x: given shape \[3, 5\].* 3 features a sample"),
    "features": ({"query_x": torch.randn(3, 4, 7).double()}, r"query.x: given shape \[3, 4, 7\].*\[T, N, 3\]"),
    "dtype of x": ({"query_x": lambda x: x.float()}, "query.x: given torch.float32, but .* are torch.float64; convert"),
    "whole numbers": ({"support_x": lambda x: x.long()}, "support.x: given torch.int64"),
    "device": ({"support_x": lambda x: x.to("meta")}, "support.x: given on meta, but the model is on cpu"),
    "device of y": ({"query_y": lambda y: y.to("meta")}, "query.y: given on meta, but the model is on cpu"),
    "rank of y": ({"query_y": lambda y: y[..., 0]}, r"query.y: given .*\[3, 4\]; mse takes .* \[3, 4, 2\]"),
    "outputs of y": ({"support_y": lambda y: y[..., :1]}, r"support.y: given .*\[3, 5, 1\]; mse takes .* \[3, 5, 2\]"),
    "dtype of y": ({"support_y": lambda y: y.float()}, "support.y: given torch.float32 .*mse takes torch.float64"),
    "tasks": ({"query_x": lambda x: x[:2], "query_y": lambda y: y[:2]}, "query.x: given 2 tasks, but support.x has 3"),
    "samples": ({"query_y": lambda y: y[:, :3]}, r"query.y: given shape \[3, 3, 2\], but query.x has 3 tasks of 4"),
    "no samples": (
        {"support_x": lambda x: x[:, :0], "support_y": lambda y: y[:, :0]},
        r"support.x: given shape \[3, 0, 3\]; at least one task and one sample",
    ),
    "shape of weights": ({"query_weights": ONES}, r"query.weights: given shape \[3, 5\]"),
    "dtype of weights": ({"support_weights": ONES.float()}, "support.weights: given torch.float32"),
    "negative": ({"support_weights": holding(-1.0, 1, 2)(ONES)}, "support.weights: given -1.0 for sample 2 of task 1"),
    "NaN weight": ({"support_weights": holding(torch.nan, 0, 4)(ONES)}, "support.weights: given nan for sample 4"),
    "no weight": ({"support_weights": holding(0.0, 2)(ONES)}, "support.weights: all weights of task 2 are zero"),
    "NaN": ({"support_x": holding(torch.nan, 1, 2)}, "support.x: holds NaN or infinity, first in sample 2 of task 1"),
    "infinity": ({"query_y": holding(torch.inf, 2, 0)}, "query.y: holds NaN or infinity, first in sample 0 of task 2"),
}


@pytest.mark.parametrize("case", REGRESSION)
def test_regression(engine, case):
    fields, words = REGRESSION[case]
    batch = changed(task_batch(), **fields)
    maml = MAML(network(), engine=engine)
    with pytest.raises(ValueError, match=words):
        maml.meta_loss(batch)
    if any(key.startswith("support") for key in fields):
        with pytest.raises(ValueError, match=words):
            maml.adapt_tasks(batch.support)


CLASSIFICATION = {
    "too large": ({"query_y": holding(2, 1, 3)}, r"query.y.* label 2.* (task 1, sample 3|sample 3 of task 1).*0 to 1"),
    "negative": ({"support_y": holding(-100, 2, 0)}, "support.y.* label -100.*0 to 1"),
    "dtype": ({"query_y": lambda y: y.int()}, r"query.y: given torch.int32.*takes torch.int64 labels \[3, 4\]"),
    "one-hot": (
        {"support_y": lambda y: torch.eye(2)[y]},
        r"support.y: given torch.float32 .*torch.int64 labels \[3, 5\]",
    ),
}


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("case", CLASSIFICATION)
def test_classification(engine, case, planned):
    if engine == "cpu" and not planned:
        engine = "auto"
    fields, words = CLASSIFICATION[case]
    model = network() if planned else nn.Sequential(network(), nn.Softplus())
    with pytest.raises(ValueError, match=words):
        MAML(model, loss="cross_entropy", engine=engine).meta_loss(changed(task_batch(loss="cross_entropy"), **fields))


def test_one_sample_and_batch_norm(engine):
    maml = MAML(network(norm=True), engine=engine)
    with pytest.raises(
        ValueError, match=r"support.x: given 1 sample a task, but batch norm \(layer '1'\) needs at least 2"
    ):
        maml.meta_loss(task_batch(support=1))
    weights = torch.zeros(3, 5).double()
    weights[:, 0] = 1
    with pytest.raises(ValueError, match=r"support\.weights, task 0: given 1 sample"):
        maml.meta_loss(changed(task_batch(), support_weights=weights))


@pytest.mark.parametrize(
    ("steps", "error", "words"),
    [
        (0, ValueError, "steps: given 0; allowed is a whole number from 1"),
        (-1, ValueError, "steps: given -1"),
        (1.0, TypeError, "steps: given 1.0; allowed is a whole number"),
        ("2", TypeError, "steps: given '2'"),
        (True, ValueError, "steps: given True"),
    ],
)
def test_steps(engine, steps, error, words):
    with pytest.raises(error, match=words):
        MAML(network(), steps=steps, engine=engine)
    with pytest.raises(error, match=words):
        MAML(network(), engine=engine).meta_loss(task_batch(), steps=steps)
    if steps != 0:
        with pytest.raises(error, match=words):
            MAML(network(), engine=engine).adapt_tasks(task_batch().support, steps=steps)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"lr": -0.1}, ValueError, "lr: given -0.1; allowed are finite numbers from 0"),
        ({"lr": float("nan")}, ValueError, "lr: given nan"),
        ({"lr": "0.1"}, TypeError, "lr: given '0.1'; allowed is a number, or a mapping"),
        ({"lr": True}, TypeError, "lr: given True"),
        ({"lr": {"0.*": 0.1}}, ValueError, "lr: no pattern matches the adapted parameter '2.weight'"),
        ({"lr": {"*": 0.1, "9.*": 0.2}}, ValueError, r"lr: pattern '9.\*' matches no parameter"),
        ({"lr": {"*": -1}}, ValueError, r"lr\['\*'\]: given -1"),
        ({"loss": "mae"}, ValueError, "loss: given 'mae'"),
        ({"rule": "first_order"}, TypeError, "rule: given 'first_order'; allowed is a GradientRule"),
        ({"learn_lr": "layer"}, ValueError, "learn_lr: given 'layer'; allowed are False, 'parameter' and 'element'"),
        ({"learn_lr": True}, ValueError, "learn_lr: given True"),
        ({"adapted": ["9.*"]}, ValueError, r"adapted: pattern '9.\*' matches no parameter"),
        ({"meta_learned": ["9.*"]}, ValueError, r"meta_learned: pattern '9.\*' matches no parameter"),
    ],
)
def test_construction(engine, arguments, error, words):
    with pytest.raises(error, match=words):
        MAML(network(), engine=engine, **arguments)


def test_models_that_nothing_can_be_made_of(engine):
    with pytest.raises(TypeError, match=r"model: given function; allowed is a torch.nn.Module"):
        MAML(torch.relu_ if False else lambda x: x, engine=engine)
    with pytest.raises(ValueError, match="model: given ReLU, which has no parameters"):
        MAML(nn.ReLU(), engine=engine)
    frozen = MAML(network().requires_grad_(False), engine=engine)
    with pytest.raises(ValueError, match="model: no parameter has requires_grad=True"):
        frozen.adapt_tasks(task_batch().support)
    assert frozen.adapt_tasks(task_batch().support, steps=0).parameters.shape == (3, frozen.plan.num_parameters)


def test_parameters_of_two_dtypes(engine):
    model = nn.Sequential(network(), nn.Linear(2, 2))
    if engine == "cpu":
        with pytest.raises(ValueError, match=r"'cpu' does not run this: parameters differ in dtype"):
            MAML(model, engine=engine)
        return
    with pytest.raises(ValueError, match=r"model: '0.0.weight' is torch.float64 .*'1.weight' is torch.float32"):
        MAML(model, engine=engine).meta_loss(task_batch())


def test_unknown_engine(engine):
    with pytest.raises(
        ValueError, match="engine: given 'tpu'; allowed are 'auto', 'gpu', 'cpu', 'functional', 'reference'"
    ):
        MAML(network(), engine="tpu")


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.randn(2, 4, 3).double(), ValueError, r"x: given shape \[2, 4, 3\]; allowed is \[3, M, ...\]"),
        (torch.randn(3, 4, 2).double(), ValueError, r"x: given shape \[3, 4, 2\], but the model takes 3 features"),
        (torch.randn(3, 4, 3), ValueError, "x: given torch.float32, but the model's parameters are torch.float64"),
        (torch.randn(3).double(), ValueError, r"x: given shape \[3\]; allowed is \[T, N, ...\]"),
        (None, TypeError, "x: given NoneType; allowed is a torch.Tensor"),
    ],
)
def test_inputs_of_adapted_networks(engine, x, error, words):
    adapted = MAML(network(), engine=engine).adapt_tasks(task_batch().support)
    with pytest.raises(error, match="^" + words):
        adapted(x)


def test_predict_without_inputs(engine):
    with pytest.raises(TypeError, match="x: not given; it may be left out only where a whole TaskBatch is given"):
        MAML(network(), engine=engine).predict(task_batch().support)


def test_a_model_that_fails_on_the_data(engine):
    model = nn.Sequential(nn.Conv1d(3, 2, 1), nn.Flatten())
    if engine == "cpu":
        engine = "auto"
    part = Samples(torch.randn(2, 4, 5, 5), torch.randn(2, 4, 10))
    with pytest.raises(ValueError, match=r"support.x: the model cannot run on samples of shape \[5, 5\]"):
        MAML(model, engine=engine).meta_loss(TaskBatch(part, part))


def test_divergence_is_no_error(engine):
    maml = MAML(network(activation=nn.ReLU), lr=1e60, steps=12, engine=engine)
    assert not maml.meta_loss(task_batch()).isfinite()
    assert not maml.adapt_tasks(task_batch().support).losses.isfinite().all()


def test_strides_and_expanded_inputs_work(engine):
    batch = task_batch()
    maml = MAML(network(), engine=engine)
    wanted = maml.meta_loss(batch)
    transposed = changed(batch, support_x=lambda x: x.transpose(0, 2).contiguous().transpose(0, 2))
    assert not transposed.support.x.is_contiguous()
    assert torch.equal(maml.meta_loss(transposed), wanted)
    wide = changed(batch, query_y=lambda y: torch.cat([y, y], 2)[..., :2])
    assert torch.equal(maml.meta_loss(wide), wanted)
    with torch.no_grad():
        assert torch.equal(maml.meta_loss(changed(batch, support_x=lambda x: x.clone().requires_grad_())), wanted)
    repeated = changed(batch, query_x=lambda x: x[:1].expand(3, -1, -1), query_y=lambda y: y[:1].expand(3, -1, -1))
    copied = changed(repeated, query_x=lambda x: x.clone(), query_y=lambda y: y.clone())
    assert torch.equal(maml.meta_loss(repeated), maml.meta_loss(copied))
    assert torch.equal(maml.predict(batch.support, transposed.support.x), maml.predict(batch.support, batch.support.x))


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.randn(10, 3).double(), torch.randn(10, 2).double()),
        (torch.randn(10, 3).double(), torch.randn(10).double()),
        (torch.randn(3, 3).double(), torch.randn(3, 3).double()),
    ],
)
def test_one_task_without_its_dimension_is_told_to_get_one(engine, x, y):
    with pytest.raises(ValueError, match=r"unsqueeze\(0\)"):
        MAML(network(), engine=engine).adapt_tasks((x, y))


def test_images_of_one_task_are_told_to_get_their_dimension(engine):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)).double()
    x, y = torch.randn(4, 2, 5, 5).double(), torch.randn(4, 2).double()
    for given in [model] if engine == "cpu" else [model, nn.Sequential(model, nn.Softplus())]:
        with pytest.raises(ValueError, match=r"one task's samples; allowed is \[T, N, ...\].*unsqueeze\(0\)"):
            MAML(given, engine=engine).adapt_tasks((x, y))


def test_inputs_that_wait_for_a_gradient_are_refused(engine):
    batch, maml = task_batch(), MAML(network(), engine=engine)
    maml.backward(batch)
    before = [p.grad.clone() for p in maml.parameters()]
    backbone = nn.Linear(3, 3).double()
    for field, change in (
        ("support.x", {"support_x": backbone}),
        ("query.x", {"query_x": backbone}),
        ("support.y", {"support_y": lambda y: y.clone().requires_grad_()}),
    ):
        given = changed(batch, **change)
        for verb in (maml.meta_loss, maml.backward):
            with pytest.raises(ValueError, match=f"^{field}: given a tensor that requires grad.*\\.detach\\(\\)"):
                verb(given)
        with torch.no_grad():
            assert maml.meta_loss(given).isfinite()
    with pytest.raises(ValueError, match=r"support.x: given a tensor that requires grad"):
        maml.adapt_tasks((backbone(batch.support.x), batch.support.y))
    with pytest.raises(ValueError, match=r"^x: given a tensor that requires grad"):
        maml.adapt_tasks(batch.support)(backbone(batch.query.x))
    assert all(torch.equal(p.grad, g) for p, g in zip(maml.parameters(), before, strict=True))


def test_weights_that_wait_for_a_gradient_are_refused(engine):
    batch = task_batch(ragged=True)
    batch.query.weights.requires_grad_()
    with pytest.raises(ValueError, match=r"query.weights: given a tensor that requires grad"):
        MAML(network(), engine=engine).meta_loss(batch)


def test_transforms_of_torch_func_are_refused(engine):
    batch, maml = task_batch(), MAML(network(), engine=engine)
    adapted = maml.adapt_tasks(batch.support)

    def through(function):
        return torch.func.grad(lambda x: function(x).sum())(batch.support.x)

    with pytest.raises(RuntimeError, match=r"adapt_tasks cannot be transformed by torch\.func"):
        through(lambda x: maml.adapt_tasks((x, batch.support.y)).parameters)
    with pytest.raises(RuntimeError, match=r"an adapted network cannot be transformed by torch\.func"):
        through(adapted)
    with pytest.raises(RuntimeError, match=r"meta_loss cannot be transformed by torch\.func"):
        through(lambda x: maml.meta_loss((x, batch.support.y, batch.query.x, batch.query.y)))


def test_autocast_that_has_no_effect_is_told_once(engine):
    batch, maml = task_batch(dtype=torch.float32), MAML(network(dtype=torch.float32), engine=engine)
    wanted = maml.meta_loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        if engine == "cpu":
            with pytest.warns(UserWarning, match="autocast has no effect on engine 'cpu'.*torch.float32"):
                assert torch.equal(maml.backward(batch), wanted)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                maml.backward(batch)
        else:
            assert not torch.equal(maml.meta_loss(batch), wanted)


def test_negative_bits_are_read_with_their_sign(engine):
    batch, maml = task_batch(ragged=True), MAML(network(), engine=engine, lr=0.1)

    def negative(tensor):
        view = torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
        assert view.is_neg()
        assert torch.equal(view, tensor)
        return view

    wanted, adapted = maml.backward(batch), maml.adapt_tasks(batch.support)
    for change in ({"support_x": negative}, {"query_y": negative}, {"support_x": negative, "query_x": negative}):
        given = changed(batch, **change)
        assert torch.equal(maml.meta_loss(given), wanted)
        assert torch.equal(maml.backward(given), wanted)
    assert torch.equal(adapted(negative(batch.query.x)), adapted(batch.query.x))
    for parameter in maml.parameters():
        parameter.data = negative(parameter.data)
    assert torch.equal(maml.meta_loss(batch), wanted)


@pytest.mark.parametrize("verb", ["backward", "meta_loss", "adapt_tasks"])
def test_numbers_of_steps_that_no_index_holds_are_refused(engine, verb):
    batch, maml = task_batch(), MAML(network(), engine=engine)
    with pytest.raises(ValueError, match=r"steps: given 1000000.*; allowed is a whole number from [01] to 2\*\*63 - 1"):
        getattr(maml, verb)(batch.support if verb == "adapt_tasks" else batch, steps=10**20)
