"""The outer loop against the one that a user would write by hand."""

import pytest
import torch
from torch.optim import lr_scheduler

from fastmaml.evaluation import evaluate
from fastmaml.runs import checkpoint
from fastmaml.tasks import Sinusoid
from fastmaml.training.trainer import Validation
from tests.small_runs import Blobs, Hooked, adam, classifier, network, parameters, regression, rows, same, trainer


def by_hand(maml, source, optimizer, iterations=12, meta_batch=3, seed=0, clip=lambda ps: None, scheduler=None):
    """The parameters, and the loss of every iteration."""
    generator = torch.Generator().manual_seed(seed)
    stream = source.stream(meta_batch, generator) if hasattr(source, "stream") else None
    losses = []
    for _ in range(iterations):
        loss = maml.meta_loss(next(stream) if stream else source.sample(meta_batch, generator))
        optimizer.zero_grad()
        loss.backward()
        clip(maml.parameters())
        optimizer.step()
        if scheduler:
            scheduler.step()
        losses.append(loss.item())
    return parameters(maml), losses


@pytest.mark.parametrize(
    ("make", "source"), [(regression, Sinusoid(3, 2)), (classifier, Blobs())], ids=["stream", "sample"]
)
@pytest.mark.parametrize("engine", ["auto", "reference", "functional"])
def test_does_what_the_loop_by_hand_does(make, source, engine):
    maml, other = make(engine=engine), make(engine=engine)
    result = trainer(maml, source, seed=5).run()
    expected, losses = by_hand(other, source, adam(other), seed=5)
    assert same(parameters(maml), expected)
    assert result.iteration == 12
    assert not result.interrupted
    assert result.loss == pytest.approx(sum(losses) / 12)
    assert (result.accuracy is None) == (make is regression)


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({"clip_value": 0.1}, lambda ps: torch.nn.utils.clip_grad_value_(ps, 0.1)),
        ({"clip_norm": 0.5}, lambda ps: torch.nn.utils.clip_grad_norm_(ps, 0.5)),
    ],
)
def test_clips_the_meta_gradient(options, clip):
    def sgd(maml):
        return torch.optim.SGD(maml.parameters(), lr=0.1)

    maml, clipped, free = regression(), regression(), regression()
    trainer(maml, optimizer=sgd(maml), **options).run()
    assert same(parameters(maml), by_hand(clipped, Sinusoid(3, 2), sgd(clipped), clip=clip)[0])
    assert not same(parameters(maml), by_hand(free, Sinusoid(3, 2), sgd(free))[0])


@pytest.mark.parametrize("learn_lr", ["parameter", "element"])
def test_learns_the_inner_lr_too(learn_lr):
    maml, other = regression(learn_lr=learn_lr), regression(learn_lr=learn_lr)
    before = parameters(maml)
    trainer(maml).run()
    learned = [name for name, value in parameters(maml).items() if not torch.equal(value, before[name])]
    assert len(learned) == len(before)
    assert same(parameters(maml), by_hand(other, Sinusoid(3, 2), adam(other))[0])


def test_steps_the_scheduler_every_iteration(tmp_path):
    maml, other = regression(), regression()
    optimizer, its_optimizer = adam(maml), adam(other)
    scheduler, its_scheduler = (
        lr_scheduler.ExponentialLR(optimizer, 0.9),
        lr_scheduler.ExponentialLR(its_optimizer, 0.9),
    )
    trainer(maml, optimizer=optimizer, scheduler=scheduler, log_dir=tmp_path, log_every=4).run()
    assert same(parameters(maml), by_hand(other, Sinusoid(3, 2), its_optimizer, scheduler=its_scheduler)[0])
    rates = [float(row.split(",")[3]) for row in rows(tmp_path / "train.csv")[1:]]
    assert rates == pytest.approx([0.01 * 0.9**4, 0.01 * 0.9**8, 0.01 * 0.9**12])


def test_an_optimizer_that_needs_a_closure_gets_one():
    def lbfgs(maml):
        return torch.optim.LBFGS(maml.parameters(), lr=0.1, max_iter=4)

    maml, other = regression(), regression()
    trainer(maml, optimizer=lbfgs(maml), iterations=5).run()
    optimizer, stream = lbfgs(other), Sinusoid(3, 2).stream(3, torch.Generator().manual_seed(0))
    for _ in range(5):
        batch = next(stream)

        def closure(batch=batch):
            optimizer.zero_grad()
            loss = other.meta_loss(batch)
            loss.backward()
            return loss

        optimizer.step(closure)
    assert same(parameters(maml), parameters(other))


def test_logs_the_mean_over_the_iterations_of_a_row(tmp_path):
    maml, other = classifier(), classifier()
    result = trainer(maml, Blobs(), log_dir=tmp_path, log_every=5).run()
    _, losses = by_hand(other, Blobs(), adam(other))
    lines = [line.split(",") for line in rows(tmp_path / "train.csv")]
    assert lines[0] == ["iteration", "loss", "accuracy", "lr"]
    assert [int(line[0]) for line in lines[1:]] == [5, 10, 12]
    means = [sum(losses[a:b]) / (b - a) for a, b in ((0, 5), (5, 10), (10, 12))]
    assert [float(line[1]) for line in lines[1:]] == pytest.approx(means)
    assert all(0 <= float(line[2]) <= 1 for line in lines[1:])
    assert result.accuracy == float(lines[-1][2])


