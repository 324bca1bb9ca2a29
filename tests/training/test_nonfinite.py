"""A loss or meta-gradient that is not finite stops the run before it does harm, and can be reproduced."""

import pickle

import pytest
import torch

from fastmaml.batch import Samples, TaskBatch
from fastmaml.maml import MAML
from fastmaml.runs import checkpoint
from fastmaml.runs.checkpoint import CheckpointError
from fastmaml.runtime.adapted import Details
from fastmaml.tasks import Sinusoid
from fastmaml.training import nonfinite
from fastmaml.training.nonfinite import NonFiniteLoss
from tests.small_runs import Hooked, network, parameters, regression, same, trainer


def overflow(at, tasks):
    """A hook that makes the query loss of some tasks overflow in the `at`-th iteration; all data stay finite."""

    def hook(call, batch):
        if call != at:
            return batch
        y = batch.query.y.clone()
        y[tasks] = 1e30
        return TaskBatch(batch.support, Samples(batch.query.x, y))

    return Hooked(Sinusoid(3, 2), hook)


def test_names_the_iteration_and_the_tasks_and_leaves_the_parameters(tmp_path):
    maml, before = regression(), regression()
    with pytest.raises(NonFiniteLoss, match=r"iteration 6: the query loss of tasks \[0, 2\]") as raised:
        trainer(maml, overflow(6, [0, 2]), log_dir=tmp_path).run()
    trainer(before, overflow(-1, []), iterations=5).run()
    assert (raised.value.iteration, raised.value.tasks, raised.value.parameters) == (6, (0, 2), ())
    assert raised.value.path == tmp_path / "nonfinite-00000006.safetensors"
    assert str(raised.value.path) in str(raised.value)
    assert same(parameters(maml), parameters(before))
    assert all(parameter.grad is None for parameter in maml.parameters())


def test_the_saved_batch_reproduces_it(tmp_path):
    with pytest.raises(NonFiniteLoss) as raised:
        trainer(regression(), overflow(6, [1]), log_dir=tmp_path).run()
    maml = regression(seed=1)
    batch, state = nonfinite.load(raised.value.path, maml)
    _, details = maml.meta_loss(batch, details=True)
    assert (~details.task_losses.isfinite()).tolist() == [False, True, False]
    assert torch.equal(details.task_losses, state["losses"])
    assert (state["iteration"], state["tasks"]) == (6, [1])


def test_the_run_goes_on_from_its_checkpoint_once_the_cause_is_gone(tmp_path):
    with pytest.raises(NonFiniteLoss):
        trainer(regression(), overflow(6, [1]), log_dir=tmp_path, checkpoint_every=2).run()
    maml, straight = regression(seed=1), regression()
    trainer(maml, overflow(-1, []), log_dir=tmp_path, checkpoint_every=2).run()
    trainer(straight, overflow(-1, [])).run()
    assert same(parameters(maml), parameters(straight))


def test_without_a_log_dir_the_error_says_how_to_get_the_batch():
    with pytest.raises(NonFiniteLoss, match="Give a log_dir to have the batch saved") as raised:
        trainer(regression(), overflow(1, [0])).run()
    assert raised.value.path is None


def root_at_100(outputs, targets):
    """Mean squared error; of targets at 100, a loss of 0 whose gradient is NaN."""
    if targets.max() < 100:
        return (outputs - targets).square().mean()
    return (0 * outputs).square().sqrt().mean()


def steep(at):
    def hook(call, batch):
        y = torch.full_like(batch.query.y, 100.0) if call == at else batch.query.y
        return TaskBatch(batch.support, Samples(batch.query.x, y))

    return Hooked(Sinusoid(3, 2), hook)


def test_a_gradient_that_is_not_finite_does_not_reach_the_parameters(tmp_path):
    maml, before = (MAML(network(), lr=0.02, loss=root_at_100, engine="reference") for _ in range(2))
    with pytest.raises(
        NonFiniteLoss, match=r"iteration 4: all query losses are finite, but the meta-gradient"
    ) as raised:
        trainer(maml, steep(4), log_dir=tmp_path, clip_norm=1.0).run()
    trainer(before, steep(-1), iterations=3, clip_norm=1.0).run()
    assert raised.value.tasks == ()
    assert "model.0.weight" in raised.value.parameters
    assert same(parameters(maml), parameters(before))
    assert raised.value.path.exists()


def test_losses_whose_mean_overflows_are_told_apart():
    class Overflowing(MAML):
        def meta_loss(self, batch, steps=None, details=False):
            loss, found = super().meta_loss(batch, steps, details=True)
            return loss * float("inf"), found

    with pytest.raises(NonFiniteLoss, match="the query loss of each task is finite, but their mean is not") as raised:
        trainer(Overflowing(network(), lr=0.02)).run()
    assert (raised.value.tasks, raised.value.parameters) == ((), ())


def test_a_gradient_whose_sum_overflows_is_no_error():
    maml = regression()
    for parameter in maml.parameters():
        parameter.register_hook(lambda gradient: torch.full_like(gradient, 1e38))
    trainer(maml, optimizer=torch.optim.SGD(maml.parameters(), lr=1e-38), iterations=1).run()
    for name, value in regression().state_dict().items():
        torch.testing.assert_close(maml.state_dict()[name], value - 1)


def test_an_optimizer_with_a_closure_is_taken_back_to_where_it_was():
    maml = regression()
    before, calls, real = parameters(maml), [], maml.meta_loss

    def diverging(batch, steps=None, *, details=False):
        loss, found = real(batch, details=True)
        calls.append(parameters(maml))
        if len(calls) == 3:
            return loss * float("inf"), Details(found.task_losses * float("inf"), found.outputs)
        return loss, found

    maml.meta_loss = diverging
    with pytest.raises(NonFiniteLoss, match="iteration 1"):
        trainer(maml, optimizer=torch.optim.LBFGS(maml.parameters(), lr=0.1, max_iter=4)).run()
    assert not same(calls[-1], before)  # it had moved
    assert same(parameters(maml), before)


def test_a_checkpoint_is_no_saved_batch(tmp_path):
    trainer(regression(), log_dir=tmp_path).run()
    with pytest.raises(CheckpointError, match="holds no batch"):
        nonfinite.load(checkpoint.numbered(tmp_path / "checkpoints")[-1])


def test_a_batch_that_is_none_is_named(tmp_path):
    samples = {"x": torch.zeros(1, 1, 1), "y": torch.zeros(1, 1, 1), "weights": None}
    for name, value, field in [("query", None, "query"), ("support", {**samples, "x": 3}, "support")]:
        checkpoint.save(tmp_path / "c", {"support": samples, "query": samples, name: value})
        with pytest.raises(CheckpointError, match=rf"c: '{field}' is "):
            nonfinite.load(tmp_path / "c")


def test_the_error_survives_pickling(tmp_path):
    error = pickle.loads(pickle.dumps(NonFiniteLoss(3, [1], [], tmp_path)))
    assert (error.iteration, error.tasks, error.path) == (3, (1,), tmp_path)
