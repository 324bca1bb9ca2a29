"""SIGINT and SIGTERM: save and stop; twice: stop at once."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from fastmaml.runs import checkpoint
from fastmaml.runs.interrupts import Interrupts
from fastmaml.tasks import Sinusoid
from tests.small_runs import ROOT, Hooked, parameters, regression, same, trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def send(number, at, times=1):
    """A hook that sends this process a signal in the `at`-th iteration."""

    def hook(call, batch):
        for _ in range(times if call == at else 0):
            os.kill(os.getpid(), number)

    return hook


@pytest.fixture(autouse=True)
def handlers():
    """Whatever a test does, the handlers are back afterwards; by default Python's own."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield before
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("at", [1, 5, 12])
def test_the_first_signal_finishes_the_iteration_and_saves(tmp_path, number, at, handlers, capfd):
    maml, straight = regression(), regression()
    result = trainer(maml, Hooked(Sinusoid(3, 2), send(number, at)), log_dir=tmp_path, checkpoint_every=100).run()
    assert result.interrupted
    assert (result.signal, result.iteration) == (number, at)
    assert "once more aborts at once" in capfd.readouterr().err
    saved = checkpoint.load(checkpoint.numbered(tmp_path / "checkpoints")[-1])
    assert saved["iteration"] == at
    assert same(saved["model"], parameters(maml))
    assert [signal.getsignal(number) for number in SIGNALS] == handlers

    result = trainer(maml, Hooked(Sinusoid(3, 2), send(number, -1)), log_dir=tmp_path).run()
    trainer(straight, Hooked(Sinusoid(3, 2), send(number, -1))).run()
    assert not result.interrupted
    assert same(parameters(maml), parameters(straight))


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_the_second_signal_aborts_at_once(tmp_path, number, error, handlers):
    maml = regression()
    source = Hooked(Sinusoid(3, 2), send(number, at=3, times=2))
    with pytest.raises(error) as raised:
        trainer(maml, source, log_dir=tmp_path).run()
    if error is SystemExit:
        assert raised.value.code == 143
    assert source.calls == 3
    assert [checkpoint.load(path)["iteration"] for path in checkpoint.numbered(tmp_path / "checkpoints")] == [0]
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_a_run_interrupted_without_a_log_dir_goes_on_in_memory():
    maml, straight = regression(), regression()
    run = trainer(maml, Hooked(Sinusoid(3, 2), send(signal.SIGINT, at=4)))
    assert run.run().iteration == 4
    assert run.run().iteration == 12
    trainer(straight, Hooked(Sinusoid(3, 2), send(signal.SIGINT, -1))).run()
    assert same(parameters(maml), parameters(straight))


def test_the_handlers_are_restored_after_an_error(handlers):
    def fail(call, batch):
        raise OSError("no more tasks")

    with pytest.raises(OSError, match="no more tasks"):
        trainer(regression(), Hooked(Sinusoid(3, 2), fail)).run()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_outside_the_main_thread_it_trains_without_handlers(handlers):
    seen = []
    hook = Hooked(Sinusoid(3, 2), lambda call, batch: seen.append([signal.getsignal(number) for number in SIGNALS]))
    thread = threading.Thread(target=trainer(regression(), hook).run)
    thread.start()
    thread.join()
    assert seen == [handlers] * 12


def test_a_signal_that_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert interrupts.signal is None


def test_a_process_exits_cleanly_after_ctrl_c(tmp_path):
    command = [sys.executable, "-m", "tests.small_runs", str(tmp_path), "--iterations", "1000000"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "train.csv"
    while not (log.exists() and log.stat().st_size > 100):  # it runs
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    last = checkpoint.load(checkpoint.numbered(tmp_path / "checkpoints")[-1])
    assert output.endswith(f"iteration {last['iteration']} signal 2\n")
