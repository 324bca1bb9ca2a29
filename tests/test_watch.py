"""What a look at a model notices, with the compiled core and without."""

import pytest
import torch
from torch import nn

from fastmaml import watch
from fastmaml.watch import ModelWatch


@pytest.fixture(params=["core", "python"])
def model(request, monkeypatch):
    """To be watched by either."""
    if request.param == "python":
        monkeypatch.setattr(watch, "_core", None)
    elif watch._core is None:
        pytest.skip("the compiled core is not installed")
    norm = nn.BatchNorm1d(4, track_running_stats=False)
    return nn.Sequential(
        nn.Linear(3, 4), norm, nn.Sequential(nn.Tanh(), nn.Linear(4, 2, bias=False)), nn.BatchNorm1d(2)
    )


def replaced(model):
    model[2][1].weight = nn.Parameter(model[2][1].weight.detach())


def removed(model):
    model[0].bias = None


def added(model):
    model[2][1].bias = nn.Parameter(torch.zeros(2))


def registered(model):
    model[2].register_parameter("scale", nn.Parameter(torch.ones(())))


def frozen(model):
    model[0].bias.requires_grad_(False)


def converted(model):
    model.double()


def evaluated(model):
    model[3].eval()


def exchanged(model):
    model[2][0] = nn.ReLU()


def appended(model):
    model[2].append(nn.ReLU())


def given_to_a_leaf(model):
    model[2][0].extra = nn.ReLU()


def cut_short(model):
    del model[3]


def without_statistics(model):
    model[3].running_mean = None


def hooked(model):
    model[2][0].register_forward_pre_hook(lambda *_: None)


CHANGES = [
    *(replaced, removed, added, registered, frozen, converted, evaluated),
    *(exchanged, appended, given_to_a_leaf, cut_short, without_statistics, hooked),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(model, change):
    seen = ModelWatch(model)
    assert not seen.changed()
    change(model)
    assert seen.changed()
    assert not ModelWatch(model).changed()


def test_new_numbers_are_no_change(model):
    seen = ModelWatch(model)
    model(torch.randn(5, 3)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    model.load_state_dict(model.state_dict())
    model[0].weight.data = torch.zeros(4, 3)
    assert not seen.changed()


def test_the_last_hook_gone_is_a_change(model):
    hook = model[0].register_forward_hook(lambda *_: None)
    seen = ModelWatch(model)
    assert not seen.changed()
    hook.remove()
    assert seen.changed()


def test_a_model_without_parameters_can_be_watched(model):
    assert not ModelWatch(model[2][0]).changed()
