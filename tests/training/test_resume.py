"""A run that ends at any moment and goes on later is, bit for bit, the run that did not end."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch.optim import lr_scheduler

from fastmaml.maml import MAML
from fastmaml.runs import checkpoint
from fastmaml.runs.checkpoint import CheckpointError
from fastmaml.tasks import Sinusoid
from fastmaml.training.trainer import Validation
from tests.small_runs import (
    ROOT,
    Blobs,
    Hooked,
    adam,
    classifier,
    killable,
    network,
    parameters,
    regression,
    rows,
    same,
)
from tests.small_runs import trainer as make_trainer


class Crash(Exception):
    pass


def crash_at(call):
    def hook(now, batch):
        if now == call:
            raise Crash

    return hook


KINDS = {
    "adam": lambda maml: (adam(maml), None),
    "sgd": lambda maml: (torch.optim.SGD(maml.parameters(), lr=0.1, momentum=0.9), None),
    "lbfgs": lambda maml: (torch.optim.LBFGS(maml.parameters(), lr=0.1, max_iter=3), None),
    "plateau": lambda maml: (
        optimizer := torch.optim.SGD(maml.parameters(), lr=0.5),
        lr_scheduler.ReduceLROnPlateau(optimizer, patience=0),
    ),
    "cosine": lambda maml: (optimizer := adam(maml), lr_scheduler.CosineAnnealingLR(optimizer, 20)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crash", [1, 6, 7, 12])
def test_a_crashed_run_goes_on_where_its_checkpoint_was(tmp_path, kind, crash):
    def run(folder, source, seed=0):
        maml = regression(seed)
        optimizer, scheduler = KINDS[kind](maml)
        validation = Validation(Sinusoid(3, 2), every=4, tasks=3)
        options = {"log_every": 2, "checkpoint_every": 3, "validation": validation, "scheduler": scheduler}
        return maml, make_trainer(maml, source, optimizer, log_dir=folder, **options)

    def end(folder):
        maml, whole = run(folder, Hooked(Sinusoid(3, 2), lambda call, batch: None), seed=0 if "a" in folder.name else 9)
        result = whole.run()
        return parameters(maml), result, [rows(folder / name) for name in ("train.csv", "validation.csv")]

    expected, result, logs = end(tmp_path / "a")
    _, crashing = run(tmp_path / "b", Hooked(Sinusoid(3, 2), crash_at(crash)))
    with pytest.raises(Crash):
        crashing.run()
    resumed, its_result, its_logs = end(tmp_path / "b")  # from another initialisation, which must not matter
    assert same(resumed, expected)
    assert its_logs == logs
    assert (its_result.loss, its_result.best_iteration, its_result.best_value) == (
        result.loss,
        result.best_iteration,
        result.best_value,
    )


@pytest.mark.parametrize("crash", [2, 7])
def test_accuracy_and_the_global_generator_are_resumed_too(tmp_path, crash):
    def run(folder, hook):
        torch.manual_seed(len(folder.name))
        model = network(2, 3, dropout=0.5)
        maml = MAML(model, lr=0.1, loss="cross_entropy", engine="reference")
        make_trainer(maml, Hooked(Blobs(), hook), log_dir=folder, log_every=4, checkpoint_every=3, iterations=9).run()
        return parameters(maml), rows(folder / "train.csv")

    expected = run(tmp_path / "x", lambda call, batch: None)
    with pytest.raises(Crash):
        run(tmp_path / "y", crash_at(crash))
    torch.manual_seed(99)
    resumed = run(tmp_path / "y", lambda call, batch: None)
    assert same(resumed[0], expected[0])
    assert resumed[1] == expected[1]


def start(folder, *arguments):
    command = [sys.executable, "-m", "tests.small_runs", str(folder), *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run = killable(folder)
    run.run()
    return folder, checkpoint.load(checkpoint.numbered(folder / "checkpoints")[-1])


def assert_ends_like(uninterrupted, folder):
    process = start(folder)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert output.endswith("iteration 120 signal None\n")
    straight, state = uninterrupted
    resumed = checkpoint.load(checkpoint.numbered(folder / "checkpoints")[-1])
    assert same(resumed["model"], state["model"])
    for name in ("train.csv", "validation.csv"):
        assert rows(folder / name) == rows(straight / name)
    assert same(
        checkpoint.load(folder / "best.safetensors")["model"], checkpoint.load(straight / "best.safetensors")["model"]
    )


def test_killed_again_and_again_at_random_moments(tmp_path, uninterrupted):
    moments = random.Random(1)
    for _ in range(3):
        process = start(tmp_path)
        assert process.stdout.readline() == "ready\n"
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.communicate()
    assert_ends_like(uninterrupted, tmp_path)


@pytest.mark.parametrize(("function", "call"), [("fsync", "31"), ("replace", "8"), ("unlink", "4")])
def test_killed_within_the_write_of_a_checkpoint(tmp_path, uninterrupted, function, call):
    process = start(tmp_path, "--die", function, call)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert_ends_like(uninterrupted, tmp_path)


def test_a_finished_run_is_loaded_and_can_be_extended(tmp_path):
    trained, again, straight = regression(), regression(seed=1), regression()
    first = make_trainer(trained, log_dir=tmp_path / "a").run()
    result = make_trainer(again, log_dir=tmp_path / "a").run()
    assert same(parameters(again), parameters(trained))
    assert (result.iteration, result.loss) == (12, first.loss)
    make_trainer(again, log_dir=tmp_path / "a", iterations=20).run()
    make_trainer(straight, iterations=20).run()
    assert same(parameters(again), parameters(straight))


def test_run_twice_goes_on_in_memory():
    maml, straight = regression(), regression()
    run = make_trainer(maml)
    assert run.run().iteration == 12
    assert run.run().iteration == 12
    make_trainer(straight).run()
    assert same(parameters(maml), parameters(straight))


def test_a_damaged_checkpoint_is_named_with_what_to_do(tmp_path):
    make_trainer(regression(), log_dir=tmp_path, checkpoint_every=5).run()
    last = checkpoint.numbered(tmp_path / "checkpoints")[-1]
    last.write_bytes(last.read_bytes()[:-1])
    again = regression(seed=1)
    with pytest.raises(CheckpointError, match=f"{last.name}: is cut short .*delete it and run again"):
        make_trainer(again, log_dir=tmp_path).run()
    last.unlink()
    assert make_trainer(again, log_dir=tmp_path).run().iteration == 12
    straight = regression()
    make_trainer(straight).run()
    assert same(parameters(again), parameters(straight))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iteration", -5),
        ("iteration", 10**30),
        ("iteration", 11),
        ("counters", None),
        ("counters/iteration", -5),
        ("counters/iteration", 10**30),
        ("counters/iteration", "12"),
        ("counters/iteration", True),
        ("counters/seconds", float("nan")),
        ("counters/loss", "0.1"),
        ("counters/count", None),
        ("counters/odd", 1),
        ("model", 3),
        ("settings", [1]),
        ("optimizer", None),
        ("optimizer/state/0/exp_avg", torch.zeros(1)),
        ("optimizer/state/0/exp_avg_sq", torch.zeros(8, 1, dtype=torch.int64)),
        ("scheduler/last_epoch", "x"),
        ("random", None),
        ("random/cpu", torch.zeros(5, dtype=torch.uint8)),
        ("random/cuda:0", "x"),
    ],
    ids=str,
)
def test_a_field_that_was_never_saved_is_refused_by_name(tmp_path, field, value):
    path = with_field(tmp_path, field, value)
    with pytest.raises(
        CheckpointError, match=rf"{path.name}: '{field.removesuffix('/odd')}' (is|has) .*allowed (is|are)"
    ):
        resumed(tmp_path).run()


@pytest.mark.parametrize("field", ["", "generator", "position", "block", "num_tasks"])
@pytest.mark.parametrize(
    "value", [torch.zeros(5056, dtype=torch.uint8), -1, None, "x"], ids=["state", "-1", "None", "x"]
)
def test_a_place_in_the_stream_that_was_never_saved_is_refused(tmp_path, field, value):
    path = with_field(tmp_path, f"stream/{field}" if field else "stream", value)
    with pytest.raises(CheckpointError, match=rf"{path.name}: does not fit the task source"):
        resumed(tmp_path).run()


def resumed(folder, iterations=20):
    maml = regression()
    optimizer = adam(maml)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 20)
    return make_trainer(maml, optimizer=optimizer, scheduler=scheduler, log_dir=folder, iterations=iterations)


def with_field(folder, field, value):
    """A run's last checkpoint, in which one field is another; its checksum is right."""
    resumed(folder, 12).run()
    path = checkpoint.numbered(folder / "checkpoints")[-1]
    state = at = checkpoint.load(path)
    *keys, last = [int(key) if key.isdigit() else key for key in field.split("/")]
    for key in keys:
        at = at[key]
    at[last] = value
    checkpoint.save(path, state)
    return path


