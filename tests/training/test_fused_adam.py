"""FusedAdam.step is optimizer.step, to the last bit."""

import copy

import pytest
import torch

from fastmaml.tasks import Sinusoid
from fastmaml.training.fused_adam import FusedAdam
from fastmaml.training.step import MetaStep
from tests.problems import network
from tests.small_runs import parameters, regression


def give_gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


@pytest.fixture(params=[torch.float32, torch.float64])
def pair(request):
    """Two equal models."""
    one = network((3, 200, 200, 2), dtype=request.param)  # above the size that one thread runs
    return one, copy.deepcopy(one)


def adam(model, **options):
    return torch.optim.Adam(model.parameters(), lr=0.01, fused=True, **options)


def assert_equal_runs(ours, theirs, steps=5):
    """Steps both, ours through FusedAdam, and gives how many steps FusedAdam has taken."""
    (model, optimizer), (other, their_optimizer) = ours, theirs
    fused, taken = FusedAdam(optimizer), 0
    for seed in range(steps):
        for m in (model, other):
            give_gradients(m, seed)
        done = fused.step()
        taken += done
        if not done:
            optimizer.step()
        their_optimizer.step()
        if seed == 2:  # as a resumed run
            optimizer.load_state_dict(optimizer.state_dict())
            optimizer.param_groups[0]["lr"] = their_optimizer.param_groups[0]["lr"] = 0.003
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)
    saved, wanted = optimizer.state_dict()["state"], their_optimizer.state_dict()["state"]
    for slot, state in wanted.items():
        assert all(torch.equal(saved[slot][name], value) for name, value in state.items())
    return taken


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "betas": (0.8, 0.99), "eps": 1e-6}])
def test_it_is_the_optimizers_own_step(pair, options):
    one, two = pair
    assert assert_equal_runs((one, adam(one, **options)), (two, adam(two, **options))) == 4  # not the very first


def hooked(model):
    optimizer = adam(model)
    optimizer.register_step_post_hook(lambda *_: None)
    return optimizer


def scheduled(model):
    optimizer = adam(model)
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    return optimizer


def test_a_scheduler_does_not_keep_it_from_the_step(pair):
    one, two = pair
    assert assert_equal_runs((one, scheduled(one)), (two, scheduled(two))) == 4


def replaced(model):
    """Someone's own step, behind that which a scheduler puts in front."""
    optimizer = adam(model)
    real = optimizer.step.__func__
    optimizer.step = (lambda self, closure=None: real(self, closure)).__get__(optimizer)
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        hooked,
        replaced,
        lambda model: adam(model, amsgrad=True),
        lambda model: adam(model, maximize=True),
        lambda model: torch.optim.Adam(model.parameters(), lr=0.01),
        lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, fused=True),
        lambda model: torch.optim.Adam([{"params": [p]} for p in model.parameters()], lr=0.01, fused=True),
    ],
)
def test_others_are_left_to_themselves(pair, make):
    one, two = pair
    assert assert_equal_runs((one, make(one)), (two, make(two))) == 0


def test_a_missing_gradient_is_left_to_the_optimizer(pair):
    one, _ = pair
    optimizer = adam(one)
    give_gradients(one, 0)
    optimizer.step()
    fused = FusedAdam(optimizer)
    assert fused.step()
    one[0].weight.grad = None
    before = copy.deepcopy(one.state_dict())
    assert not fused.step()
    assert all(torch.equal(before[name], value) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp_avg", torch.zeros(1)),
        ("exp_avg_sq", torch.zeros(200, 3, dtype=torch.float16)),
        ("exp_avg", torch.zeros(3, 200).T),
        ("exp_avg_sq", None),
        ("step", torch.zeros(1)),
        ("step", 3),
    ],
    ids=["shape", "dtype", "strides", "None", "step shape", "step number"],
)
def test_a_state_of_another_form_is_refused_before_the_kernel_reads_it(name, value):
    model = network((3, 200, 2), dtype=torch.float32)
    optimizer = adam(model)
    give_gradients(model, 0)
    optimizer.step()
    optimizer.state[model[0].weight][name] = value
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=f"optimizer: '{name}'.* is .*; allowed is float32"):
        FusedAdam(optimizer).step()
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


def test_parameters_that_moved_between_two_runs_are_found_again():
    maml = regression()
    step, batch = MetaStep(maml, adam(maml)), Sinusoid(3, 2).sample(2, torch.Generator())
    step(batch)
    step(batch)
    step.clear()  # as each run begins
    for p in maml.parameters():
        p.data = p.data.clone()
    before = parameters(maml)
    step(batch)
    assert not any(torch.equal(before[name], value) for name, value in maml.state_dict().items())
