"""MAML: the same meta-gradient whoever asks for it, in every way that torch lets one ask."""

import copy
import pickle
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmaml import MAML, FirstOrder, Samples, SecondOrder, TaskBatch, engines
from fastmaml.engines.base import MetaGradient
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.plan import InnerLr, Plan
from tests.problems import ON_CPU, gradients, network, parameters_of, relative_error, samples, task_batch

ENGINES = ON_CPU


def by_hand(model, batch, lr, steps, loss=F.mse_loss, first_order=False):
    """The mean query loss in an ordinary graph, as any textbook writes it."""
    losses = []
    for x, y, query_x, query_y in zip(batch.support.x, batch.support.y, batch.query.x, batch.query.y, strict=True):
        fast = dict(model.named_parameters())
        for _ in range(steps):
            inner = loss(torch.func.functional_call(model, fast, (x,)), y)
            grads = torch.autograd.grad(inner, fast.values(), create_graph=not first_order)
            fast = {name: p - lr * g for (name, p), g in zip(fast.items(), grads, strict=True)}
        losses.append(loss(torch.func.functional_call(model, fast, (query_x,)), query_y))
    return torch.stack(losses).mean()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", [SecondOrder(), FirstOrder()], ids=["second", "first"])
def test_meta_loss_is_what_the_textbook_computes(engine, rule):
    model, batch = network(), task_batch()
    maml = MAML(model, lr=0.1, steps=3, rule=rule, engine=engine)
    loss = maml.meta_loss(batch)
    loss.backward()
    given = gradients(maml)
    maml.zero_grad()
    wanted = by_hand(model, batch, 0.1, 3, first_order=isinstance(rule, FirstOrder))
    wanted.backward()
    torch.testing.assert_close(loss.detach(), wanted.detach())
    assert relative_error(given, gradients(maml)) < 1e-12


@pytest.mark.parametrize("engine", ENGINES)
def test_details_and_forms_of_a_batch(engine):
    maml, batch = MAML(network(), engine=engine, steps=2), task_batch()
    loss, details = maml.meta_loss(batch, details=True)
    torch.testing.assert_close(details.task_losses.mean(), loss.detach())
    torch.testing.assert_close(details.outputs, maml.predict(batch))
    support, query = batch.support, batch.query
    for form in (
        (support.x, support.y, query.x, query.y),
        {"train": (support.x, support.y), "test": (query.x, query.y)},
    ):
        assert torch.equal(maml.meta_loss(form), loss)
    assert torch.equal(maml.meta_loss(batch, steps=2), loss)
    assert not torch.equal(maml.meta_loss(batch, steps=3), loss)


@pytest.mark.parametrize("engine", ENGINES)
def test_details_have_no_outputs_of_padding(engine):
    batch = task_batch(ragged=True)
    _, details = MAML(network(), engine=engine).meta_loss(batch, details=True)
    padding = batch.query.weights == 0
    assert padding.any()
    assert torch.equal(details.outputs[padding], torch.zeros_like(details.outputs[padding]))
    assert (details.outputs[~padding] != 0).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_adapted_tasks(engine):
    model, batch = network(), task_batch()
    maml = MAML(model, lr=0.1, steps=2, engine=engine)
    adapted = maml.adapt_tasks(batch.support)
    assert (len(adapted), adapted.losses.shape) == (3, (3, 2))
    outputs = adapted(batch.query.x)
    assert not outputs.requires_grad
    other = network()
    for task in range(3):
        other.load_state_dict(adapted.state_dict(task))
        torch.testing.assert_close(other(batch.query.x[task]).detach(), outputs[task])
    losses = F.mse_loss(outputs, batch.query.y, reduction="none").mean((1, 2))
    torch.testing.assert_close(losses, maml.meta_loss(batch, details=True)[1].task_losses)
    start = maml.adapt_tasks((batch.support.x, batch.support.y), steps=0)
    torch.testing.assert_close(start(batch.query.x), model(batch.query.x).detach())
    assert start.losses.shape == (3, 0)
    torch.testing.assert_close(maml.predict(batch.support, batch.query.x), outputs)


