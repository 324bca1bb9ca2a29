"""Losses of one task."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastmaml import MAML, losses
from tests.problems import network, task_batch

OUTPUTS, TARGETS, LABELS = torch.randn(5, 3).double(), torch.randn(5, 3).double(), torch.tensor([0, 2, 1, 1, 0])
WEIGHTS = torch.tensor([0.5, 2.0, 0.0, 1.0, 0.0]).double()


def test_mse_is_the_mean_over_samples_and_outputs():
    torch.testing.assert_close(losses.mse(OUTPUTS, TARGETS), F.mse_loss(OUTPUTS, TARGETS))


def test_cross_entropy_is_the_mean_over_samples():
    torch.testing.assert_close(losses.cross_entropy(OUTPUTS, LABELS), F.cross_entropy(OUTPUTS, LABELS))


@pytest.mark.parametrize(("loss", "targets"), [(losses.mse, TARGETS), (losses.cross_entropy, LABELS)])
def test_weights_make_a_weighted_mean(loss, targets):
    each = torch.stack([loss(OUTPUTS[i : i + 1], targets[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(loss(OUTPUTS, targets, WEIGHTS), (WEIGHTS * each).sum() / WEIGHTS.sum())
    torch.testing.assert_close(loss(OUTPUTS, targets, torch.full((5,), 3.0).double()), loss(OUTPUTS, targets))


def test_shapes_never_broadcast():
    with pytest.raises(ValueError, match=r"targets: given \[5\] for outputs \[5, 1\]; mse takes"):
        losses.mse(OUTPUTS[:, :1], TARGETS[:, 0])
    with pytest.raises(ValueError, match=r"targets: given \[5, 3\] for outputs \[5, 3\]; cross_entropy takes"):
        losses.cross_entropy(OUTPUTS, TARGETS)


def test_names_and_functions_resolve_to_the_same():
    assert losses.resolve("mse") == losses.resolve(losses.mse) == ("mse", losses.mse)
    assert losses.resolve("cross_entropy") == ("cross_entropy", losses.cross_entropy)


def test_callables():
    name, loss = losses.resolve(F.l1_loss)
    assert name is None
    torch.testing.assert_close(loss(OUTPUTS, TARGETS, None), F.l1_loss(OUTPUTS, TARGETS))
    with pytest.raises(ValueError, match="weights: given, but the loss takes only"):
        loss(OUTPUTS, TARGETS, WEIGHTS)

    def weighted(outputs, targets, weights):
        return losses.weighted_mean((outputs - targets).abs().mean(1), weights)

    assert losses.resolve(weighted) == (None, weighted)


def test_an_optional_third_argument_takes_weights_if_it_is_called_so():
    def scaled(outputs, targets, scale=2.0):
        return scale * (outputs - targets).square().mean()

    def weighted(outputs, targets, weights=None):
        return losses.mse(outputs, targets, weights)

    assert losses.resolve(scaled)[1](OUTPUTS, TARGETS, None) == scaled(OUTPUTS, TARGETS)
    assert losses.resolve(weighted)[1] is weighted


@pytest.mark.parametrize(("given", "error"), [("huber", ValueError), (3, TypeError), (None, TypeError)])
def test_what_is_no_loss_is_refused(given, error):
    with pytest.raises(
        error, match=r"loss: given .*; allowed are \['categorical', 'cross_entropy', 'gaussian', 'mse'\] or a callable"
    ):
        losses.resolve(given)


def test_gaussian_of_a_sampled_action_is_minus_log_likelihood_times_advantage():
    mean, log_std, action, advantage = torch.randn(4, 5, 2).double()
    advantage = advantage[:, :1]
    policy = torch.distributions.Normal(mean, log_std.exp())
    loss = losses.gaussian(torch.cat([mean, log_std], 1), torch.cat([action, torch.zeros(5, 2), advantage], 1))
    torch.testing.assert_close(loss, -(advantage[:, 0] * policy.log_prob(action).sum(1)).mean())


def test_gaussian_of_moments_is_kl_but_for_the_entropy():
    outputs, old = torch.randn(2, 5, 4).double()
    new_policy, old_policy = (torch.distributions.Normal(o[:, :2], o[:, 2:].exp()) for o in (outputs, old))
    moments = torch.cat([old[:, :2], (2 * old[:, 2:]).exp(), torch.ones(5, 1)], 1)
    kl = torch.distributions.kl_divergence(old_policy, new_policy).sum(1).mean()
    torch.testing.assert_close(losses.gaussian(outputs, moments) - old_policy.entropy().sum(1).mean(), kl)


def test_categorical_of_one_hot_actions_is_cross_entropy_times_advantage():
    advantage = torch.randn(5).double()
    one_hot = F.one_hot(LABELS, 3) * advantage[:, None]
    each = F.cross_entropy(OUTPUTS, LABELS, reduction="none")
    torch.testing.assert_close(losses.categorical(OUTPUTS, one_hot), (advantage * each).mean())


def test_targets_of_policies_have_their_shapes():
    with pytest.raises(ValueError, match=r"gaussian takes outputs \[N, 2A\]"):
        losses.gaussian(OUTPUTS, TARGETS)
    with pytest.raises(ValueError, match=r"categorical takes logits"):
        losses.categorical(OUTPUTS, TARGETS[:, :2])


@pytest.mark.parametrize("loss", [nn.MSELoss(), F.mse_loss, nn.CrossEntropyLoss(), F.cross_entropy])
def test_torchs_own_forms_are_known_in_their_default_settings(loss):
    name = "mse" if loss is F.mse_loss or isinstance(loss, nn.MSELoss) else "cross_entropy"
    assert check_loss(loss, task_batch(loss=name)) == (name, "cpu")


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.MSELoss(reduction="sum"), "mse"),
        (type("Own", (nn.MSELoss,), {})(), "mse"),
        (nn.L1Loss(), "mse"),
        (F.l1_loss, "mse"),
        (nn.CrossEntropyLoss(reduction="sum"), "cross_entropy"),
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0]).double()), "cross_entropy"),
        (nn.CrossEntropyLoss(ignore_index=0), "cross_entropy"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "cross_entropy"),
    ],
)
def test_other_settings_are_callables(loss, targets):
    batch = task_batch(loss=targets)
    for labels in (batch.support.y, batch.query.y):
        labels[:, 0] = 1  # one at least is not ignored
    assert check_loss(loss, batch) == (None, "functional")


def check_loss(loss, batch):
    """The loss's name and engine, after the meta-loss was compared with that of a callable that no one knows."""
    maml = MAML(network(), lr=0.1, loss=loss)
    twin = MAML(copy.deepcopy(maml.model), lr=0.1, loss=called(loss))
    assert twin.plan.loss_name is None
    torch.testing.assert_close(maml.meta_loss(batch), twin.meta_loss(batch))
    return maml.plan.loss_name, maml.engine.name


