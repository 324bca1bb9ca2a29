"""The paper's networks: their shapes, their first weights, and that they are straight lines to a Plan."""

import pytest
import torch
from torch import nn

from fastmaml import models
from fastmaml.models import LINEAR_ONLY, OmniglotMLP, SinusoidMLP, mlp
from fastmaml.plan import Plan


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def kinds(plan):
    assert plan.layers is not None, plan.obstacle
    return [layer.kind for layer in plan.layers]


def test_the_sinusoid_network():
    model = SinusoidMLP()
    assert model(torch.zeros(25, 10, 1)).shape == (25, 10, 1)
    plan = Plan.of(model)
    assert kinds(plan) == ["linear", "relu", "linear", "relu", "linear"]
    assert plan.num_parameters == 80 + 1640 + 41


def test_the_oracles_network_takes_three_inputs():
    assert SinusoidMLP(inputs=3)(torch.zeros(10, 3)).shape == (10, 1)


def test_the_omniglot_network():
    model = OmniglotMLP(ways=20)
    images = torch.rand(40, 1, 28, 28)
    assert model(images).shape == (40, 20)
    assert torch.equal(model(images), model(images.flatten(1)))
    plan = Plan.of(model, "cross_entropy")
    hidden = ["linear", "batch_norm", "relu"]
    assert kinds(plan) == ["flatten", *hidden * 4, "linear"]
    assert [layer.outputs for layer in plan.layers if layer.kind == "linear"] == [256, 128, 64, 64, 20]
    learned = sum(slot.numel for slot in plan.slots if slot.meta_learned)
    assert learned == 784 * 256 + 256 * 128 + 128 * 64 + 64 * 64 + (256 + 128 + 64 + 64) + 64 * 20 + 20


@pytest.mark.parametrize("model", [SinusoidMLP, OmniglotMLP])
def test_first_weights_are_the_authors(model):
    for name, parameter in model(generator=seeded()).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all()
        elif "linear" in name:
            assert parameter.abs().max() <= 0.02
            if parameter.numel() > 1000:
                assert parameter.abs().max() > 0.018
                assert abs(parameter.std().item() - 0.0088) < 0.0005  # of a normal cut off at 2σ: 0.88 σ
                assert abs(parameter.mean().item()) < 0.001


def test_first_weights_may_be_those_of_torchs_layers():
    model = SinusoidMLP(generator=seeded(3), initial_weights="torch")
    torch.manual_seed(3)
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            theirs = nn.Linear(layer.in_features, layer.out_features)
            assert torch.equal(layer.weight, theirs.weight)
            assert torch.equal(layer.bias, theirs.bias)


def test_other_first_weights_are_refused():
    with pytest.raises(ValueError, match="initial_weights='zero': choose one of authors, torch"):
        SinusoidMLP(initial_weights="zero")


def test_batch_norm_has_a_shift_and_no_scale():
    norms = [module for module in OmniglotMLP().modules() if isinstance(module, nn.BatchNorm1d)]
    assert len(norms) == 4
    for norm in norms:
        assert (norm.weight == 1).all()
        assert not norm.weight.requires_grad
        assert norm.bias.requires_grad
        assert norm.eps == 1e-3


def test_batch_norm_takes_the_batch_at_hand_at_test_too():
    model, images = OmniglotMLP(), torch.rand(10, 784)
    assert torch.equal(model.train()(images), model.eval()(images))
    assert not torch.allclose(model(images)[:5], model(images[:5]), rtol=1e-3)


def test_only_the_linear_layers_adapt_with_the_pattern():
    plan = Plan.of(OmniglotMLP(), "cross_entropy", adapted=LINEAR_ONLY)
    for slot in plan.slots:
        assert slot.adapted == ("linear" in slot.name)
        assert slot.meta_learned == (not ("norm" in slot.name and slot.name.endswith("weight")))


@pytest.mark.parametrize("model", [SinusoidMLP, OmniglotMLP])
def test_a_generator_gives_the_same_weights_and_spares_the_global_one(model):
    before = torch.get_rng_state()
    first, again, other = (model(generator=seeded(seed)).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.linear1.weight"], other["layers.linear1.weight"])


def test_the_global_generator_draws_without_one():
    torch.manual_seed(3)
    first = SinusoidMLP().state_dict()
    torch.manual_seed(3)
    again = SinusoidMLP().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_an_mlp_of_any_widths_and_activation():
    model = mlp((3, 7, 2), activation=nn.Tanh)
    assert kinds(Plan.of(model)) == ["linear", "tanh", "linear"]
    assert model(torch.zeros(4, 3)).shape == (4, 2)
    assert kinds(Plan.of(mlp((3, 2)))) == ["linear"]


@pytest.mark.parametrize("sizes", [(), (3,), (3, 0, 1)])
def test_bad_sizes_are_named(sizes):
    with pytest.raises(ValueError, match="sizes="):
        mlp(sizes)


@pytest.mark.parametrize(
    ("make", "shape", "parameters"),
    [
        (models.omniglot_conv4, (1, 28, 28), 9 * 64 + 3 * 9 * 64 * 64 + 8 * 64 + 65 * 5),
        (models.mini_imagenet_conv4, (3, 84, 84), 27 * 32 + 3 * 9 * 32 * 32 + 8 * 32 + 801 * 5),
        (models.snell_conv4, (1, 28, 28), 9 * 64 + 3 * 9 * 64 * 64 + 8 * 64 + 65 * 5),
        (models.functorch_omniglot, (1, 28, 28), 10 * 64 + 2 * 577 * 64 + 6 * 64 + 65 * 5),
    ],
)
def test_networks_on_images_are_planned(make, shape, parameters):
    model = make()
    plan = Plan.of(model, "cross_entropy")
    assert plan.obstacle is None
    assert plan.shape_obstacle(shape) is None
    assert plan.num_parameters == parameters
    assert model(torch.randn(4, *shape)).shape == (4, 5)


def test_convolutions_start_as_in_the_authors_code():
    model = models.omniglot_conv4(generator=torch.Generator().manual_seed(1))
    weight = model.layers.conv2.weight
    bound = (6 / (2 * 9 * 64)) ** 0.5
    assert bound * 0.99 < weight.abs().max() <= bound
    again = models.omniglot_conv4(generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="size=8"):
        models.mini_imagenet_conv4(size=8)
