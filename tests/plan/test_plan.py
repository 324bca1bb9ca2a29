"""nn.Module → Plan: what is a straight line, and what stands in the way otherwise."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from fastmaml.models import Append
from fastmaml.plan import (
    AppendLayer,
    BatchNormLayer,
    Conv2dLayer,
    FlattenLayer,
    LinearLayer,
    MaxPoolLayer,
    Plan,
    PointwiseLayer,
)
from tests.problems import network


class Functions(nn.Module):
    """The layers of Sequential(Flatten, Linear(6, 4), ReLU, Linear(4, 2), Tanh) by functions."""

    def __init__(self, flatten, relu=F.relu, tanh=torch.tanh):
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 2)
        self.flatten, self.relu, self.tanh = flatten, relu, tanh

    def forward(self, x):
        return self.tanh(self.second(self.relu(self.first(self.flatten(x)))))


class Around(nn.Module):
    """Linear(3, 3) and whatever is done with its output and input."""

    def __init__(self, function):
        super().__init__()
        self.linear, self.function = nn.Linear(3, 3), function

    def forward(self, x):
        return self.function(self, x)


def kinds(plan):
    assert plan.obstacle is None, plan.obstacle
    return [layer.kind for layer in plan.layers]


def test_slots_are_the_parameters_in_order():
    module = network((3, 6, 2), norm=True)
    plan = Plan.of(module)
    named = dict(module.named_parameters())
    assert [slot.name for slot in plan.slots] == list(named)
    assert plan.num_parameters == sum(p.numel() for p in named.values())
    flat = plan.flatten(named)
    for slot in plan.slots:
        piece = flat[slot.offset : slot.offset + slot.numel].reshape(slot.shape)
        assert torch.equal(piece, named[slot.name])
    assert torch.equal(flat, plan.flatten(list(named.values())))


def test_unflatten_is_the_inverse_for_one_and_for_many():
    plan = Plan.of(network())
    fast = torch.randn(5, plan.num_parameters)
    many = plan.unflatten(fast)
    assert many["0.weight"].shape == (5, 6, 3)
    for task in range(5):
        one = plan.unflatten(fast[task])
        assert torch.equal(plan.flatten(one), fast[task])
        assert all(torch.equal(one[name], many[name][task]) for name in one)


def test_layers_have_their_shapes_and_slots():
    module = nn.Sequential(
        nn.Flatten(), nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4, eps=0.1), nn.ReLU(), nn.Linear(4, 2), nn.Tanh()
    )
    plan = Plan.of(module)
    assert plan.layers == (
        FlattenLayer("0"),
        LinearLayer("1", inputs=6, outputs=4, weight=0),
        BatchNormLayer("2", inputs=4, constants=(0.1,), weight=1, bias=2),
        PointwiseLayer("relu", "3"),
        LinearLayer("4", inputs=4, outputs=2, weight=3, bias=4),
        PointwiseLayer("tanh", "5"),
    )
    assert (plan.num_inputs, plan.num_outputs) == (6, 2)


def test_nested_modules_identity_and_a_shared_activation():
    relu = nn.ReLU()
    block = nn.Sequential(nn.Sequential(nn.Linear(3, 4), relu), nn.Identity())
    plan = Plan.of(nn.Sequential(block, nn.Sequential(nn.Linear(4, 4), relu, nn.Dropout(0.0)), nn.Linear(4, 1)))
    assert kinds(plan) == ["linear", "relu", "linear", "relu", "linear"]
    assert plan.layers[2].name == "1.0"


@pytest.mark.parametrize("leaf", [nn.Linear(3, 2), nn.BatchNorm1d(3)])
def test_a_single_layer(leaf):
    assert len(kinds(Plan.of(leaf))) == 1


@pytest.mark.parametrize(
    "flatten",
    [
        lambda x: x.flatten(1),
        lambda x: x.flatten(start_dim=1),
        lambda x: torch.flatten(x, 1),
        lambda x: torch.flatten(x, start_dim=1, end_dim=-1),
        lambda x: x.view(x.size(0), -1),
        lambda x: x.reshape(x.shape[0], 6),
        lambda x: x.view(x.size()[0], -1),
        lambda x: torch.reshape(x, (x.shape[0], -1)),
        lambda x: x.contiguous().view(-1, 6),
        nn.Flatten(),
    ],
)
def test_ways_to_flatten(flatten):
    plan = Plan.of(Functions(flatten))
    assert kinds(plan) == ["flatten", "linear", "relu", "linear", "tanh"]
    assert plan.shape_obstacle((2, 3)) is None
    assert plan.shape_obstacle((5,)) == "samples have shape [5]; the layers accept [6]"


@pytest.mark.parametrize("relu", [F.relu, torch.relu, lambda x: x.relu(), lambda x: F.relu(x, inplace=True)])
@pytest.mark.parametrize("tanh", [torch.tanh, F.tanh, lambda x: x.tanh()])
def test_ways_to_activate(relu, tanh):
    assert kinds(Plan.of(Functions(nn.Flatten(), relu, tanh)))[2::2] == ["relu", "tanh"]


def test_flatten_after_the_first_layer_does_nothing():
    plan = Plan.of(nn.Sequential(nn.Linear(3, 4), nn.Flatten(), nn.Linear(4, 1)))
    assert kinds(plan) == ["linear", "linear"]
    assert plan.shape_obstacle((3,)) is None
    assert "samples have shape [2, 3]" in plan.shape_obstacle((2, 3))


def test_flatten_after_an_activation_comes_first():
    assert kinds(Plan.of(nn.Sequential(nn.Tanh(), nn.Flatten(), nn.Linear(4, 1)))) == [
        "flatten",
        "tanh",
        "linear",
    ]


def dropout(training):
    return nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)).train(training)


def test_modes():
    assert kinds(Plan.of(dropout(False))) == ["linear"]
    assert "layer '1' (Dropout) draws random numbers" in Plan.of(dropout(True)).obstacle
    norm = network(norm=True)
    assert "batch_norm" in kinds(Plan.of(norm))
    assert "batch_norm" in kinds(Plan.of(norm.eval()))
    obstacle = Plan.of(norm, batch_norm="running").obstacle
    assert obstacle.startswith("layer '1' (BatchNorm1d) is in eval mode with running statistics")
    assert "batch_norm='batch'" in obstacle
    assert ".train()" in obstacle
    assert "batch_norm" in kinds(Plan.of(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)).eval()))


def tied():
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    module[2].weight = module[0].weight
    return module


def hooked():
    module = network()
    module[2].register_forward_hook(lambda *_: None)
    return module


def unused():
    module = Around(lambda self, x: self.linear(x))
    module.extra = nn.Linear(3, 3)
    return module


def mixed():
    module = network(dtype=torch.float32)
    module[2].double()
    return module


def again(self, x):
    return self.linear(torch.relu(self.linear(x)))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.GELU()), r"layer '1' \(GELU\) is not known; accepted is a straight line"),
        (nn.Sequential(nn.Conv1d(1, 2, 3)), r"layer '0' \(Conv1d\) is not known"),
        (nn.Sequential(nn.Conv2d(1, 2, 3)), "the network ends in images"),
        (tied(), "parameter '2.weight' is shared with '0.weight'"),
        (hooked(), r"layer '2' \(Linear\) has hooks"),
        (unused(), "parameter 'extra.weight' has no part in the forward pass"),
        (mixed(), r"parameters differ in dtype \('0.weight' is torch.float32, '2.weight' is torch.float64"),
        (nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))), "layer '0' has a parametrization"),
        (nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 2)), "layer '1' takes 5 features, but 4 reach it"),
        (nn.Sequential(nn.Flatten(2), nn.Linear(3, 2)), "flattens dimensions 2 to -1; accepted is 1 to -1"),
        (Around(again), "layer 'linear' is called twice"),
        (Around(lambda self, x: self.linear(x) + x), "operation 'add' is not known"),
        (Around(lambda self, x: x + self.linear(x)), "'add' does not take the output of the layer before it alone"),
        (Around(lambda self, x: 2 * self.linear(x)), "'mul' does not take"),
        (Around(lambda self, x: self.linear(x).sigmoid()), "operation 'sigmoid' is not known"),
        (Around(lambda self, x: F.linear(x, self.linear.weight)), "forward uses 'linear.weight' directly"),
        (Around(lambda self, x: self.linear(x) if x.sum() > 0 else x), "torch.fx cannot trace Around"),
        (Around(lambda self, x: (self.linear(x), x)), "forward returns something else"),
        (Around(lambda self, x: self.linear(x).view(-1, 1)), "regroups 3 features into rows of 1"),
        (Around(lambda self, x: self.linear(x).view(x.size(1), -1)), "the size of dimension 1"),
        (Around(lambda self, x: self.linear(x).view(x.size(0), 1, 3)), "reshapes; accepted is"),
    ],
)
def test_obstacles_name_the_layer(module, words):
    plan = Plan.of(module)
    assert plan.layers is None
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(plan.obstacle)


def test_a_subclass_is_not_taken_for_its_base():
    class Twice(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert Plan.of(nn.Sequential(Twice(3, 3))).layers is None


def test_patterns_choose_what_is_adapted_and_meta_learned():
    module = network((3, 4, 2))
    module[0].weight.requires_grad_(False)
    plan = Plan.of(module, adapted=["2.*"], meta_learned=["*.bias", "0.weight"])
    chosen = {slot.name: (slot.adapted, slot.meta_learned) for slot in plan.slots}
    assert chosen == {
        "0.weight": (False, False),
        "0.bias": (False, True),
        "2.weight": (True, False),
        "2.bias": (True, True),
    }
    gradient = torch.ones(plan.num_parameters)
    assert plan.only_meta_learned(gradient).tolist() == [0.0] * 12 + [1.0] * 4 + [0.0] * 8 + [1.0] * 2
    assert Plan.of(module, adapted="2.*").slots[2].adapted


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"module": nn.ReLU()}, ValueError, "model: given ReLU, which has no parameters"),
        ({"module": 3}, TypeError, "model: given int; allowed is a torch.nn.Module"),
        ({"module": nn.LazyLinear(2)}, ValueError, "model: parameter 'weight' has no shape yet"),
        (
            {"adapted": ["3.*"]},
            ValueError,
            r"adapted: pattern '3.\*' matches no parameter; the parameters are \['weight', 'bias'\]",
        ),
        ({"meta_learned": [0]}, TypeError, r"meta_learned: given \(0,\); allowed are fnmatch patterns"),
        ({"loss": "mae"}, ValueError, "loss: given 'mae'"),
    ],
)
def test_what_cannot_be_planned_at_all(arguments, error, words):
    with pytest.raises(error, match=words):
        Plan.of(**({"module": nn.Linear(2, 2)} | arguments))


def test_images_have_their_layers_and_sizes():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.BatchNorm2d(4),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.ReLU(),
        nn.Linear(16, 2),
    )
    plan = Plan.of(module)
    assert plan.layers == (
        Conv2dLayer("0", inputs=3, outputs=4, kernel=(3, 3), padding=(1, 1), weight=0, bias=1, on_images=True),
        BatchNormLayer("1", inputs=4, constants=(1e-5,), weight=2, bias=3, on_images=True),
        MaxPoolLayer("2", kernel=(2, 2), stride=(2, 2), on_images=True),
        PointwiseLayer("relu", "4"),  # commutes with flattening
        FlattenLayer("3"),
        LinearLayer("5", inputs=16, outputs=2, weight=4, bias=5),
    )
    assert (plan.takes_images, plan.num_inputs, plan.num_outputs) == (True, None, 2)
    assert plan.shape_obstacle((3, 5, 4)) is None
    assert "layer '5' takes [16] a sample, and [36] reaches it" in plan.shape_obstacle((3, 6, 6))
    assert "layer '0' takes [3, H, W] a sample, and [1, 4, 4] reaches it" in plan.shape_obstacle((1, 4, 4))


@pytest.mark.parametrize(
    "mean",
    [
        lambda x: x.mean((2, 3)),
        lambda x: torch.mean(x, dim=[-1, -2]),
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
        lambda x: F.max_pool2d(x, 2).mean([2, 3]),
    ],
)
def test_ways_to_take_the_mean_over_pixels(mean):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(mean(self.conv(x)))

    plan = Plan.of(Net())
    assert "spatial_mean" in kinds(plan), plan.obstacle
    assert plan.shape_obstacle((1, 8, 8)) is None


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Conv2d(2, 2, 3, groups=2), "groups=2; accepted is 1"),
        (nn.Conv2d(2, 2, 3, dilation=2), r"dilation=\(2, 2\)"),
        (nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "padding_mode='circular'"),
        (nn.Conv2d(2, 2, 2, padding="same"), "pads an even kernel"),
        (nn.Conv2d(2, 2, 3, padding=3), "accepted is less than the kernel"),
        (nn.Conv2d(2, 2, 16), "at most 225 taps"),
        (nn.MaxPool2d(2, ceil_mode=True), "ceil_mode=True"),
        (nn.AdaptiveAvgPool2d(2), "pools to 2"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Tanh()), "follows a mean over pixels"),
        (nn.Sequential(nn.Flatten(), nn.BatchNorm1d(8)), "flattened images reach it"),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 2), nn.Conv2d(2, 2, 1)), "rows of features reach it"),
    ],
)
def test_obstacles_on_images_name_the_layer(layer, words):
    plan = Plan.of(nn.Sequential(nn.Conv2d(2, 2, 1), layer))
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(plan.obstacle)


def test_appended_parameters_come_last():
    append = Append(torch.zeros(2))
    plan = Plan.of(nn.Sequential(nn.Linear(3, 2), append))
    assert plan.layers[-1] == AppendLayer("1", inputs=2, outputs=4, bias=2)
    for layers, complaint in [
        ([append], "stands first"),
        ([nn.Linear(3, 2), append, nn.ReLU()], "follows '1' .Append., which must be the last"),
        ([nn.Linear(3, 2), append, nn.Linear(4, 2)], "follows '1' .Append., which must be the last"),
    ]:
        assert re.search(complaint, Plan.of(nn.Sequential(*layers)).obstacle)
