"""Evaluation against a plain loop over tasks and steps."""

import pytest
import torch

from fastmaml.batch import Samples, TaskBatch
from fastmaml.evaluation import Evaluation, evaluate
from fastmaml.evaluation.metrics import mean_ci95, task_accuracies
from fastmaml.maml import MAML
from fastmaml.plan.task_losses import task_losses
from fastmaml.tasks import Sinusoid
from tests.runtime.test_adapted import Counting
from tests.small_runs import Blobs, Hooked, classifier, network, parameters, regression, same


def by_hand(model, loss, support, query, lr, steps):
    """Query loss and accuracy after 0 … steps inner steps of one task, by autograd."""
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for step in range(steps + 1):
        for weight in weights.values():
            weight.requires_grad_()
        outputs = torch.func.functional_call(model, weights, (query[0],))
        yield loss(outputs, query[1]).item(), (outputs.argmax(-1) == query[1].flatten()).double().mean().item()
        if step < steps:
            inner = loss(torch.func.functional_call(model, weights, (support[0],)), support[1])
            gradients = torch.autograd.grad(inner, list(weights.values()))
            weights = {n: (w - lr * g).detach() for (n, w), g in zip(weights.items(), gradients, strict=True)}


@pytest.mark.parametrize(
    ("maml", "source", "loss"),
    [
        (regression(lr=0.05), Sinusoid(4, 3), torch.nn.functional.mse_loss),
        (classifier(lr=0.5), Blobs(), torch.nn.functional.cross_entropy),
    ],
    ids=["regression", "classification"],
)
def test_agrees_with_a_loop_over_tasks_and_steps(maml, source, loss):
    result = evaluate(maml, source, tasks=5, steps=3, meta_batch=5, seed=3)
    batch = source.sample(5, torch.Generator().manual_seed(3))
    lr = 0.05 if loss is torch.nn.functional.mse_loss else 0.5
    sets = zip(batch.support.x, batch.support.y, batch.query.x, batch.query.y, strict=True)
    tasks = [list(by_hand(maml.model, loss, (sx, sy), (qx, qy), lr, 3)) for sx, sy, qx, qy in sets]
    expected = torch.tensor(tasks, dtype=torch.float64).permute(2, 1, 0)  # [loss, accuracy; S + 1; T]
    torch.testing.assert_close(result.task_losses, expected[0], rtol=1e-4, atol=1e-5)
    if result.task_accuracies is not None:
        torch.testing.assert_close(result.task_accuracies, expected[1])
    assert (result.task_accuracies is None) == (maml.plan.loss_name == "mse")


