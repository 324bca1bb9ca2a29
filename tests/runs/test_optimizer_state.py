"""An optimizer's state comes back as it was, and one of other shapes than its step reads is refused by name."""

import copy

import pytest
import torch
from torch import nn, optim

from fastmaml.runs import checkpoint, optimizer_state
from fastmaml.runs.checkpoint import CheckpointError
from fastmaml.runs.saved import Saved

MAKE = {
    "Adam": lambda p: optim.Adam(p, fused=True),
    "amsgrad": lambda p: optim.AdamW(p, amsgrad=True),
    "tensor lr": lambda p: optim.Adam(p, lr=torch.tensor(0.01), fused=True),
    "SGD": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "Adagrad": lambda p: optim.Adagrad(p, fused=True),
    "RMSprop": lambda p: optim.RMSprop(p, momentum=0.9, centered=True),
    "Adadelta": optim.Adadelta,
    "Adafactor": optim.Adafactor,
    "Adamax": optim.Adamax,
    "ASGD": optim.ASGD,
    "NAdam": optim.NAdam,
    "RAdam": optim.RAdam,
    "Rprop": optim.Rprop,
    "LBFGS": lambda p: optim.LBFGS(p, lr=0.1, max_iter=3),
}


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Flatten(), nn.Linear(4, 2))


def run(module, optimizer, steps, first=0):
    for step in range(first, first + steps):
        x = torch.randn(5, 2, 3, 3, generator=torch.Generator().manual_seed(step))

        def closure(x=x):
            optimizer.zero_grad()
            loss = module(x).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def saved_by(make, tmp_path, module=None):
    """A module and its optimizer after three steps, and the state as a checkpoint brings it back."""
    module = module or model()
    optimizer = make(module.parameters())
    run(module, optimizer, 3)
    checkpoint.save(tmp_path / "c", {"optimizer": optimizer.state_dict()})
    return module, optimizer, checkpoint.load(tmp_path / "c")["optimizer"]


def restore(state, optimizer):
    optimizer_state.restore(Saved("file", state, "optimizer"), optimizer)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
def test_it_goes_on_bit_for_bit(name, layout, tmp_path):
    if (name, layout) == ("LBFGS", torch.channels_last):
        pytest.skip("LBFGS views gradients as vectors, which those of this layout are not")
    module, optimizer, state = saved_by(MAKE[name], tmp_path, model().to(memory_format=layout))
    other = copy.deepcopy(module)
    its_own = MAKE[name](other.parameters())
    restore(state, its_own)
    run(module, optimizer, 3, first=3)
    run(other, its_own, 3, first=3)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), other.parameters(), strict=True))


def tensors(state):
    return [
        (index, name) for index, entries in state["state"].items() for name, v in entries.items() if torch.is_tensor(v)
    ]


@pytest.mark.parametrize("name", MAKE)
def test_a_tensor_of_another_shape_or_dtype_is_named(name, tmp_path):
    _, _, state = saved_by(MAKE[name], tmp_path)
    places = tensors(state)
    assert places
    for index, entry in places:
        for wrong in (torch.zeros(7), state["state"][index][entry].to(torch.complex64), "text"):
            damaged = copy.deepcopy(state)
            damaged["state"][index][entry] = wrong
            with pytest.raises(CheckpointError, match=rf"file: 'optimizer/state/{index}/{entry}' is .*; allowed is "):
                restore(damaged, MAKE[name](model().parameters()))


@pytest.mark.parametrize("name", [name for name in MAKE if name not in ("SGD", "LBFGS")])
def test_what_a_step_needs_is_missed_by_name(name, tmp_path):
    _, _, state = saved_by(MAKE[name], tmp_path)
    del state["state"][2]["step"]
    with pytest.raises(CheckpointError, match="'optimizer/state/2/step' is absent"):
        restore(state, MAKE[name](model().parameters()))


def test_a_refused_state_leaves_the_optimizer_alone(tmp_path):
    _, optimizer, state = saved_by(MAKE["Adam"], tmp_path)
    before = copy.deepcopy(optimizer.state_dict())
    state["state"][3]["exp_avg"] = torch.zeros(1)
    with pytest.raises(CheckpointError):
        restore(state, optimizer)
    after = optimizer.state_dict()
    assert all(torch.equal(v, after["state"][i][n]) for i, kept in before["state"].items() for n, v in kept.items())


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("state", 0, "step"), -1.0),
        (("state", 0, "step"), torch.tensor(float("nan"))),
        (("state", 9), {}),
        (("state",), []),
        (("param_groups",), []),
        (("param_groups", 0, "params"), [0, 0, 1, 2]),
        (("param_groups", 0, "lr"), float("nan")),
        (("param_groups", 0, "lr"), None),
        (("param_groups", 0, "lr"), True),
        (("param_groups", 0, "betas"), (0.9,)),
        (("param_groups", 0, "betas"), (0.9, "x")),
        (("param_groups", 0, "betas"), (1.0, 0.9)),
        (("param_groups", 0, "eps"), 10**30),
        (("param_groups", 0, "eps"), torch.zeros(1)),
        (("param_groups", 0, "amsgrad"), "no"),
        (("param_groups", 0, "amsgrad"), True),
        (("param_groups", 0, "capturable"), True),
    ],
    ids=str,
)
def test_mistyped_and_impossible_fields_are_refused(path, value, tmp_path):
    _, _, state = saved_by(MAKE["Adam"], tmp_path)
    at = state
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(CheckpointError, match="file: 'optimizer/"):
        restore(state, MAKE["Adam"](model().parameters()))


def test_the_history_of_lbfgs_has_one_length(tmp_path):
    _, _, state = saved_by(MAKE["LBFGS"], tmp_path)
    assert len(state["state"][0]["ro"]) > 1
    state["state"][0]["ro"].pop()
    with pytest.raises(CheckpointError, match="'optimizer/state/0/old_dirs' is list; allowed is a list as long as"):
        restore(state, MAKE["LBFGS"](model().parameters()))


def test_a_parameter_that_has_had_no_gradient_needs_no_state(tmp_path):
    _, _, state = saved_by(MAKE["Adam"], tmp_path)
    del state["state"][1]
    state["state"][2] = {}
    optimizer = MAKE["Adam"](model().parameters())
    restore(state, optimizer)
    assert len(optimizer.state) == 3


class Short(optim.SGD):
    """Someone's own SGD, which keeps less than a parameter."""

    def step(self, closure=None):
        for p in self.param_groups[0]["params"]:
            self.state[p]["momentum_buffer"] = p.grad.flatten()[:1].clone()


def test_the_state_of_others_is_their_own_affair():
    module = model()
    optimizer, other = Short(module.parameters()), Short(model().parameters())
    for p in module.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    restore(optimizer.state_dict(), other)
    assert [kept["momentum_buffer"].shape for kept in other.state.values()] == [(1,)] * 4
    with pytest.raises(CheckpointError, match="momentum_buffer"):
        restore(optimizer.state_dict(), optim.SGD(model().parameters()))


def test_fused_sgd_goes_on_where_a_parameter_has_no_momentum_yet(tmp_path):
    _, _, state = saved_by(MAKE["SGD"], tmp_path)
    del state["state"][1]
    ends = []
    for fused in (True, False):
        module = model()
        optimizer = optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
        its_own = copy.deepcopy(state)
        its_own["param_groups"][0]["fused"] = fused
        restore(its_own, optimizer)
        run(module, optimizer, 2)
        ends.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    torch.testing.assert_close(*ends)
