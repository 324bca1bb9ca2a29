"""What a look at a model notices, with the compiled core and without."""

import gc
import weakref

import pytest
import torch
from torch import nn

from fastmaml.runtime import watch
from fastmaml.runtime.watch import ModelWatch


@pytest.fixture(params=["dlpack", "attributes", "python"])
def watched_by(request, monkeypatch):
    """The core, by what it looks at tensors, or Python."""
    if request.param == "python":
        monkeypatch.setattr(watch, "_core", None)
    elif watch._core is None:
        pytest.skip("the compiled core is not installed")
    elif request.param == "attributes":
        monkeypatch.setattr(watch, "_EXCHANGE", None)
    elif watch._EXCHANGE is None:
        pytest.skip("this torch has no such functions")


@pytest.fixture
def model(watched_by):
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


def hooked_backwards(model):
    model[2][0].register_full_backward_pre_hook(lambda *_: None)


def one_converted(model):
    model[2][1].weight.data = model[2][1].weight.data.double()


def one_moved(model):
    model[2][1].weight = nn.Parameter(torch.empty(2, 4, device="meta"))


def widened(model):
    model[2][1].weight.data = torch.zeros(3, 4)


def turned(model):
    model[2][1].weight.data = torch.zeros(4, 2)


def of_another_class(model):
    model[2][0].__class__ = nn.ReLU


def of_its_own_forward(model):
    model[2][0].forward = torch.relu


def smoothed(model):
    model[1].eps = 1e-3


def of_no_eps(model):
    del model[1].eps


def of_a_tensor(model):
    model[1].eps = torch.tensor(1e-3)


CHANGES = [
    *(replaced, removed, added, registered, frozen, converted, evaluated),
    *(exchanged, appended, given_to_a_leaf, cut_short, without_statistics, hooked, hooked_backwards),
    *(one_converted, one_moved, widened, turned, of_another_class, of_its_own_forward, smoothed, of_no_eps),
    of_a_tensor,
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


def test_a_second_hook_is_a_change(model):
    model[0].register_forward_hook(lambda *_: None)
    seen = ModelWatch(model)
    model[0].register_forward_hook(lambda *_: None)
    assert seen.changed()


def test_an_own_forward_gone_is_a_change(model):
    model[2][0].forward = torch.relu
    seen = ModelWatch(model)
    assert not seen.changed()
    del model[2][0].forward
    assert seen.changed()


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_a_hook_of_all_modules_is_a_change(model, kind):
    seen = ModelWatch(model)
    hook = getattr(nn.modules.module, f"register_module_{kind}")(lambda *_: None)
    try:
        assert seen.changed()
    finally:
        hook.remove()
    assert not seen.changed()


IMAGES = [
    (0, "stride", (2, 2)),
    (0, "padding", (0, 0)),
    (0, "padding", "same"),
    (0, "dilation", (2, 2)),
    (0, "groups", 2),
    (0, "padding_mode", "circular"),
    (1, "momentum", None),
    (1, "track_running_stats", False),
    (2, "p", 0.5),
    (3, "kernel_size", 3),
    (3, "ceil_mode", True),
    (4, "output_size", (1, 2)),
    (5, "start_dim", 2),
    (6, "inplace", True),
]


@pytest.mark.usefixtures("watched_by")
@pytest.mark.parametrize(("layer", "name", "value"), IMAGES)
def test_another_setting_of_a_layer_is_a_change(layer, name, value):
    images = [nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout(0.0), nn.MaxPool2d(2)]
    model = nn.Sequential(*images, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.ReLU())
    seen = ModelWatch(model)
    before = getattr(model[layer], name)
    assert before != value
    setattr(model[layer], name, value)
    assert seen.changed()
    setattr(model[layer], name, before)
    assert not seen.changed()


class Own(nn.Module):
    """Of a user: with settings, state of its own and a child."""

    def __init__(self):
        super().__init__()
        self.deep, self.calls, self.scale, self.widths, self.activation = True, 0, 0.5, [4, 2], torch.tanh
        self.last = None
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        self.calls += 1
        self.remember(x)
        return self.activation(self.scale * self.layer(x))

    def remember(self, x):
        self.last = x


@pytest.mark.usefixtures("watched_by")
def test_what_forward_itself_writes_is_no_change():
    model = Own()
    seen = ModelWatch(model)
    model(torch.ones(2, 3))
    assert model.calls == 1
    assert not seen.changed()
    model.deep = False
    assert seen.changed()


@pytest.mark.usefixtures("watched_by")
@pytest.mark.parametrize(("name", "value"), [("deep", False), ("scale", 0.25), ("activation", torch.relu), ("new", 1)])
def test_another_attribute_of_a_user_is_a_change(name, value):
    model = Own()
    seen = ModelWatch(model)
    setattr(model, name, value)
    assert seen.changed()


@pytest.mark.usefixtures("watched_by")
def test_an_equal_value_is_no_change():
    model = Own()
    seen = ModelWatch(model)
    model.scale, model.widths = float("0.5"), [4, 2]
    assert not seen.changed()
    model.widths = (4, 2)
    assert seen.changed()


@pytest.mark.usefixtures("watched_by")
def test_a_list_that_changes_in_place_is_a_change():
    model = Own()
    seen = ModelWatch(model)
    model.widths[1] = 3
    assert seen.changed()
    model.widths[1] = 2
    assert not seen.changed()
    model.widths.append(torch.ones(2))
    assert seen.changed()


@pytest.mark.usefixtures("watched_by")
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_a_weight_that_a_hook_computes_is_no_change():
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(3, 3)))
    seen = ModelWatch(model)
    before = model[0].weight
    model(torch.ones(2, 3))
    assert model[0].weight is not before
    assert not seen.changed()


@pytest.mark.usefixtures("watched_by")
def test_a_parameter_without_a_shape_can_be_watched():
    model = nn.Sequential(nn.LazyLinear(2))
    seen = ModelWatch(model)
    assert not seen.changed()
    model(torch.ones(1, 3))
    assert seen.changed()


@pytest.mark.usefixtures("watched_by")
@pytest.mark.parametrize("way", ["hook", "attribute", "member"])
def test_a_watch_that_its_model_leads_to_is_collected(way):
    model = nn.Sequential(nn.Linear(3, 3))
    seen = ModelWatch(model)
    if way == "hook":
        model[0].register_forward_hook(lambda *_, seen=seen: None)
    elif way == "attribute":
        model[0].weight.seen = seen
    else:
        model.seen = [seen.changed]
    dead = weakref.ref(model)
    del model, seen
    gc.collect()
    assert dead() is None


def test_a_model_without_parameters_can_be_watched(model):
    assert not ModelWatch(model[2][0]).changed()
