"""`MAML.check` finds code that is not meta-learned, and nothing where all is well."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmaml import MAML, FirstOrder
from tests.problems import network, task_batch


class Careless(nn.Module):
    """Uses one weight in a way that autograd does not see, one bias not at all."""

    def __init__(self, use=lambda weight: weight, p=0.0):
        super().__init__()
        self.first, self.second, self.spare = nn.Linear(3, 8), nn.Linear(8, 2), nn.Linear(2, 2)
        self.norm, self.dropout, self.use = nn.BatchNorm1d(8), nn.Dropout(p), use
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, x):
        x = self.dropout(self.norm(torch.relu(F.linear(x, self.use(self.first.weight), self.first.bias))))
        return self.second(x) * self.frozen


def verdicts(diagnosis):
    return {check.name: check.verdict for check in diagnosis.parameters}


@pytest.mark.parametrize("engine", ["auto", "reference"])
@pytest.mark.parametrize(
    ("use", "verdict"),
    [
        (lambda weight: weight.data, "lost"),
        (lambda weight: weight.detach() * 2, "lost"),
        (lambda weight: weight + weight.detach(), "wrong"),
        (lambda weight: weight, "agrees"),
    ],
)
def test_a_weight_that_autograd_does_not_see_is_found(use, verdict, engine):
    found = MAML(Careless(use), lr=0.1, steps=2, engine=engine).check(task_batch(dtype=torch.float32))
    told = verdicts(found)
    assert told.pop("first.weight") == verdict
    assert {told.pop(name) for name in ("spare.weight", "spare.bias")} == {"unused"}
    assert told.pop("frozen") == "frozen"
    assert verdict == "wrong" or set(told.values()) == {"agrees"}
    assert found.ok == (verdict == "agrees")
    assert ("GETS NONE, though" in str(found)) == (verdict == "lost")
    assert found.changed_buffers == ("norm.num_batches_tracked", "norm.running_mean", "norm.running_var")
    assert not found.random


def test_randomness_is_told_and_does_not_disturb():
    found = MAML(Careless(p=0.3), lr=0.1).check(task_batch(dtype=torch.float32))
    assert found.random
    assert found.ok
    assert found.engine == "reference"


@pytest.mark.parametrize("options", [{"loss": "cross_entropy"}, {"learn_lr": "element"}, {"rule": FirstOrder()}, {}])
def test_a_sound_model_agrees_and_is_left_as_it_was(options):
    maml = MAML(network(activation=nn.ReLU), lr=0.1, steps=3, **options)
    batch = task_batch(loss=options.get("loss", "mse"), ragged=True)
    before, random = {name: t.clone() for name, t in maml.state_dict().items()}, torch.get_rng_state()
    found = maml.check(batch)
    assert set(verdicts(found).values()) == {"agrees"}
    assert all(abs(check.slope) > 0 for check in found.parameters)
    assert all(torch.equal(tensor, before[name]) for name, tensor in maml.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert maml.rule == options.get("rule", maml.rule)
    assert all(p.grad is None for p in maml.parameters())


def test_a_loss_with_a_wrong_derivative_is_found():
    class Wrong(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x.square()

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, grad):
            return 3 * grad * ctx.saved_tensors[0]

    maml = MAML(network(), lr=0.1, loss=lambda outputs, targets: Wrong.apply(outputs - targets).mean())
    found = maml.check(task_batch())
    assert "wrong" in verdicts(found).values()
    assert not found.ok


def test_bad_batches_are_named():
    with pytest.raises(TypeError, match="batch: given"):
        MAML(network()).check(3)