def test_state_dict_of_a_task_has_the_buffers_and_the_shared_parameters():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    maml = MAML(model)
    state = maml.adapt_tasks(samples(outputs=3)).state_dict(-1)
    assert state.keys() == model.state_dict().keys()
    assert torch.equal(state["0.weight"], state["2.weight"])
    assert not torch.equal(state["0.weight"], model[0].weight)
    with pytest.raises(IndexError, match="task: given 3; allowed are 0 to 2"):
        maml.adapt_tasks(samples(outputs=3)).state_dict(3)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("learn", ["parameter", "element"])
def test_learned_inner_lr(engine, learn):
    model, batch = network(), task_batch()
    maml = MAML(model, lr=0.1, steps=2, learn_lr=learn, engine=engine)
    assert any(p is maml.inner_lr for p in maml.parameters())
    assert "inner_lr" in maml.state_dict()
    maml.meta_loss(batch).backward()
    given = maml.inner_lr.grad.clone()

    def loss(values):
        with torch.no_grad():
            maml.inner_lr.copy_(values)
            return maml.meta_loss(batch).item()

    start = maml.inner_lr.detach().clone()
    for index in range(0, len(start), max(1, len(start) // 7)):
        step = torch.zeros_like(start)
        step[index] = 1e-5
        assert given[index].item() == pytest.approx((loss(start + step) - loss(start - step)) / 2e-5, abs=1e-8)


def test_learned_inner_lr_of_what_is_not_adapted_gets_no_gradient():
    maml = MAML(network(), learn_lr="parameter", adapted=["2.*"])
    maml.meta_loss(task_batch()).backward()
    assert [bool(g) for g in maml.inner_lr.grad] == [False, False, True, True, False, False]


def test_lr_by_pattern_takes_the_first_that_matches():
    model = network((3, 4, 2))
    maml = MAML(model, lr={"*.bias": 0.3, "2.*": 0.0, "*": 0.1}, engine="reference")
    seen = []

    class Spy(ReferenceEngine):
        def meta_gradient(self, plan, parameters, inner_lr, *rest):
            seen.append(inner_lr.values)
            return super().meta_gradient(plan, parameters, inner_lr, *rest)

    MAML(model, lr=maml.lr, engine=Spy()).meta_loss(task_batch())
    pieces = Plan.of(model).unflatten(seen[0])
    assert {name: piece.unique().tolist() for name, piece in pieces.items()} == {
        "0.weight": [0.1],
        "0.bias": [0.3],
        "2.weight": [0.0],
        "2.bias": [0.3],
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_meta_learned_or_frozen_gets_none(engine):
    model, batch = network(), task_batch()
    MAML(model, engine=engine).meta_loss(batch).backward()
    full = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    MAML(model, engine=engine, meta_learned=["0.*"]).meta_loss(batch).backward()
    for name, p in model.named_parameters():
        assert (p.grad is None) == (not name.startswith("0."))
        assert p.grad is None or torch.allclose(p.grad, full[name])
    model.zero_grad()
    model[0].weight.requires_grad_(False)
    maml = MAML(model, engine=engine)
    maml.meta_loss(batch).backward()
    assert model[0].weight.grad is None
    assert model[0].bias.grad is not None
    assert torch.equal(maml.adapt_tasks(batch.support).state_dict(0)["0.weight"], model[0].weight)


def test_nothing_meta_learned_makes_a_loss_without_a_graph():
    assert not MAML(network(), meta_learned=[]).meta_loss(task_batch()).requires_grad


def test_accumulation_clipping_and_a_scheduler_train_as_by_hand():
    model, batches = network(), [task_batch() for _ in range(4)]
    twin = copy.deepcopy(model)
    maml = MAML(model, lr=0.1, steps=2)
    for losses, parameters in (
        ([lambda b=b: maml.meta_loss(b) / 2 for b in batches], list(maml.parameters())),
        ([lambda b=b: by_hand(twin, b, 0.1, 2) / 2 for b in batches], list(twin.parameters())),
    ):
        optimizer = torch.optim.Adam(parameters, lr=0.05)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for first, second in zip(losses[::2], losses[1::2], strict=True):
            optimizer.zero_grad()
            first().backward()
            second().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 0.3)
            optimizer.step()
            scheduler.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_no_grad_and_inference_mode():
    for engine in ENGINES:
        maml, batch = MAML(network(), engine=engine), task_batch()
        wanted = maml.meta_loss(batch).detach()
        with torch.no_grad():
            assert not maml.meta_loss(batch).requires_grad
            assert torch.equal(maml.meta_loss(batch), wanted)
        with torch.inference_mode():
            made_here = batch.to(torch.float32).to(torch.float64)
            assert made_here.support.x.is_inference()
            torch.testing.assert_close(maml.meta_loss(made_here), wanted, rtol=1e-4, atol=1e-4)
            assert maml.predict(batch).shape == (3, 4, 2)
        maml.meta_loss(made_here).backward()  # the tensors outlive the mode
        assert gradients(maml).norm() > 0


def test_copies_are_whole_and_independent():
    maml, batch = MAML(network(), lr=0.1, learn_lr="parameter", loss="mse", adapted=["*.weight"]), task_batch()
    loss = maml.meta_loss(batch)
    for twin in (copy.deepcopy(maml), pickle.loads(pickle.dumps(maml))):
        assert torch.equal(twin.meta_loss(batch), loss)
        assert twin.plan.module is twin.model
        assert twin._handle != maml._handle
        with torch.no_grad():
            twin.model[0].weight.zero_()
        assert torch.equal(maml.meta_loss(batch), loss)
        twin.load_state_dict(maml.state_dict())
        assert torch.equal(twin.meta_loss(batch), loss)


def test_the_model_may_change_its_dtype_mode_and_parts():
    model = network(norm=True, dtype=torch.float32)
    maml, batch = MAML(model, lr=0.1), task_batch()
    with pytest.raises(
        ValueError, match=r"support.x: given torch.float64, but the model's parameters are torch.float32"
    ):
        maml.meta_loss(batch)
    model.double()
    assert maml.meta_loss(batch).dtype == torch.float64
    training = maml.engine.name
    maml.batch_norm = "running"
    maml.eval()
    assert maml.engine.name == "functional"
    assert "layer '1' (BatchNorm1d) is in eval mode" in maml.plan.obstacle
    assert maml.meta_loss(batch).isfinite()
    maml.train()
    assert maml.engine.name == training
    model[6] = nn.Linear(5, 2, bias=False).double()
    assert maml.plan.num_parameters == sum(p.numel() for p in model.parameters())
    maml.meta_loss(batch).backward()
    assert model[6].weight.grad is not None
    model[6].weight = nn.Parameter(torch.zeros(2, 5).double())
    maml.meta_loss(batch).backward()
    assert model[6].weight.grad is not None
    model[0].register_forward_hook(lambda *_: None)
    assert "layer '0' (Linear) has hooks" in maml.plan.obstacle


def test_fitted_parameters_do_not_survive_a_change_of_the_model():
    maml = MAML(network(dtype=torch.float32))
    adapted = maml.adapt_tasks(samples(dtype=torch.float32))
    maml.double()
    with pytest.raises(ValueError, match=r"the model now has .* torch\.float64 .*; adapt it anew"):
        adapted(samples().x)


def test_auto_explains_itself():
    fastest = ON_CPU[0]
    lines = MAML(network()).explain().splitlines()
    assert lines[0] == f"engine {fastest!r}: the fastest that runs this model"
    absent = [f"not {name!r}: " for name in engines.NAMES[: engines.NAMES.index(fastest)]]
    assert all(line.startswith(start) for line, start in zip(lines[1:], absent, strict=True))
    gelu = MAML(nn.Sequential(nn.Linear(3, 2), nn.GELU()))
    assert gelu.engine.name == "functional"
    assert gelu.explain().startswith("engine 'functional': the fastest that runs this model\nnot ")
    assert "\nnot 'cpu': " in gelu.explain()
    reference = MAML(network(), engine="reference")
    assert reference.explain().startswith("engine 'reference': as asked for\n")
    assert "'functional' runs this model too, faster" in reference.explain()


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_the_gpu_engine_without_a_gpu():
    with pytest.raises(
        ValueError, match="engine: 'gpu' is not available, as torch finds no GPU here; allowed here are"
    ):
        MAML(network(), engine="gpu")


@pytest.mark.skipif("cpu" not in ENGINES, reason="the compiled core is not installed")
def test_the_cpu_engine_says_why_not():
    gelu = nn.Sequential(nn.Linear(3, 2), nn.GELU())
    reason = r"layer '1' \(GELU\) is not known"
    with pytest.raises(ValueError, match="engine: 'cpu' does not run this: " + reason):
        MAML(gelu, engine="cpu")
    with pytest.raises(AssertionError, match="not 'cpu': " + reason):
        raise AssertionError(MAML(gelu).explain())
    sequence = Samples(torch.randn(3, 4, 5, 3).double(), torch.randn(3, 4, 5, 2).double())
    with pytest.raises(ValueError, match=r"'cpu' does not run this: samples have shape \[5, 3\]; the layers accept"):
        MAML(network(), engine="cpu").meta_loss(TaskBatch(sequence, sequence))
    assert MAML(network()).meta_loss(TaskBatch(sequence, sequence)).isfinite()


def test_auto_goes_on_where_torch_func_fails():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.GRU(3, 2, batch_first=True)

        def forward(self, x):
            return self.cell(x)[0]

    part = Samples(torch.randn(2, 4, 5, 3).double(), torch.randn(2, 4, 5, 2).double())
    maml = MAML(Recurrent().double(), lr=0.1)
    loss = maml.meta_loss(TaskBatch(part, part))
    assert torch.equal(loss, MAML(maml.model, lr=0.1, engine="reference").meta_loss(TaskBatch(part, part)))
    assert maml.engine.name == "reference"
    assert "not 'functional': it failed on this model (" in maml.explain()


def test_padding_with_batch_norm_finds_an_engine_that_drops_it():
    batch = task_batch(ragged=True)
    model = nn.Sequential(network(norm=True), nn.Softplus())  # nothing for the cpu engine
    wanted = MAML(model, engine="reference").meta_loss(batch)
    assert torch.equal(MAML(model).meta_loss(batch), wanted)
    with pytest.raises(ValueError, match="'functional' does not run this: the weights hold zeros"):
        MAML(model, engine="functional").meta_loss(batch)
    assert MAML(model, engine="functional").meta_loss(task_batch()).isfinite()


@pytest.mark.parametrize("engine", ["functional", "reference", "auto"])
def test_callable_losses(engine):
    model, batch = network(), task_batch()
    loss = MAML(model, lr=0.1, steps=2, loss=F.l1_loss, engine=engine).meta_loss(batch)
    torch.testing.assert_close(loss.detach(), by_hand(model, batch, 0.1, 2, F.l1_loss).detach())

    def weighted(outputs, targets, weights):
        return ((outputs - targets).abs().mean(1) * weights).sum() / weights.sum()

    ragged = task_batch(ragged=True)
    found = [MAML(model, loss=weighted, engine=name).meta_loss(ragged) for name in (engine, "reference")]
    torch.testing.assert_close(*found)


def test_the_model_itself_is_left_alone():
    model = network(norm=True)
    model.register_buffer("spare", torch.zeros(2))
    before = copy.deepcopy(model.state_dict())
    for engine in ENGINES:
        maml = MAML(model, lr=0.1, engine=engine)
        maml.meta_loss(task_batch()).backward()
        maml.predict(task_batch())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    x = torch.randn(4, 3).double()
    torch.testing.assert_close(maml(x), model(x))


def test_an_engine_of_ones_own():
    class Constant(ReferenceEngine):
        name = "constant"

        def meta_gradient(self, plan, parameters, inner_lr: InnerLr, batch, steps, rule):
            losses = torch.full((batch.num_tasks,), 2.0, dtype=parameters.dtype)
            return MetaGradient(losses, torch.ones_like(parameters), None, batch.query.y)

    maml = MAML(network(), engine=Constant())
    loss = maml.meta_loss(task_batch())
    (3 * loss).backward()
    assert loss.item() == 2.0
    assert gradients(maml).unique().tolist() == [3.0]
    assert maml.explain().startswith("engine 'constant': as asked for")


def test_repr_shows_the_settings():
    assert "lr=0.4, steps=2, loss='cross_entropy', rule=FirstOrder(), engine='auto'" in repr(
        MAML(network(), lr=0.4, steps=2, loss="cross_entropy", rule=FirstOrder())
    )


def test_an_absent_core_is_said_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastmaml.engines.cpu", None)  # importing it raises ImportError
    engines._load.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="the compiled core of fastmaml cannot be imported") as said:
            maml = [MAML(network()) for _ in range(2)][-1]
        assert len(said) == 1
        assert maml.engine.name == "functional"
        assert "not 'cpu': the compiled core" in maml.explain()
        with pytest.raises(ValueError, match="engine: 'cpu' is not available, as the compiled core"):
            MAML(network(), engine="cpu")
    finally:
        engines._load.cache_clear()


def test_parameters_of_a_float32_model_stay_float32():
    maml = MAML(network(dtype=torch.float32), learn_lr="element")
    maml.meta_loss(task_batch(dtype=torch.float32)).backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.shape == p.shape for p in maml.parameters())
    assert parameters_of(maml.plan).dtype == torch.float32


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("rule", [SecondOrder(), FirstOrder()], ids=["second", "first"])
@pytest.mark.parametrize(("options", "ragged"), [({}, False), ({"learn_lr": "parameter"}, True)])
def test_weights_of_tasks_weigh_losses_and_gradients(engine, rule, options, ragged):
    batch = task_batch(tasks=4, ragged=ragged)
    maml = MAML(network(), lr=0.1, steps=2, rule=rule, engine=engine, **options)
    alone = []
    for task in range(4):
        support, query = (
            Samples(s.x[task][None], s.y[task][None], s.weights if s.weights is None else s.weights[task][None])
            for s in (batch.support, batch.query)
        )
        maml.zero_grad()
        loss = maml.backward(TaskBatch(support, query))
        alone.append((loss, gradients(maml)))
    weights = torch.tensor([1.0, 0.0, 2.0, 5.0]).double()
    losses, found = (torch.stack(parts) for parts in zip(*alone, strict=True))
    for verb in ("backward", "meta_loss"):
        maml.zero_grad()
        loss = getattr(maml, verb)(TaskBatch(batch.support, batch.query, weights))
        if verb == "meta_loss":
            loss.backward()
        torch.testing.assert_close(loss.detach(), weights @ losses / 8)
        torch.testing.assert_close(gradients(maml), weights @ found / 8)
    _, details = maml.meta_loss(TaskBatch(batch.support, batch.query, weights), details=True)
    torch.testing.assert_close(details.task_losses, losses)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        ([1, 2, 3], TypeError, r"weights: given list; allowed is a torch.Tensor \[3\]"),
        (torch.ones(2).double(), ValueError, r"weights: given shape \[2\]; allowed is \[3\]"),
        (torch.ones(3, 1).double(), ValueError, r"weights: given shape \[3, 1\]; allowed is \[3\]"),
        (torch.ones(3), ValueError, "weights: given torch.float32, but the model's parameters are torch.float64"),
        (torch.tensor([1.0, -1.0, 1.0]).double(), ValueError, "weights: given -1.0 for task 1; allowed are finite"),
        (torch.tensor([1.0, 1.0, float("nan")]).double(), ValueError, "weights: given nan for task 2"),
        (torch.zeros(3).double(), ValueError, "weights: all tasks weigh 0"),
    ],
)
def test_weights_of_tasks_are_checked(engine, weights, error, words):
    batch = task_batch()
    maml = MAML(network(), engine=engine)
    for verb in (maml.backward, maml.meta_loss):
        with pytest.raises(error, match=words):
            verb(TaskBatch(batch.support, batch.query, weights))