def test_validates_on_schedule_and_keeps_the_best(tmp_path):
    maml = regression()
    validation = Validation(Sinusoid(3, 2), every=5, tasks=7, steps=2, seed=1)
    result = trainer(maml, log_dir=tmp_path, validation=validation).run()
    lines = [line.split(",") for line in rows(tmp_path / "validation.csv")[1:]]
    assert [(line[0], line[1]) for line in lines] == [(i, s) for i in ("5", "10", "12") for s in ("0", "1", "2")]
    judged = {int(line[0]): float(line[2]) for line in lines if line[1] == "2"}
    assert judged[result.best_iteration] == min(judged.values()) == result.best_value
    assert result.evaluation.loss[2].item() == judged[12]
    best = regression(seed=1)
    assert checkpoint.load_model(tmp_path / "best.safetensors", best)["iteration"] == result.best_iteration
    again = evaluate(best, Sinusoid(3, 2), tasks=7, steps=2, meta_batch=3, seed=1)
    assert again.loss[2].item() == result.best_value


def test_the_best_of_a_run_that_gets_worse_is_not_the_last(tmp_path):
    maml = classifier()
    result = trainer(
        maml,
        Blobs(),
        torch.optim.SGD(maml.parameters(), lr=0.5, maximize=True),
        log_dir=tmp_path,
        validation=Validation(Blobs(), every=4, tasks=20),
    ).run()
    assert result.best_iteration == 4
    assert result.best_value > result.evaluation.accuracy[-1].item()
    assert checkpoint.load(tmp_path / "best.safetensors")["iteration"] == 4


def test_a_plateau_scheduler_steps_on_validations():
    maml = regression()
    optimizer = torch.optim.SGD(maml.parameters(), lr=1e-12)  # nothing gets better
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, eps=0)
    trainer(maml, optimizer=optimizer, scheduler=plateau, validation=Validation(Sinusoid(3, 2), every=4, tasks=3)).run()
    assert optimizer.param_groups[0]["lr"] == 1e-12 / 4  # the first of three validations is the best


def test_does_not_keep_gradients_or_write_anything_without_a_log_dir(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    maml = regression()
    result = trainer(maml).run()
    assert all(parameter.grad is None for parameter in maml.parameters())
    assert list(tmp_path.iterdir()) == []
    assert result.log_dir is None
    assert capfd.readouterr() == ("", "")


def test_keeps_the_last_checkpoints_only(tmp_path):
    trainer(regression(), log_dir=tmp_path, checkpoint_every=5, keep=2, config={"ways": 5, "betas": (1, 2)}).run()
    found = checkpoint.numbered(tmp_path / "checkpoints")
    assert [checkpoint.load(path)["iteration"] for path in found] == [10, 12]
    assert checkpoint.load(found[-1])["config"] == {"ways": 5, "betas": (1, 2)}


def test_batches_may_be_tuples_and_come_to_the_dtype_of_the_model():
    def as_tuple(call, batch):
        return batch.support.x, batch.support.y, batch.query.x, batch.query.y

    from fastmaml.maml import MAML

    maml, other = (MAML(network().double(), lr=0.02) for _ in range(2))
    trainer(maml, Hooked(Sinusoid(3, 2), as_tuple)).run()
    source = Hooked(Sinusoid(3, 2), lambda call, batch: batch.to(torch.float64))
    assert same(parameters(maml), by_hand(other, source, adam(other))[0])


@pytest.mark.parametrize("name", ["meta_batch", "iterations", "checkpoint_every", "keep", "log_every"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "3"])
def test_counts_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}: given .*; allowed are integers from 1"):
        trainer(regression(), **{name: value})


@pytest.mark.parametrize("name", ["clip_value", "clip_norm"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf")])
def test_bounds_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=rf"{name}: given .*; allowed are positive numbers"):
        trainer(regression(), **{name: value})


def test_other_bad_arguments_are_named():
    maml, other = regression(), regression()
    with pytest.raises(TypeError, match="optimizer: given str"):
        trainer(maml, optimizer="adam")
    with pytest.raises(ValueError, match="optimizer: holds none of the parameters of maml"):
        trainer(maml, optimizer=adam(other))
    with pytest.raises(ValueError, match="scheduler: belongs to another optimizer"):
        trainer(maml, scheduler=lr_scheduler.StepLR(adam(maml), 2))
    with pytest.raises(TypeError, match="scheduler: given float"):
        trainer(maml, scheduler=0.1)
    optimizer = adam(maml)
    with pytest.raises(ValueError, match="scheduler: ReduceLROnPlateau steps on validations"):
        trainer(maml, optimizer=optimizer, scheduler=lr_scheduler.ReduceLROnPlateau(optimizer))
    with pytest.raises(TypeError, match=r"source: given object; needed is a method sample\(num_tasks, generator\)"):
        trainer(maml, object())
    with pytest.raises(TypeError, match="'config/model' is a Sequential"):
        trainer(maml, config={"model": network()})
    with pytest.raises(ValueError, match="validation_every: given 0"):
        trainer(maml, validation=Validation(Blobs(), every=0))
