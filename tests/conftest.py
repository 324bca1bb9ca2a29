"""What every test starts from."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or idle threads of one library keep another's from working

import signal

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # kernels run under Triton's interpreter, chosen before Triton is imported

from hypothesis import settings

settings.register_profile("fastmaml", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("fastmaml")
torch.set_num_threads(1)  # what is tested is small


if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # as in the background of a shell: tests, and what they start, want it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def poisoned():
    """Memory that is not written holds NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=["dlpack", "attributes"])
def told_by(request, monkeypatch):
    """By what the core looks at tensors; only attributes are there in any torch."""
    if request.param == "attributes":
        monkeypatch.setattr("fastmaml.engines.cpu.engine._EXCHANGE", None)


@pytest.fixture
def benchmark():
    """In place of pytest-benchmark's."""
    pytest.fail("nothing is timed in tests/; what is to be timed belongs in bench/")
