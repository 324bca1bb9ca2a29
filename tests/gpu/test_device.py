"""The whole check of the gpu engine on a GPU; skipped where there is none.

The kernels' own tests (tests/kernels) run on the GPU as well where there is one.
"""

import pytest
import torch

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")

from fastmaml import MAML, SecondOrder  # noqa: E402
from fastmaml.engines import get  # noqa: E402
from fastmaml.models import SinusoidMLP, omniglot_conv4  # noqa: E402
from fastmaml.plan import InnerLr, Plan  # noqa: E402
from fastmaml.tasks import QUARTER_TURNS, Episodes, Sinusoid  # noqa: E402
from fastmaml.training.captured import CapturedStep  # noqa: E402
from fastmaml.training.trainer import Trainer  # noqa: E402
from fastmaml.verify import CASES, Truth, build, measure, relative_errors  # noqa: E402
from tests.problems import inner_lr, parameters_of, relative_error  # noqa: E402


def on_gpu(problem):
    from dataclasses import replace

    single = problem.to(torch.float32)
    rates = replace(single.inner_lr, values=single.inner_lr.values.cuda())
    moved = {name: getattr(single, name).cuda() for name in ("parameters", "vectors")}
    return replace(single, inner_lr=rates, batch=single.batch.to("cuda"), **moved)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_network_of_verify(case):
    truth, engine = Truth.of(build(case)), get("gpu")
    found = measure(engine, on_gpu(truth.problem), truth.fast.float().cuda())
    errors = relative_errors({name: tensor.cpu() for name, tensor in found.items()}, truth.quantities)
    assert {name: error for name, error in errors.items() if not error <= truth.bound(name, torch.float32)} == {}


def test_the_paper_s_networks_run_on_it():
    maml = MAML(SinusoidMLP().cuda(), lr=0.01)
    assert maml.engine.name == "gpu"
    batch = Sinusoid().sample(25, torch.Generator("cuda").manual_seed(0))
    maml.meta_loss(batch).backward()
    exact = MAML(SinusoidMLP().cuda().double(), lr=0.01, engine="reference")
    exact.model.load_state_dict(maml.model.state_dict())
    exact.meta_loss(batch.to(torch.float64)).backward()
    for given, wanted in zip(maml.parameters(), exact.parameters(), strict=True):
        assert relative_error(given.grad, wanted.grad) < 1e-5


def test_bitwise_the_same_from_run_to_run_and_captured():
    plan = Plan.of(SinusoidMLP().cuda())
    theta, lr = parameters_of(plan), InnerLr(inner_lr(plan).values.cuda())
    batch = Sinusoid().sample(3000, torch.Generator("cuda").manual_seed(0))

    def gradient():
        return get("gpu").meta_gradient(plan, theta, lr, batch, 3, SecondOrder()).gradient

    first = gradient()
    assert torch.equal(first, gradient())
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = gradient()
    captured.zero_()
    graph.replay()
    assert torch.equal(first, captured)


def test_tf32_only_where_it_is_asked_for():
    plan = Plan.of(SinusoidMLP().cuda())
    theta, lr = parameters_of(plan), InnerLr(inner_lr(plan).values.cuda())
    batch = Sinusoid().sample(25, torch.Generator("cuda").manual_seed(0))
    before = torch.get_float32_matmul_precision()
    try:
        found = []
        for precision in ("highest", "high", "medium"):
            torch.set_float32_matmul_precision(precision)
            found.append(get("gpu").meta_gradient(plan, theta, lr, batch, 1, SecondOrder()).gradient)
    finally:
        torch.set_float32_matmul_precision(before)
    assert 0 < relative_error(found[1], found[0]) < 1e-2
    assert relative_error(found[1], found[0]) < relative_error(found[2], found[0]) < 0.1


def test_grad_scaler_compile_and_a_call_after_an_error():
    maml = MAML(SinusoidMLP().cuda(), lr=0.01)
    batch = Sinusoid().sample(4, torch.Generator("cuda").manual_seed(0))
    scaler = torch.amp.GradScaler("cuda")
    optimizer = torch.optim.Adam(maml.parameters(), capturable=True)
    with pytest.raises(ValueError, match="but the model is on cuda"):
        maml.meta_loss(batch.to("cpu"))
    scaler.scale(torch.compile(lambda: maml.meta_loss(batch))()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(p.isfinite().all() for p in maml.parameters())


def sinusoid_run(capture, iterations=20, log_dir=None, **kinds):
    torch.manual_seed(0)
    maml = MAML(SinusoidMLP().cuda(), lr=0.01, **kinds)
    optimizer = torch.optim.Adam(maml.parameters(), capturable=True, fused=True)
    run = Trainer(
        maml, Sinusoid().to("cuda"), optimizer, meta_batch=25, iterations=iterations, progress=False, log_dir=log_dir,
        checkpoint_every=7, capture=capture,
    )  # fmt: skip
    run.run()
    return run, [parameter.detach().clone() for parameter in maml.parameters()]


@pytest.mark.parametrize("learn_lr", [False, "parameter", "element"])
def test_a_captured_run_does_what_an_uncaptured_one_does(learn_lr):
    run, found = sinusoid_run(True, learn_lr=learn_lr)
    assert isinstance(run._step, CapturedStep)
    _, wanted = sinusoid_run(False, learn_lr=learn_lr)
    assert all(relative_error(given, hoped) < 1e-5 for given, hoped in zip(found, wanted, strict=True))


def test_a_captured_run_that_was_stopped_ends_bit_for_bit_as_one_that_was_not(tmp_path):
    _, wanted = sinusoid_run(True)
    sinusoid_run(True, 9, tmp_path)
    _, found = sinusoid_run(True, 20, tmp_path)
    assert all(torch.equal(given, hoped) for given, hoped in zip(found, wanted, strict=True))


def test_episodes_and_convolutions_on_the_gpu_captured():
    source = Episodes(torch.randint(256, (6, 4, 28, 28), dtype=torch.uint8), 3, 1, rotations=QUARTER_TURNS).to("cuda")
    losses = []
    for capture in (True, False):
        maml = MAML(omniglot_conv4(3, generator=torch.Generator().manual_seed(0)).cuda(), 0.4, loss="cross_entropy")
        learned = [parameter for parameter in maml.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(learned, capturable=True)
        run = Trainer(maml, source, optimizer, meta_batch=4, iterations=10, progress=False, capture=capture)
        losses.append(run.run().loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
