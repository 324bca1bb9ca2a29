"""Planning a model leaves torch as it is, for other threads and for everything that comes after."""

import threading
from collections import Counter

import pytest
import torch
from torch import nn

from fastmaml import MAML
from fastmaml.plan import Plan
from fastmaml.plan.symbolic import symbolic_trace


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, scale=2.0):
        self.calls += 1
        self.last = x
        for layer in self.layers:
            x = x + layer(x) if isinstance(layer, nn.Linear) else x
        return x * scale


def linears():
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = linears()

    def forward(self, x):
        return self.inner(x)


def test_the_module_is_as_before():
    module = Residual()
    before, call = dict(vars(module)), nn.Module.__call__
    graph = symbolic_trace(module, lambda child: isinstance(child, nn.Linear))
    assert [node.target for node in graph.nodes if node.op == "call_module"] == ["layers.0", "layers.1"]
    assert vars(module) == before
    assert module.calls == 0
    assert nn.Module.__call__ is call


def test_other_threads_run_networks_while_models_are_planned():
    call, attribute = nn.Module.__call__, nn.Module.__getattr__
    network, x, stop = linears(), torch.randn(5, 3), threading.Event()
    wanted, wrong, engines, calls = network(x).detach(), [], Counter(), Counter()

    def plan():
        for _ in range(60):
            engines[MAML(Wrapped()).engine.name] += 1

    def run():
        while not stop.is_set():
            try:
                calls[torch.equal(network(x), wanted)] += 1
            except Exception as error:
                wrong.append(error)
            if nn.Module.__call__ is not call or nn.Module.__getattr__ is not attribute:
                wrong.append("patched")

    planning = [threading.Thread(target=plan) for _ in range(3)]
    running = threading.Thread(target=run)
    for thread in (running, *planning):
        thread.start()
    for thread in planning:
        thread.join()
    stop.set()
    running.join()
    assert not wrong
    assert set(calls) == {True}
    assert engines == {"cpu": 180}
    assert nn.Linear(2, 2)(torch.ones(1, 2)).shape == (1, 2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: setattr(model[1], "forward", torch.tanh), "layer '1' (ReLU) has a forward of its own"),
        (lambda model: model[1].register_full_backward_pre_hook(lambda *_: None), "layer '1' (ReLU) has hooks"),
    ],
)
def test_what_only_python_can_run_is_refused(change, words):
    model = linears()
    change(model)
    assert Plan.of(model).obstacle.startswith(words)


def test_hooks_of_all_modules_are_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert "hooks for all modules" in Plan.of(linears()).obstacle
    finally:
        handle.remove()
    assert Plan.of(linears()).obstacle is None


@pytest.mark.parametrize(
    ("change", "engine"),
    [
        (lambda m: widen(m, 40), "cpu"),  # by replacing weights alone, as pruning does
        (lambda m: setattr(m[0], "bias", nn.Parameter(torch.zeros(2).double())), None),
        (lambda m: setattr(m[2], "weight", nn.Parameter(torch.zeros(3, 7).double())), None),
    ],
)
def test_sizes_are_those_of_the_tensors(change, engine):
    model = linears().double()
    change(model)
    batch = [torch.randn(2, 5, 3).double() for _ in range(4)]
    maml = MAML(model, lr=0.1)
    if engine is None:
        assert "layer '" in maml.plan.obstacle
        with pytest.raises(ValueError, match="the model cannot run on samples of shape"):
            maml.meta_loss(batch)
        return
    assert maml.engine.name == engine
    torch.testing.assert_close(maml.meta_loss(batch), MAML(model, lr=0.1, engine="reference").meta_loss(batch))


def widen(model, width):
    model[0].weight = nn.Parameter(torch.randn(width, 3).double())
    model[0].bias = nn.Parameter(torch.randn(width).double())
    model[2].weight = nn.Parameter(torch.randn(3, width).double())
