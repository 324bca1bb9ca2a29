"""Meta-steps that are recorded and replayed, on a tape that stands in for a CUDA graph (see tests/tape.py)."""

import pytest
import torch

from fastmaml.batch import Samples, TaskBatch
from fastmaml.engines import get
from fastmaml.engines.reference import ReferenceEngine
from fastmaml.tasks import Sinusoid, TaskStream
from fastmaml.tasks.ahead import Ahead
from fastmaml.training.captured import CapturedStep, capture_obstacle
from fastmaml.training.nonfinite import NonFiniteStep
from fastmaml.training.step import MetaStep
from tests.small_runs import Blobs, adam, classifier, parameters, regression, same, trainer
from tests.tape import Tape, record_kernels


@pytest.fixture(autouse=True)
def _no_tapes():
    Tape.made.clear()


def batches(source, count=6, tasks=3):
    generator = torch.Generator().manual_seed(0)
    return [source.sample(tasks, generator) for _ in range(count)]


def both(make, given, **bounds):
    """After the same meta-batches: by a captured step and by a plain one, with what each returned."""
    found = []
    for captured in (True, False):
        maml = make()
        step = MetaStep(maml, adam(maml), **bounds)
        step = CapturedStep(step, Tape) if captured else step
        results = [step(batch) for batch in given]
        found.append((parameters(maml), results))
    return found


@pytest.mark.parametrize(
    ("make", "source"),
    [
        (lambda: regression(engine="reference"), Sinusoid(3, 2)),
        (lambda: classifier(engine="reference"), Blobs()),
        (lambda: regression(engine="reference", learn_lr="parameter"), Sinusoid(3, 2)),
        (lambda: regression(engine="reference", learn_lr="element"), Sinusoid(3, 2)),
    ],
    ids=["regression", "classes", "a step size of each tensor", "of each element"],
)
def test_replayed_steps_are_those_of_the_plain_one(make, source):
    (found, results), (wanted, expected) = both(make, batches(source))
    assert same(found, wanted)
    for given, hoped in zip(results, expected, strict=True):
        assert given == pytest.approx(hoped)
    assert [tape.replays for tape in Tape.made] == [4]


@pytest.mark.parametrize("bound", [{"clip_value": 0.05}, {"clip_norm": 0.1}])
def test_bounds_are_part_of_it(bound):
    given = batches(Sinusoid(3, 2))
    (found, _), (wanted, _) = both(lambda: regression(engine="reference"), given, **bound)
    assert same(found, wanted)
    assert not same(found, both(lambda: regression(engine="reference"), given)[0][0])


def test_the_gpu_engine_neither_waits_nor_bakes_anything_in(monkeypatch):
    """Under Triton's interpreter: every operator and launch of a meta-step, replayed on other data."""
    pytest.importorskip("triton")
    from fastmaml.engines.gpu import GpuEngine

    engine = GpuEngine(devices=("cpu",))
    record_kernels(monkeypatch)

    def make():
        return classifier(engine=engine, meta_learned=["*weight"], learn_lr="parameter")

    (found, results), (wanted, expected) = both(make, batches(Blobs(), 4, tasks=2))
    assert same(found, wanted)
    assert [r[1] for r in results] == pytest.approx([r[1] for r in expected])
    assert [tape.replays for tape in Tape.made] == [2]


def test_a_layered_network_neither(monkeypatch):
    pytest.importorskip("triton")
    from fastmaml.engines.gpu import GpuEngine

    monkeypatch.setattr("fastmaml.kernels.mlp_network.MAX_WIDTH", 4)
    engine = GpuEngine(devices=("cpu",))
    record_kernels(monkeypatch)
    (found, _), (wanted, _) = both(lambda: classifier(engine=engine), batches(Blobs(1), 3, tasks=1))
    assert same(found, wanted)


def test_what_waits_for_the_device_is_found():
    """An Adam that is neither fused nor capturable reads its count of steps on the host."""
    maml = regression(engine="reference")
    step = CapturedStep(MetaStep(maml, adam(maml, fused=False, foreach=False)), Tape)
    with pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"):
        [step(batch) for batch in batches(Sinusoid(3, 2))]


