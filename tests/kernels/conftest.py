"""Kernels run on a GPU where there is one, else under Triton's interpreter (see tests/conftest.py)."""

import pytest
import torch

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def gpu_engine():
    from fastmaml.engines.gpu import DEVICES, GpuEngine

    return GpuEngine(devices=(*DEVICES, DEVICE))


@pytest.fixture(scope="session")
def device():
    return torch.device(DEVICE)


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels launched since, in order."""
    from fastmaml.kernels import flat

    names, kind = [], type(flat._sum_kernel)
    on_grid = kind.__getitem__  # kernel[grid](...): `run` is not of the class in triton 3.4's interpreter

    def counted(self, grid):
        names.append(self.fn.__name__)
        return on_grid(self, grid)

    monkeypatch.setattr(kind, "__getitem__", counted)
    return names
