"""Convolutions layer by layer: the four verbs against the reference in float64, launches counted, what is refused."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastmaml import FirstOrder, SecondOrder, TaskBatch
from fastmaml.batch import Samples
from fastmaml.plan import InnerLr, Plan
from tests.kernels.test_mlp import check
from tests.problems import inner_lr, network, parameters_of, task_batch

pytestmark = pytest.mark.usefixtures("poisoned")


class GlobalMean(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def conv4(channels=2, depth=2, pool=False, features=2):
    """The forms of Omniglot's network (stride 2, spatial mean) and of MiniImagenet's (max-pool, flatten), small."""
    layers, inputs = [], 1
    for _ in range(depth):
        layers += [nn.Conv2d(inputs, channels, 3, 1 if pool else 2, 1), nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pool else []
        inputs = channels
    return nn.Sequential(*layers, nn.Flatten() if pool else GlobalMean(), nn.Linear(features, 3)).double()


def images(side=5, tasks=2, samples=3, weighted=False):
    def draw():
        x = torch.randn(tasks, samples, 1, side, side, dtype=torch.float64)
        weights = 0.5 + torch.rand(tasks, samples, dtype=torch.float64) if weighted else None
        return Samples(x, torch.randint(3, (tasks, samples)), weights)

    return TaskBatch(draw(), draw())


def test_strided_convolutions_and_a_spatial_mean(gpu_engine, device):
    check(gpu_engine, device, conv4(), images(), steps=1, loss="cross_entropy")


def test_a_mean_over_wider_maps_than_the_head_takes(gpu_engine, device):
    check(gpu_engine, device, conv4(depth=1), images(side=7), steps=1, loss="cross_entropy")


def test_gpus_whose_barriers_do_not_order_memory(gpu_engine, device, monkeypatch, launches):
    """Moments are then ended by a launch of their own, and no program reads what others wrote in the same launch."""
    monkeypatch.setattr("fastmaml.engines.gpu.engine._barriers_order_memory", lambda device: False)
    check(gpu_engine, device, conv4(depth=1), images(), steps=1, loss="cross_entropy")
    assert launches.count("_finish_kernel") > 0
    launches.clear()
    check(gpu_engine, device, network((3, 5, 2)), task_batch(), steps=1)
    assert "_head_kernel" in launches
    assert "_meta_kernel" not in launches


def test_max_pooling_weights_and_a_learned_step_size(gpu_engine, device):
    module = conv4(depth=1, pool=True, features=8)
    values = 0.1 * torch.rand(Plan.of(module).num_parameters).double()
    batch = images(weighted=True)
    check(gpu_engine, device, module, batch, lr=InnerLr(values, False, True), loss="cross_entropy")


def test_first_order(gpu_engine, device):
    module = nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)).double()
    check(gpu_engine, device, module, images(), rule=FirstOrder(), loss="cross_entropy")


def test_a_layer_too_wide_for_one_program(gpu_engine, device, monkeypatch, launches):
    monkeypatch.setattr("fastmaml.kernels.mlp_network.MAX_WIDTH", 8)
    check(gpu_engine, device, network((3, 9, 2)), task_batch(), steps=1)
    assert "_meta_kernel" not in launches


def test_launches_of_omniglots_network(gpu_engine, device, launches):
    """Four stages of convolution, norm and ReLU, a spatial mean and a linear layer; one inner step, second order."""
    plan = Plan.of(conv4(channels=1, depth=4, features=1).float().to(device), "cross_entropy")
    batch = images(side=7, tasks=1, samples=2).to(device, torch.float32)
    lr = InnerLr(inner_lr(plan).values.to(device))
    gpu_engine.meta_gradient(plan, parameters_of(plan), lr, batch, 1, SecondOrder())
    assert len(launches) == 40


class MadeMemory(TorchDispatchMode):
    def __init__(self, events):
        super().__init__()
        self.events = events

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "empty" in func.__name__ or "zeros" in func.__name__:
            self.events.append("memory")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("module", [conv4(), network((3, 5, 2))], ids=["layer by layer", "one launch"])
def test_no_memory_is_made_between_launches(monkeypatch, module):
    from fastmaml.engines.gpu import GpuEngine
    from fastmaml.kernels import flat

    events: list[str] = []
    loss, batch = ("cross_entropy", images()) if isinstance(module[0], nn.Conv2d) else ("mse", task_batch())
    plan, batch = Plan.of(module.float().to("meta"), loss), batch.to("meta", torch.float32)
    theta = torch.empty(plan.num_parameters, device="meta")
    monkeypatch.setattr(
        type(flat._sum_kernel), "__getitem__", lambda self, grid: lambda *args, **kwargs: events.append("launch")
    )
    monkeypatch.setattr("fastmaml.engines.gpu.engine._programs", lambda device: 2)
    with MadeMemory(events):
        GpuEngine(devices=("meta",)).meta_gradient(plan, theta, InnerLr(theta, True, True), batch, 2, SecondOrder())
    assert events.count("launch") > 2
    assert "memory" not in events[events.index("launch") :]


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, (3, 2)), nn.Flatten(), nn.Linear(2, 2)), "'0' .* not square"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, 1), nn.Flatten(), nn.Linear(2, 2)), "'1' .* overlapping"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.BatchNorm1d(2)), "'2' is out of order"),
        (nn.Sequential(nn.Linear(2, 1025)), "1025 outputs"),
    ],
)
def test_refusals_name_the_layer(gpu_engine, device, module, words):
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(gpu_engine.refusal(Plan.of(module), None, device))


def test_padding_of_images_is_refused_and_never_taken_for_samples(gpu_engine, device):
    plan, batch = Plan.of(conv4().float().to(device), "cross_entropy"), images(weighted=True).to(device, torch.float32)
    assert gpu_engine.data_refusal(plan, batch.support) is None
    batch.support.weights[0, 0] = 0
    assert "padding" in gpu_engine.data_refusal(plan, batch.support)
    lr = InnerLr(inner_lr(plan).values.to(device))
    with pytest.raises(ValueError, match=r"weights: .*padding.*'cpu' and 'reference'"):
        gpu_engine.meta_gradient(plan, parameters_of(plan), lr, batch, 1, SecondOrder())


def test_one_launch_is_for_gpus_whose_barriers_order_global_memory(monkeypatch):
    from fastmaml.engines.gpu import engine as gpu

    plan, devices = Plan.of(network()), [torch.device(name) for name in ("cpu", "cuda", "xpu")]
    monkeypatch.setattr(torch.version, "hip", None)
    assert [gpu._in_one_launch(plan, 5, device) for device in devices] == [True, True, False]
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert [gpu._in_one_launch(plan, 5, device) for device in devices] == [True, False, False]


def test_more_tasks_than_a_grid_has_are_refused(gpu_engine, device, monkeypatch):
    monkeypatch.setattr("fastmaml.kernels.layered.MAX_TASKS", 1)
    plan, batch = Plan.of(conv4().float().to(device), "cross_entropy"), images().to(device, torch.float32)
    with pytest.raises(ValueError, match=r"tasks: given 2 at a time; .* at most 1: take fewer"):
        gpu_engine.adapt(plan, parameters_of(plan), InnerLr(inner_lr(plan).values.to(device)), batch.support, 1)


def test_double_precision_and_other_devices_are_refused(gpu_engine, device):
    from fastmaml.engines.gpu import GpuEngine

    plan = Plan.of(conv4())
    assert "float32" in gpu_engine.refusal(plan, None, device, torch.float64)
    assert "parameters are on cpu; call model.cuda()" in GpuEngine().refusal(plan, None, torch.device("cpu"))