def test_another_form_of_batch_or_of_step_is_recorded_anew():
    maml = regression(engine="reference")
    optimizer = adam(maml)
    step = CapturedStep(MetaStep(maml, optimizer), Tape)
    few, many = batches(Sinusoid(3, 2), 4), batches(Sinusoid(4, 2), 4)
    for batch in few + many:
        step(batch)
    assert [tape.replays for tape in Tape.made] == [2, 2]
    optimizer.param_groups[0]["lr"] = 0.5
    before = parameters(maml)
    step(many[0])
    assert max((parameters(maml)[name] - before[name]).abs().max().item() for name in before) > 0.1
    maml.eval()
    step(many[0])
    assert len(Tape.made) == 2


@pytest.mark.parametrize("call", [0, 1, 2, 4], ids=["first", "second", "recorded", "replayed"])
def test_a_step_that_is_not_finite_leaves_all_as_it_was(call):
    maml = regression(engine="reference")
    optimizer = adam(maml)
    step = CapturedStep(MetaStep(maml, optimizer), Tape)
    given = batches(Sinusoid(3, 2))
    for batch in given[:call]:
        step(batch)
    kept = parameters(maml), [v.clone() for s in optimizer.state.values() for v in s.values()]
    bad = TaskBatch(given[call].support, Samples(given[call].query.x, given[call].query.y * 1e30))
    with pytest.raises(NonFiniteStep) as raised:
        step(bad)
    assert raised.value.tasks == [0, 1, 2]
    assert same(parameters(maml), kept[0])
    assert all(torch.equal(a, b) for a, b in zip(kept[1], _state(optimizer), strict=True))
    other = regression(engine="reference")
    plain = MetaStep(other, adam(other))
    for batch in given:
        plain(batch)
    for batch in given[call:]:
        step(batch)
    assert same(parameters(maml), parameters(other))


def _state(optimizer):
    return [v for s in optimizer.state.values() for v in s.values()]


@pytest.mark.parametrize("call", [1, 3], ids=["launched", "replayed"])
def test_labels_out_of_range_get_the_usual_error(call, monkeypatch):
    pytest.importorskip("triton")
    from fastmaml.engines.gpu import GpuEngine

    record_kernels(monkeypatch)
    maml = classifier(engine=GpuEngine(devices=("cpu",)))
    step = CapturedStep(MetaStep(maml, adam(maml)), Tape)
    given = batches(Blobs())
    for batch in given[:call]:
        step(batch)
    before = parameters(maml)
    given[call].query.y[1, 2] = 3
    with pytest.raises(ValueError, match="given label 3 for sample 2 of task 1"):
        step(given[call])
    assert same(parameters(maml), before)


def test_a_capture_that_fails_is_told_and_the_steps_are_launched():
    class Failing(Tape):
        def capture(self, body):
            raise RuntimeError("operation not permitted when stream is capturing")

    maml, other = regression(engine="reference"), regression(engine="reference")
    step, plain = CapturedStep(MetaStep(maml, adam(maml)), Failing), MetaStep(other, adam(other))
    given = batches(Sinusoid(3, 2), 5)
    with pytest.warns(UserWarning, match="could not be captured and is launched one by one: operation not permitted"):
        [step(batch) for batch in given]
    [plain(batch) for batch in given]
    assert same(parameters(maml), parameters(other))


def test_an_engine_that_fails_leaves_the_step_to_another():
    class Failing(ReferenceEngine):
        name = "failing"

        def meta_gradient(self, *arguments):
            raise RuntimeError("maps of this size are not taken")

    maml, other = regression(), regression(engine="functional")
    maml._current().choice.engines = [Failing(), get("functional")]
    step, plain = CapturedStep(MetaStep(maml, adam(maml)), Tape), MetaStep(other, adam(other))
    for batch in batches(Sinusoid(3, 2), 5):
        step(batch)
        plain(batch)
    assert same(parameters(maml), parameters(other))
    assert maml.engine.name == "functional"


def test_weights_take_the_plain_step():
    maml = regression(engine="reference")
    step = CapturedStep(MetaStep(maml, adam(maml)), Tape)
    for batch in batches(Sinusoid(3, 2), 4):
        weights = torch.tensor([1.0, 1.0, 0.0]).expand(3, 3)
        step(TaskBatch(Samples(batch.support.x, batch.support.y, weights), batch.query))
    assert not Tape.made