def called(loss):
    """The loss as a callable that no one knows."""
    return lambda outputs, targets: loss(outputs, targets)


def test_a_hooked_loss_is_a_callable():
    loss = nn.MSELoss()
    loss.register_forward_hook(lambda module, given, value: 2 * value)
    assert MAML(network(), loss=loss).plan.loss_name is None


def test_cross_entropy_of_pixels_and_of_probabilities_is_torchs():
    """Shapes that only torch takes still run, by calling it."""
    model = nn.Sequential(nn.Conv2d(2, 3, 1)).double()
    x, labels = torch.randn(2, 4, 2, 5, 5).double(), torch.randint(3, (2, 4, 5, 5))
    labels[:, 0] = -100  # which torch ignores
    maml = MAML(model, lr=0.1, loss=nn.CrossEntropyLoss())
    wanted = MAML(model, lr=0.1, loss=called(F.cross_entropy), engine="reference").meta_loss((x, labels, x, labels))
    torch.testing.assert_close(maml.meta_loss((x, labels, x, labels)), wanted)
    batch = task_batch()
    shares = batch.support.y.softmax(2)
    batch = (batch.support.x, shares, batch.support.x, shares)
    maml = MAML(network(), lr=0.1, loss=F.cross_entropy)
    wanted = MAML(maml.model, lr=0.1, loss=called(F.cross_entropy), engine="reference").meta_loss(batch)
    torch.testing.assert_close(maml.meta_loss(batch), wanted)


def test_a_label_that_torch_ignores_is_refused_with_the_remedy():
    batch = task_batch(loss="cross_entropy")
    batch.support.y[1, 2] = -100
    with pytest.raises(ValueError, match=r"label -100 of task 1, sample 2 .* weigh samples without a label 0"):
        MAML(network(), loss=nn.CrossEntropyLoss()).meta_loss(batch)
