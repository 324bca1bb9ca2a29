"""Options that are assigned after construction: each counts from the next call, or is refused."""

import pytest
import torch
from torch import nn

from fastmaml import MAML, FirstOrder, Samples, TaskBatch
from fastmaml.losses import mse
from tests.problems import gradients, network, task_batch

CHANGES = {
    "lr": 0.3,
    "lr by pattern": {"0.*": 0.3, "*": 0.0},
    "steps": 3,
    "loss": "gaussian",
    "a callable loss": lambda outputs, targets: 2 * mse(outputs, targets),
    "a module as loss": nn.L1Loss(),
    "rule": FirstOrder(),
    "engine": "reference",
    "adapted": ["0.*"],
    "meta_learned": ["2.*"],
}


def differentiated(maml, batch, how):
    maml.zero_grad()
    loss = maml.backward(batch) if how == "backward" else maml.meta_loss(batch)
    if how == "meta_loss":
        loss.backward()
    return loss.detach(), gradients(maml)


@pytest.mark.parametrize("how", ["backward", "meta_loss"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_assigned_option_counts_from_the_next_call(name, how):
    option = {"a callable loss": "loss", "a module as loss": "loss", "lr by pattern": "lr"}.get(name, name)
    value, model, batch = CHANGES[name], network(), task_batch()
    maml = MAML(model, lr=0.1, steps=2)
    if name == "loss":  # whose targets have another form
        batch = TaskBatch(widened(batch.support), widened(batch.query))
        maml = MAML(model, lr=0.1, steps=2, loss=lambda outputs, targets: mse(outputs, targets[..., :2]))
    before = differentiated(maml, batch, how)
    setattr(maml, option, value)
    given = {"lr": 0.1, "steps": 2, "loss": maml.loss, option: value}
    fresh = differentiated(MAML(model, **given), batch, how)
    found = differentiated(maml, batch, how)
    assert torch.equal(found[0], fresh[0])
    assert torch.equal(found[1], fresh[1])
    assert name == "engine" or not torch.equal(before[1], found[1])
    assert repr(value) in repr(maml) or option in ("adapted", "meta_learned")


def widened(samples):
    return Samples(samples.x, torch.cat([samples.y, samples.y.abs() + 1, samples.y], 2)[..., :3])


def test_a_schedule_of_the_inner_step_size_plans_nothing_anew():
    maml, batch = MAML(network(), lr=0.1), task_batch()
    maml.backward(batch)
    plan = maml.plan
    for lr in (0.2, 0.05, 0.0):
        maml.lr = lr
        found = differentiated(maml, batch, "backward")
        assert torch.equal(found[1], differentiated(MAML(maml.model, lr=lr), batch, "backward")[1])
        assert maml.plan is plan


@pytest.mark.parametrize(
    ("option", "value", "error", "words"),
    [
        ("lr", -1, ValueError, "lr: given -1"),
        ("lr", {"9.*": 0.1}, ValueError, "lr: pattern '9.*' matches no parameter"),
        ("steps", 0, ValueError, "steps: given 0"),
        ("loss", "hinge", ValueError, "loss: given 'hinge'"),
        ("rule", "first", TypeError, "rule: given 'first'"),
        ("engine", "tpu", ValueError, "engine: given 'tpu'"),
        ("adapted", ["9.*"], ValueError, "adapted: pattern '9.*' matches no parameter"),
        ("meta_learned", ["9.*"], ValueError, "meta_learned: pattern"),
        ("batch_norm", "none", ValueError, "batch_norm: given 'none'; allowed are 'batch' and 'running'"),
        ("learn_lr", "element", AttributeError, "learn_lr: cannot change"),
        ("model", torch.relu, TypeError, "model: given"),
    ],
)
def test_a_refused_option_changes_nothing(option, value, error, words):
    maml, batch = MAML(network(), lr=0.1), task_batch()
    before, told = differentiated(maml, batch, "backward"), repr(maml)
    with pytest.raises(error, match=words.replace("*", r"\*")):
        setattr(maml, option, value)
    assert repr(maml) == told
    assert torch.equal(differentiated(maml, batch, "backward")[1], before[1])


def test_step_sizes_by_pattern_cannot_be_changed_in_place():
    maml = MAML(network(), lr={"*": 0.1})
    with pytest.raises(TypeError):
        maml.lr["*"] = 0.5
    assert maml.lr == {"*": 0.1}


def test_a_learned_step_size_is_not_assigned():
    maml = MAML(network(), lr=0.1, learn_lr="parameter")
    with pytest.raises(ValueError, match=r"lr: is learned, and was where inner_lr began; change maml\.inner_lr"):
        maml.lr = 0.2
    maml.inner_lr = nn.Parameter(torch.ones(1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"inner_lr: has shape \[1\]; the model takes \[6\], one of each parameter"):
        maml.meta_loss(task_batch())


@pytest.mark.parametrize("assign", [setattr, lambda maml, name, value: maml.add_module(name, value)])
def test_another_model_takes_the_place_of_the_first(assign):
    old, new, batch = network(), network(activation=nn.ReLU), task_batch()
    maml = MAML(old, lr=0.1)
    maml.backward(batch)
    old.zero_grad()
    assign(maml, "model", new)
    wanted = differentiated(MAML(new, lr=0.1), batch, "backward")
    new.zero_grad()
    assert torch.equal(maml.backward(batch), wanted[0])
    assert torch.equal(gradients(maml), wanted[1])
    assert all(p.grad is None for p in old.parameters())


def test_a_loss_that_is_a_module_moves_along_and_its_settings_are_seen():
    weight = torch.tensor([1.0, 2.0])
    maml = MAML(network(), loss=nn.CrossEntropyLoss(weight=weight))
    assert "loss.weight" in maml.state_dict()
    maml.double()
    assert maml.loss.weight.dtype == torch.float64
    loss = nn.CrossEntropyLoss()
    maml.loss = loss
    assert maml.engine.name == "cpu"
