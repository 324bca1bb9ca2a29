"""What a user can get wrong with the gpu engine: each error says what and what to do, and the next call works."""

import pytest
import torch
from torch import nn

from fastmaml import MAML, SecondOrder
from fastmaml.engines.gpu import GpuEngine
from fastmaml.engines.gpu import memory as gpu_memory
from fastmaml.kernels.mlp_launch import Needs
from fastmaml.plan import InnerLr, Plan
from tests.kernels.test_layered import conv4, images
from tests.problems import inner_lr, network, parameters_of, task_batch


def maml_and_batch(gpu_engine, device):
    model, batch = network((3, 5, 2)).float().to(device), task_batch().to(device, torch.float32)
    return MAML(model, lr=0.1, steps=1, engine=gpu_engine), batch


def test_a_model_on_the_cpu():
    with pytest.raises(ValueError, match=r"engine: 'gpu' does not run this: .*parameters are on cpu; call model.cuda"):
        MAML(network((3, 2)).float(), lr=0.1, engine=GpuEngine())


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a GPU")
def test_no_gpu_at_all():
    with pytest.raises(ValueError, match="engine: 'gpu' is not available, as torch finds no GPU here"):
        MAML(network((3, 2)).float(), lr=0.1, engine="gpu")


@pytest.mark.parametrize("part", ["support", "query"])
def test_tensors_on_different_devices(gpu_engine, device, part):
    maml, batch = maml_and_batch(gpu_engine, device)
    wanted = maml.meta_loss(batch)
    elsewhere = type(batch)(**{"support": batch.support, "query": batch.query, part: getattr(batch, part).to("meta")})
    with pytest.raises(ValueError, match=rf"{part}.x: given on meta, but the model is on {device}.*move one of them"):
        maml.meta_loss(elsewhere)
    assert torch.equal(maml.meta_loss(batch), wanted)


def test_a_model_of_which_parts_are_elsewhere(gpu_engine, device):
    model = nn.Sequential(nn.Linear(3, 5, device=device), nn.Tanh(), nn.Linear(5, 2, device="meta"))
    with pytest.raises(ValueError, match=r"'0.weight' is .*, but '2.weight' is torch.float32 on meta.*call model.to"):
        MAML(model, lr=0.1, engine=gpu_engine).meta_loss(task_batch().to(device, torch.float32))


def test_a_gpu_that_is_too_old_is_named(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GeForce GTX 1080")
    refusal = GpuEngine().refusal(Plan.of(network((3, 2)).float()), None, torch.device("cuda"))
    assert refusal == "its kernels need compute capability 7.0, and GeForce GTX 1080 has 6.1"


class Full:
    """A kernel whose launch finds no memory."""

    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

        return launch


@pytest.mark.parametrize("kind", ["one launch", "layer by layer"])
def test_out_of_memory_says_what_would_fit_and_the_next_call_works(gpu_engine, device, monkeypatch, kind):
    module, batch, loss = network((3, 5, 2)), task_batch(), "mse"
    if kind == "layer by layer":
        module, batch, loss = conv4(depth=1, pool=True, features=8), images(), "cross_entropy"
    plan, batch = Plan.of(module.float().to(device), loss), batch.to(device, torch.float32)
    theta, lr = parameters_of(plan), InnerLr(inner_lr(plan).values.to(device))
    before, fast = theta.clone(), theta.expand(batch.num_tasks, -1)
    verbs = {
        "meta_gradient": lambda: gpu_engine.meta_gradient(plan, theta, lr, batch, 2, SecondOrder()),
        "adapt": lambda: gpu_engine.adapt(plan, theta, lr, batch.support, 2),
        "hvp": lambda: gpu_engine.hvp(plan, fast, batch.support, fast),
        "predict": lambda: gpu_engine.predict(plan, fast, batch.support.x),
    }
    with monkeypatch.context() as patched:
        for verb in ("meta", "adapt", "predict", "hvp"):
            patched.setattr(f"fastmaml.kernels.mlp_launch._{verb}_kernel", Full())
        patched.setattr("fastmaml.kernels.conv_launch._forward_kernel", Full())
        patched.setattr(gpu_memory, "free_bytes", lambda device: 2**20)
        for name, call in verbs.items():
            steps = 2 if name in ("meta_gradient", "adapt") else 0
            words = rf"out of memory\nT=\d tasks of N=\d samples and K={steps} steps take .* MiB .* about T=\d+ .*fit"
            with pytest.raises(torch.OutOfMemoryError, match=words):
                call()
    assert torch.equal(theta, before)
    assert gpu_engine.adapt(plan, theta, lr, batch.support, 1)[0].isfinite().all()


def test_what_would_fit():
    """Of 100 + 10 K + 20 N numbers a task, 1000 fit."""
    needs = Needs(100, 10, 20, 4)
    text = gpu_memory.advice(needs, 4, 10, 5, 4000)
    assert "about T=2 or N=5 would fit" in text
    assert "4 at a time" in text
    assert "about T=3 or N=5 or K=3 would fit" in gpu_memory.advice(needs, 4, 6, 5, 4000)
    assert "not even one task would fit" in gpu_memory.advice(needs, 4, 10, 5, 400)