def test_mean_and_interval_are_those_of_the_tasks():
    losses = torch.tensor([[1.0, 2.0, 6.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    result = Evaluation(losses, losses / 10)
    assert result.steps == [0, 1]
    assert result.tasks == 3
    half = 1.96 * (14 / 3) ** 0.5 / 3**0.5  # population variance ((−2)² + (−1)² + 3²) / 3
    assert result.loss.tolist() == pytest.approx([3.0, 1.0])
    assert result.loss_ci95.tolist() == pytest.approx([half, 0.0])
    assert result.accuracy.tolist() == pytest.approx([0.3, 0.1])
    assert result.accuracy_ci95.tolist() == pytest.approx([half / 10, 0.0])
    assert result.rows()[0] == pytest.approx(
        {"steps": 0, "loss": 3.0, "loss_ci95": half, "accuracy": 0.3, "accuracy_ci95": half / 10}
    )
    assert "loss 3.0000 ± 2.4445   accuracy 30.00% ± 24.45%" in str(result)


def test_regression_has_no_accuracy():
    result = Evaluation(torch.ones(2, 3))
    assert result.accuracy is None
    assert result.accuracy_ci95 is None
    assert result.rows()[1] == {"steps": 1, "loss": 1.0, "loss_ci95": 0.0, "accuracy": None, "accuracy_ci95": None}
    assert "accuracy" not in str(result)


def test_takes_as_many_tasks_as_asked_for_and_no_more():
    sizes = []
    source = Hooked(Sinusoid(3, 2), lambda call, batch: sizes.append(batch.num_tasks))
    assert evaluate(regression(), source, tasks=11, steps=1, meta_batch=4).task_losses.shape == (2, 11)
    assert sizes == [4, 4, 3]


def test_the_seed_decides_on_the_tasks():
    def losses(seed):
        return evaluate(regression(), Sinusoid(3, 2), tasks=6, steps=1, seed=seed).task_losses

    assert torch.equal(losses(1), losses(1))
    assert not torch.equal(losses(1), losses(2))


def test_steps_are_those_of_the_maml_unless_given():
    assert evaluate(regression(steps=4), Sinusoid(3, 2), tasks=2).steps == [0, 1, 2, 3, 4]
    assert evaluate(regression(steps=4), Sinusoid(3, 2), tasks=2, steps=0).steps == [0]


def test_takes_each_inner_step_once():
    engine = Counting()
    evaluate(regression(engine=engine), Sinusoid(3, 2), tasks=4, steps=5, meta_batch=2)
    assert sum(engine.taken) == 2 * 5  # of two batches, not 5 · 6 / 2 of each


def test_leaves_the_model_and_the_global_generator_as_they_are():
    maml = regression()
    before, random = parameters(maml), torch.get_rng_state()
    evaluate(maml, Sinusoid(3, 2), tasks=4, steps=2)
    assert same(parameters(maml), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in maml.parameters())


def test_batches_come_to_the_dtype_of_the_model():
    maml = MAML(network().double(), lr=0.02)
    single = evaluate(regression(), Sinusoid(3, 2), tasks=4, steps=1).task_losses
    torch.testing.assert_close(
        evaluate(maml, Sinusoid(3, 2), tasks=4, steps=1).task_losses, single, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("options", [{"tasks": 1}, {"steps": -1}, {"meta_batch": 0}, {"tasks": 2.5}, {"tasks": True}])
def test_counts_out_of_range_are_named(options):
    (name,) = options
    with pytest.raises(ValueError, match=rf"{name}: given .*; allowed are integers from \d"):
        evaluate(regression(), Sinusoid(3, 2), **options)


def padded(x, y, count):
    """Samples with `count` more of weight 0, which hold nonsense."""
    weights = torch.cat([torch.ones(y.shape[:2]), torch.zeros(y.shape[0], count)], 1)
    x = torch.cat([x, torch.full_like(x[:, :1], 1e3).expand(-1, count, -1)], 1)
    return Samples(x, torch.cat([y, y[:, :1].expand(-1, count, *y.shape[2:])], 1), weights)


def test_padding_does_not_count():
    batch = Blobs().sample(4, torch.Generator().manual_seed(0))
    ragged = TaskBatch(padded(batch.support.x, batch.support.y, 2), padded(batch.query.x, batch.query.y, 3))
    plain = evaluate(classifier(), Hooked(Blobs(), lambda call, _: batch), tasks=4, steps=2, meta_batch=4)
    result = evaluate(classifier(), Hooked(Blobs(), lambda call, _: ragged), tasks=4, steps=2, meta_batch=4)
    torch.testing.assert_close(result.task_losses, plain.task_losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(result.task_accuracies, plain.task_accuracies, rtol=1e-6, atol=1e-6)


def test_outputs_of_padding_may_be_anything():
    outputs = torch.tensor([[[2.0, 1.0], [0.0, 3.0], [float("nan")] * 2]])  # [1, 3, 2]
    samples = Samples(torch.zeros(1, 3, 2), torch.tensor([[0, 0, -7]]), torch.tensor([[3.0, 1.0, 0.0]]))
    plan = classifier().plan
    losses = torch.nn.functional.cross_entropy(outputs[0, :2], torch.tensor([0, 0]), reduction="none")
    torch.testing.assert_close(task_losses(plan, outputs, samples), ((3 * losses[0] + losses[1]) / 4)[None])
    assert task_accuracies(outputs, samples).tolist() == [0.75]


def test_any_callable_loss_is_measured():
    maml = MAML(network(), lr=0.02, loss=lambda outputs, targets: (outputs - targets).abs().mean())
    outputs, y = torch.randn(3, 4, 1), torch.randn(3, 4, 1)
    expected = (outputs - y).abs().mean((1, 2))
    torch.testing.assert_close(task_losses(maml.plan, outputs, Samples(y, y)), expected)


def test_interval_of_one_value_has_no_width():
    mean, half = mean_ci95(torch.tensor([[2.0]]))
    assert (mean.item(), half.item()) == (2.0, 0.0)
