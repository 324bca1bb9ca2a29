"""What bench.gpu says where there is no GPU: counts, and that it needs one."""

import json
from dataclasses import replace

import pytest
import torch

pytest.importorskip("triton")

from bench import gpu, gpu_count, gpu_machine
from bench.gpu_training import omniglot_run
from bench.problem import omniglot_conv, sinusoid


def test_counts_of_launches_bytes_and_floors():
    few, many = (gpu_count.count(sinusoid(1, tasks=tasks)) for tasks in (25, 50))
    assert few.launches == many.launches == 2
    assert many.operations == 2 * few.operations
    assert few.bytes < many.bytes < 2 * few.bytes + 1
    conv = gpu_count.count(omniglot_conv(tasks=2))
    assert conv.launches == 41  # one of them torch's, that sets counters to zero
    twice = gpu_count.count(omniglot_conv(tasks=4))
    assert conv.bytes < twice.bytes <= 2 * conv.bytes
    assert twice.floor("tf32") <= twice.floor("ieee")
    assert twice.floor("tf32") >= 41 * gpu_count.LAUNCH


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match=r"needs a GPU .* --count"):
        gpu.main([])


class Recorded:
    """A graph whose replay is the call itself."""

    def __init__(self, device):
        self.body = None

    def capture(self, body):
        self.body = body
        body()

    def replay(self):
        self.body()


@pytest.fixture
def stand_in(monkeypatch):
    """A CPU in place of the GPU, so that all of a run but the launches themselves is seen to work."""
    from fastmaml.engines.gpu import GpuEngine

    network = torch.nn.Sequential(torch.nn.Linear(1, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    small = replace(sinusoid(1, tasks=1, points=2), network=network)
    facts = {"gpu": "Stand In", "date": "today", "commit": "abc"}
    peaks = {"matmul_operations_per_second": 1e12, "copy_bytes_per_second": 1e12}
    monkeypatch.setattr(GpuEngine.__init__, "__defaults__", (("cuda", "cpu", "meta"),))
    for name, value in {
        "_inputs": lambda name: (small, small),
        "by_events": gpu_machine.by_clock,
        "facts": lambda: facts,
        "peaks": lambda: peaks,
        "_compile": lambda names, precision: 0.0,
        "CudaGraph": Recorded,
    }.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu_machine, "SLOW", 0.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.delenv("FASTMAML_DATA", raising=False)


def test_a_whole_run_is_written_step_by_step(stand_in, tmp_path):
    before = torch.backends.cudnn.allow_tf32
    try:
        gpu.main(["--case", "sinusoid-1", "--rivals", "loop", "--iterations", "0", "--out", str(tmp_path)])
    finally:
        torch.backends.cudnn.allow_tf32 = before
    found = json.loads((tmp_path / "stand-in-highest.json").read_text())
    case = found["cases"]["sinusoid-1"]
    for name in ("fastmaml graph", "fastmaml launched", "loop"):
        assert case[name]["error"] < 1e-4
        assert case[name]["microseconds"] > 0
    assert case["launches"] == 2
    assert all(0 <= case["parity"][engine] < 1e-4 for engine in ("gpu", "functional"))
    assert "omniglot_run" not in found


def test_a_case_that_fails_leaves_the_others(stand_in, tmp_path, monkeypatch):
    problems = gpu._inputs

    def failing(name):
        if name == "sinusoid-5":
            raise RuntimeError("out of order")
        return problems(name)

    monkeypatch.setattr(gpu, "_inputs", failing)
    before = torch.backends.cudnn.allow_tf32
    try:
        names = ["sinusoid-5", "sinusoid-1"]
        gpu.main(["--case", *names, "--rivals", "loop", "--minutes", "0", "--iterations", "0", "--out", str(tmp_path)])
    finally:
        torch.backends.cudnn.allow_tf32 = before
    cases = json.loads((tmp_path / "stand-in-highest.json").read_text())["cases"]
    assert "out of order" in cases["sinusoid-5"]["obstacle"]
    assert "time is up" in cases["sinusoid-1"]["loop"]["obstacle"]
    assert cases["sinusoid-1"]["fastmaml launched"]["error"] < 1e-4


def test_the_training_run_without_images_says_so(monkeypatch):
    monkeypatch.delenv("FASTMAML_DATA", raising=False)
    assert "--data FOLDER" in omniglot_run(None, device="cpu")["obstacle"]