def test_a_pipe_or_a_folder_in_a_checkpoints_place_is_named(tmp_path):
    make_trainer(regression(), log_dir=tmp_path).run()
    last = checkpoint.path_of(tmp_path / "checkpoints", 13)
    for make, undo in ((os.mkfifo, os.unlink), (os.mkdir, os.rmdir)):
        make(last)
        with pytest.raises(CheckpointError, match=rf"{last.name}: cannot be read, it is a .*Move it away or delete it"):
            make_trainer(regression(), log_dir=tmp_path).run()
        undo(last)


def test_other_settings_are_refused_by_name(tmp_path):
    make_trainer(regression(), log_dir=tmp_path).run()
    for maml, options, complaint in [
        (regression(), {"seed": 3}, "seed was 0 and is 3 now"),
        (regression(), {"meta_batch": 4}, "meta_batch was 3 and is 4 now"),
        (regression(steps=2), {}, "steps was 1 and is 2 now"),
        (regression(lr=0.1), {}, r"lr was 0\.02 and is 0\.1 now"),
        (regression(), {"clip_value": 10.0}, r"clip_value was None and is 10\.0 now"),
    ]:
        with pytest.raises(CheckpointError, match=rf"iteration-00000012\.safetensors: .*{complaint}"):
            make_trainer(maml, log_dir=tmp_path, **options).run()
    maml = regression()
    with pytest.raises(CheckpointError, match=r"optimizer lr was 0\.01 and is 0\.5 now"):
        make_trainer(maml, optimizer=adam(maml, lr=0.5), log_dir=tmp_path).run()
    maml = regression()
    with pytest.raises(CheckpointError, match="optimizer was 'Adam' and is 'SGD' now"):
        make_trainer(maml, optimizer=torch.optim.SGD(maml.parameters(), lr=0.01), log_dir=tmp_path).run()


