"""Nested state as tensors and JSON."""

import json
import math
from collections import Counter, OrderedDict

import pytest
import torch
from torch.optim import lr_scheduler

from fastmaml.runs.packing import pack, unpack


def through_json(tree):
    packed, tensors = pack(tree)
    return unpack(json.loads(json.dumps(packed, allow_nan=False)), tensors)


def test_plain_data_come_back_exactly_with_their_types():
    tree = {
        "numbers": [1, True, 0.1, 1e-320, math.inf, -math.inf, None, "text"],
        "nested": {"tuple": (1, (2.5,), []), 3: {"$tensor": "a key like a tag"}, (0, "a"): "a tuple as key"},
        "counter": Counter({5: 2, 7: 1}),
    }
    back = through_json(tree)
    assert back == tree
    assert type(back["nested"]["tuple"]) is tuple
    assert type(back["counter"]) is Counter
    assert type(back["numbers"][1]) is bool
    assert math.isnan(through_json([math.nan])[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_tensors_come_back_exactly(dtype):
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]], dtype=dtype)
    for value in (tensor, tensor.t(), tensor[0, 0], tensor[:0], tensor[0].expand(4, 3)):
        back = through_json({"value": value})["value"]
        assert back.dtype == dtype
        assert torch.equal(back, value)


def test_tensors_are_copies_named_by_their_path():
    parameter = torch.nn.Parameter(torch.ones(2))
    _, tensors = pack({"state": {0: {"exp_avg": parameter}}})
    assert list(tensors) == ["state/0/exp_avg"]
    with torch.no_grad():
        parameter.zero_()
    assert torch.equal(tensors["state/0/exp_avg"], torch.ones(2))
    assert not tensors["state/0/exp_avg"].requires_grad


def test_keys_of_one_path_do_not_collide():
    tree = OrderedDict({0: torch.tensor(1), "0": torch.tensor(2), "a/b": torch.tensor(3), "a": {"b": torch.tensor(4)}})
    assert {key: value for key, value in through_json(tree).items() if key != "a"} == {0: 1, "0": 2, "a/b": 3}
    assert through_json(tree)["a"]["b"] == 4


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, lambda: None])
def test_what_cannot_be_saved_is_named_by_its_path(value):
    with pytest.raises(TypeError, match=f"'optimizer/1/odd' is a {type(value).__name__}"):
        pack({"optimizer": [0, {"odd": value}]})


def test_a_tree_of_other_tensors_is_refused():
    packed, _ = pack({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="'a' is the tensor 'a', which is absent or stands elsewhere, too"):
        unpack(packed, {})
    with pytest.raises(ValueError, match=r"'a' has the keys \['\$other'\], not one of"):
        unpack({"$dict": [["a", {"$other": 1}]]}, {})


@pytest.mark.parametrize(
    "packed",
    [
        {},
        {"$tensor": 3},
        {"$tensor": ["a"]},
        {"$dict": 1},
        {"$dict": [["a"]]},
        {"$dict": [[[1], 2]]},
        {"$counter": "abc"},
        {"$tuple": None},
        {"$float": []},
        {"$float": "one"},
        {"$tuple": [{"$tensor": "a"}, {"$tensor": "a"}]},
    ],
    ids=str,
)
def test_a_tree_that_pack_does_not_write_is_a_value_error(packed):
    with pytest.raises(ValueError, match=r"'|could not convert"):
        unpack(packed, {"a": torch.zeros(1)})


OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    "Adam": {"amsgrad": True},
    "AdamW": {"fused": True},
    "Adadelta": {},
    "Adagrad": {},
    "Adamax": {},
    "ASGD": {},
    "LBFGS": {"lr": 0.1, "max_iter": 3},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_as_if_nothing_had_happened(name):
    def start(weight):
        parameter = torch.nn.Parameter(weight.clone())
        return parameter, getattr(torch.optim, name)([parameter], **OPTIMIZERS[name])

    def steps(parameter, optimizer, count):
        def closure():
            optimizer.zero_grad()
            loss = (parameter**4 - parameter).sum()
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.step(closure)

    straight, its_optimizer = start(torch.linspace(-1, 1, 5))
    steps(straight, its_optimizer, 3)
    resumed, other = start(straight.detach())
    other.load_state_dict(through_json(its_optimizer.state_dict()))
    steps(straight, its_optimizer, 3)
    steps(resumed, other, 3)
    assert torch.equal(straight, resumed)


SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 4, 4]),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 6),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.5, 10),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.5, 2, cycle_momentum=False),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.9)], [4]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_goes_on_as_if_nothing_had_happened(name):
    def start():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, SCHEDULERS[name](optimizer)

    def rates(optimizer, scheduler, count):
        for _ in range(count):
            optimizer.step()
            scheduler.step(1.0) if name == "ReduceLROnPlateau" else scheduler.step()
            yield optimizer.param_groups[0]["lr"]

    optimizer, scheduler = start()
    assert len(list(rates(optimizer, scheduler, 3))) == 3
    other, its_scheduler = start()
    other.load_state_dict(through_json(optimizer.state_dict()))
    its_scheduler.load_state_dict(through_json(scheduler.state_dict()))
    assert list(rates(other, its_scheduler, 5)) == list(rates(optimizer, scheduler, 5))