def test_a_stream_drawn_ahead_gives_the_same_and_resumes_the_same():
    def stream():
        return TaskStream(Sinusoid(3, 2), 3, torch.Generator().manual_seed(0), block=4)

    plain, ahead = stream(), Ahead(stream())
    for number in range(7):
        if number % 3:
            ahead.draw()
            ahead.draw()
        state = ahead.state_dict()
        wanted = next(plain)
        assert torch.equal(next(ahead).support.x, wanted.support.x)
        resumed = Ahead(stream())
        resumed.draw()
        resumed.load_state_dict(state)
        assert torch.equal(next(resumed).support.x, wanted.support.x)


def captured(run):
    """A trainer as on a GPU, where its steps are captured."""
    run._step = CapturedStep(run._step, Tape)
    run._state.stream = Ahead(run._state.stream)
    return run


def test_a_captured_run_that_was_stopped_ends_as_one_that_was_not(tmp_path):
    whole, plain = regression(engine="reference"), regression(engine="reference")
    captured(trainer(whole, iterations=12)).run()
    trainer(plain, iterations=12).run()
    assert same(parameters(whole), parameters(plain))
    for iterations in (5, 12):
        maml = regression(seed=7 if iterations == 12 else 0, engine="reference")
        captured(trainer(maml, iterations=iterations, log_dir=tmp_path, checkpoint_every=4)).run()
    assert same(parameters(maml), parameters(whole))
    assert [tape.replays for tape in Tape.made] == [10, 3, 5]


def test_a_learning_rate_on_the_device_comes_back_where_it_was(tmp_path):
    for iterations in (4, 8):
        maml = regression(engine="reference")
        rate = torch.tensor(0.01)
        optimizer = adam(maml, lr=rate)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        rate = optimizer.param_groups[0]["lr"]
        trainer(maml, optimizer=optimizer, scheduler=scheduler, iterations=iterations, log_dir=tmp_path).run()
        assert optimizer.param_groups[0]["lr"] is rate
        assert rate.item() == pytest.approx(0.01 * 0.9**iterations)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"capture": True}, "given True, but the parameters are on cpu"),
        ({"capture": "yes"}, "given 'yes'; allowed are True, False, and None"),
    ],
)
def test_capture_is_refused_with_the_reason(arguments, words):
    with pytest.raises((ValueError, TypeError), match=words):
        trainer(regression(), **arguments)
    assert "not captured: capture=False" in trainer(regression(), capture=False).explain()
    assert "not captured: the parameters are on cpu" in trainer(regression()).explain()


def on_a_gpu(monkeypatch, maml):
    """As if its parameters and engine were a GPU's."""

    class Parameter:
        device = torch.device("cuda", 0)

    engine = maml.engine
    monkeypatch.setattr(type(engine), "capturable", True)
    monkeypatch.setattr(type(maml), "engine", engine)  # it would be planned anew for a model of such parameters
    monkeypatch.setattr(maml.model, "parameters", lambda: iter([Parameter()]))


def test_what_keeps_a_step_from_being_captured(monkeypatch):
    maml = regression(engine="reference")
    fitting = torch.optim.Adam(maml.parameters(), capturable=True)
    sgd, plain = torch.optim.SGD(maml.parameters(), lr=0.1), torch.optim.Adam(maml.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(fitting, 0.9)
    with monkeypatch.context() as patched:
        on_a_gpu(patched, maml)
        assert capture_obstacle(maml, fitting) is None
        assert "capturable=True" in capture_obstacle(maml, plain)
        assert "SGD cannot be captured" in capture_obstacle(maml, sgd)
        assert "lr=torch.tensor" in capture_obstacle(maml, fitting, scheduler)
        patched.setattr(type(maml.engine), "capturable", False)
        assert "'reference' waits" in capture_obstacle(maml, fitting)
    fitting.register_step_post_hook(lambda *_: None)
    with monkeypatch.context() as patched:
        on_a_gpu(patched, maml)
        assert "hooks" in capture_obstacle(maml, fitting)