def test_another_model_is_refused_by_name(tmp_path):
    make_trainer(regression(), log_dir=tmp_path).run()
    with pytest.raises(CheckpointError, match=r"'model\.0\.weight' is float32 \[8, 1\] in the file"):
        make_trainer(classifier(), Blobs(), log_dir=tmp_path).run()


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    checkpoint.save(tmp_path / "checkpoints" / "iteration-00000001.safetensors", {"model": regression().state_dict()})
    with pytest.raises(CheckpointError, match="holds no training run"):
        make_trainer(regression(), log_dir=tmp_path).run()


def test_without_resume_a_folder_with_a_run_is_refused_and_left_alone(tmp_path):
    make_trainer(regression(), log_dir=tmp_path, resume=False).run()
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*s*"))
    with pytest.raises(FileExistsError, match=r"log_dir: .*holds a run already .*resume=True"):
        make_trainer(regression(), log_dir=tmp_path, resume=False).run()
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*.*s*")) == before


def test_two_runs_in_one_folder_are_refused(tmp_path):
    refused = []

    def second(call, batch):
        if call == 2:
            with pytest.raises(RuntimeError, match=f"log_dir: another run is writing to {tmp_path}"):
                make_trainer(regression(), log_dir=tmp_path).run()
            refused.append(True)

    source = Hooked(Sinusoid(3, 2), second)
    make_trainer(regression(), source, log_dir=tmp_path).run()
    assert refused == [True]
    assert make_trainer(regression(), source, log_dir=tmp_path).run().iteration == 12


def test_no_checkpoint_is_on_the_disk_before_its_rows_of_the_log(tmp_path, monkeypatch):
    events, real_sync, real_replace = [], os.fsync, os.replace

    def sync(handle):
        events.append(os.fstat(handle).st_ino)
        real_sync(handle)

    def replace(source, target):
        events.append(target.name)
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    make_trainer(regression(), log_dir=tmp_path, validation=Validation(Sinusoid(3, 2), tasks=3)).run()
    last = events.index("iteration-00000012.safetensors")
    since_best = events[events.index("best.safetensors") : last]
    assert (tmp_path / "train.csv").stat().st_ino in since_best
    assert (tmp_path / "validation.csv").stat().st_ino in since_best
