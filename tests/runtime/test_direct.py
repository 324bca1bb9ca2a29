"""MAML.backward: what meta_loss(...).backward() does, without autograd."""

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

from fastmaml import MAML, FirstOrder, Samples, TaskBatch
from fastmaml.runtime import direct
from tests.problems import ON_CPU, gradients, network, served_by, task_batch


@pytest.fixture
def used(monkeypatch):
    """Whether each call of `direct.accumulate` has served."""
    return served_by("accumulate", monkeypatch)


def by_autograd(maml, batch, steps=None):
    """(loss, gradients), with nothing prepared and nothing left behind."""
    maml.zero_grad()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(direct, "meta_gradient", lambda *_: None)
        loss = maml.meta_loss(batch, steps)
    loss.backward()
    found = gradients(maml)
    maml.zero_grad()
    return loss.detach(), found


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_same_as_autograd(engine, loss, ragged):
    maml, batch = MAML(network(), lr=0.1, steps=2, loss=loss, engine=engine), task_batch(loss=loss, ragged=ragged)
    for steps in (None, 1, 3):
        loss_wanted, wanted = by_autograd(maml, batch, steps)
        got = maml.backward(batch, steps)
        torch.testing.assert_close(got, loss_wanted)
        assert not got.requires_grad
        assert got.shape == ()
        torch.testing.assert_close(gradients(maml), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_added_to_those_that_are_there(dtype, used):
    maml, batch = MAML(network(dtype=dtype), lr=0.1, rule=FirstOrder(), engine="cpu"), task_batch(dtype=dtype)
    _, once = by_autograd(maml, batch)
    maml.backward(batch)
    kept = [p.grad for p in maml.parameters()]
    maml.backward(batch)
    assert all(p.grad is grad for p, grad in zip(maml.parameters(), kept, strict=True))
    torch.testing.assert_close(gradients(maml), 2 * once)
    maml.accumulate(batch, overwrite=True)
    torch.testing.assert_close(gradients(maml), once, rtol=0, atol=0)
    assert used == [True] * 3


def test_what_is_not_meta_learned_gets_none(used):
    maml = MAML(network(), lr=0.1, meta_learned=["0.*", "4.bias"], engine="cpu")
    maml.model[2].weight.requires_grad_(False)
    batch = task_batch()
    _, wanted = by_autograd(maml, batch)
    maml.backward(batch)
    torch.testing.assert_close(gradients(maml), wanted, rtol=0, atol=0)
    assert used == [True]
    assert [name for name, p in maml.model.named_parameters() if p.grad is not None] == ["0.weight", "0.bias", "4.bias"]


def hook(maml, called):
    maml.model[0].weight.register_hook(lambda grad: called.append(grad.shape))


def post_hook(maml, called):
    maml.model[0].weight.register_post_accumulate_grad_hook(lambda p: called.append(p.shape))


@pytest.mark.parametrize("register", [hook, post_hook])
def test_hooks_on_parameters_are_called(register, used):
    maml, batch, called = MAML(network(), engine="cpu"), task_batch(), []
    register(maml, called)
    maml.backward(batch)
    assert called == [maml.model[0].weight.shape]
    assert used == [False]


def transposed(maml):
    maml.model[0].weight.data = maml.model[0].weight.data.t().contiguous().t()


def one_gradient(maml):
    maml.model[0].weight.grad = torch.ones_like(maml.model[0].weight)


def strided_gradient(maml):
    for p in maml.parameters():
        p.grad = torch.ones(p.numel(), 2, dtype=p.dtype)[:, 0].reshape(p.shape)
    maml.model[0].weight.grad = torch.ones(3, 6, dtype=torch.float64).t()


def learned_elsewhere(maml):
    maml.__class__ = type("Doubled", (MAML,), {"meta_loss": _doubled})


def _doubled(self, batch, steps=None, details=False):
    loss, found = MAML.meta_loss(self, batch, steps, details=True)
    return (2 * loss, found) if details else 2 * loss


@pytest.mark.usefixtures("told_by")
@pytest.mark.parametrize("change", [transposed, one_gradient, strided_gradient, learned_elsewhere])
def test_what_addresses_cannot_say_is_left_to_autograd(change, used):
    maml, batch = MAML(network(), engine="cpu"), task_batch()
    change(maml)
    before = [None if p.grad is None else p.grad.clone() for p in maml.parameters()]
    _, wanted = by_autograd(maml, batch)
    for p, grad in zip(maml.parameters(), before, strict=True):
        p.grad = grad
    old = torch.cat(
        [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(maml.parameters(), before, strict=True)]
    )
    maml.backward(batch)
    torch.testing.assert_close(gradients(maml), old + wanted)
    assert True not in used


def test_a_parameter_of_another_size_is_seen(used):
    maml = MAML(network(), engine="cpu")
    maml.backward(task_batch())
    for _ in range(2):
        maml.model[0].weight.data = torch.zeros(6, 2, dtype=torch.float64)
        with pytest.raises(ValueError, match="the model takes 2 features a sample"):
            maml.backward(task_batch())
    assert True not in used[1:]


def imaginary(tensor):
    """The same numbers, as a view of their negatives."""
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag


def negative(tensor):
    return torch._neg_view(-tensor)


@pytest.mark.usefixtures("told_by")
@pytest.mark.parametrize("view", [imaginary, negative])
@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("kept", [False, True])
def test_samples_of_the_negative_bit_are_their_numbers(view, place, kept):
    maml, batch = MAML(network(), lr=0.1, engine="cpu"), task_batch(1, 1, 1, ragged=True)
    if kept:
        maml.backward(batch)
    tensors = [*vars(batch.support).values(), *vars(batch.query).values()]
    _, wanted = by_autograd(maml, batch)
    tensors[place] = view(tensors[place])
    assert tensors[place].is_neg()
    given = TaskBatch(Samples(*tensors[:3]), Samples(*tensors[3:]))
    maml.zero_grad()
    maml.backward(given)
    torch.testing.assert_close(gradients(maml), wanted)
    maml.zero_grad()
    maml.meta_loss(given).backward()
    torch.testing.assert_close(gradients(maml), wanted)
    adapted = [maml.adapt_tasks(each)(batch.query.x) for each in (given.support, batch.support)]
    torch.testing.assert_close(*adapted)


@pytest.mark.usefixtures("told_by")
def test_parameters_and_gradients_of_the_negative_bit_are_their_numbers():
    maml, batch = MAML(network(), lr=0.1, engine="cpu"), task_batch()
    maml.backward(batch)
    once, weight = gradients(maml), maml.model[0].weight
    weight.grad = negative(weight.grad)
    maml.backward(batch)
    torch.testing.assert_close(gradients(maml), 2 * once)
    maml.zero_grad()
    weight.data = torch._neg_view(weight.data)  # at the same address
    assert weight.is_neg()
    _, wanted = by_autograd(MAML(network_of(weight, maml.model), lr=0.1, engine="cpu"), batch)
    maml.backward(batch)
    torch.testing.assert_close(gradients(maml), wanted)


def network_of(weight, other):
    """A network with these numbers in its first weight, and otherwise those of another."""
    made = network()
    made.load_state_dict({**other.state_dict(), "0.weight": weight.detach().resolve_neg()})
    return made


def functional(tensor):
    return torch._to_functional_tensor(tensor)


def fake(tensor):
    return FakeTensorMode().from_tensor(tensor)


def of_mkldnn(tensor):
    return tensor.float().to_mkldnn()


@pytest.mark.usefixtures("told_by")
@pytest.mark.filterwarnings("ignore:Accessing the data pointer")
@pytest.mark.parametrize("kind", [functional, fake, of_mkldnn])
@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("kept", [False, True])
def test_samples_without_memory_are_refused(kind, place, kept):
    maml = MAML(network(dtype=torch.float32), engine="cpu")
    batch = task_batch(ragged=True, dtype=torch.float32)
    if kept:
        maml.backward(batch)
        maml.zero_grad()
    tensors = [*vars(batch.support).values(), *vars(batch.query).values()]
    tensors[place] = kind(tensors[place])
    given = TaskBatch(Samples(*tensors[:3]), Samples(*tensors[3:]))
    for call in (maml.backward, maml.meta_loss):
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            call(given)
    assert all(p.grad is None for p in maml.parameters())


def test_bad_data_leave_gradients_alone():
    maml, batch = MAML(network(), engine="cpu"), task_batch()
    maml.backward(batch)
    before = gradients(maml)
    batch.query.x[1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match=r"query.x: holds NaN or infinity, first in sample 2 of task 1"):
        maml.backward(batch)
    torch.testing.assert_close(gradients(maml), before, rtol=0, atol=0)
    labelled = MAML(network(), loss="cross_entropy", engine="cpu")
    batch = task_batch(loss="cross_entropy")
    batch.support.y[0, 0] = 2
    with pytest.raises(ValueError, match="out of range"):
        labelled.backward(batch)
    assert all(p.grad is None for p in labelled.parameters())


def test_divergence_shows_in_loss_and_gradients():
    maml, batch = MAML(network(activation=torch.nn.ReLU), lr=1e200, steps=3, engine="cpu"), task_batch()
    assert not maml.backward(batch).isfinite()
    assert not gradients(maml).isfinite().all()
    done = maml.accumulate(batch, overwrite=True)
    assert not done.finite


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_in_no_grad_and_inference_mode(context):
    maml, batch = MAML(network(), engine="cpu"), task_batch()
    _, wanted = by_autograd(maml, batch)
    with context():
        maml.backward(batch)
    torch.testing.assert_close(gradients(maml), wanted, rtol=0, atol=0)
    assert not any(p.grad.is_inference() for p in maml.parameters())


def test_a_learned_inner_lr_has_its_gradient():
    maml, batch = MAML(network(), lr=0.1, learn_lr="parameter"), task_batch()
    _, wanted = by_autograd(maml, batch)
    maml.backward(batch)
    torch.testing.assert_close(gradients(maml), wanted, rtol=0, atol=0)
    assert maml.inner_lr.grad.abs().sum() > 0


def transposed_twice(samples):
    return Samples(samples.x.transpose(0, 1).contiguous().transpose(0, 1), samples.y)


def of_inference(samples):
    with torch.inference_mode():
        return Samples(samples.x.clone(), samples.y.clone())


def subclassed(samples):
    class Named(torch.Tensor):
        pass

    return Samples(samples.x.as_subclass(Named), samples.y)


def sliced(samples):
    return Samples(torch.cat([samples.x, samples.x])[: len(samples.x)], samples.y)


def weighted(samples):
    return Samples(samples.x, samples.y, torch.arange(samples.y[..., 0].numel()).view(samples.y.shape[:2]).double() + 1)


@pytest.mark.usefixtures("told_by")
def test_each_meta_batch_is_looked_at_anew(used):
    maml = MAML(network(), lr=0.1, engine="cpu")
    kinds = [transposed_twice, of_inference, subclassed, sliced, weighted]
    for kind in [kinds[0], *kinds, kinds[0]]:
        for tasks, support, query in ((3, 5, 4), (2, 5, 4), (2, 6, 4), (2, 6, 3)):
            batch = task_batch(tasks, support, query)
            for given in (
                batch,
                TaskBatch(kind(batch.support), batch.query),
                TaskBatch(batch.support, kind(batch.query)),
            ):
                loss_wanted, wanted = by_autograd(maml, given)
                torch.testing.assert_close(maml.backward(given), loss_wanted)
                torch.testing.assert_close(gradients(maml), wanted, rtol=0, atol=0)
    assert set(used) == {True}


@pytest.mark.usefixtures("told_by")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda b: TaskBatch(Samples(b.support.x[1:], b.support.y[1:]), b.query), "given 3 tasks, but support.x has 2"),
        (lambda b: TaskBatch(Samples(b.support.x.float(), b.support.y), b.query), "support.x: given torch.float32"),
        (lambda b: TaskBatch(b.support, Samples(b.query.x, b.query.y[..., 0])), "mse takes"),
        (lambda b: TaskBatch(b.support, Samples(b.query.x[..., :2], b.query.y)), "the model takes 3 features"),
        (lambda b: (b.support.x.to("meta"), b.support.y, b.query.x, b.query.y), "given on meta"),
        (lambda b: (b.support.x.to_sparse(), b.support.y, b.query.x, b.query.y), "to_dense"),
        (lambda b: (b.support.x.tolist(), b.support.y, b.query.x, b.query.y), "given a list"),
        (lambda b: TaskBatch(Samples(b.support.x, b.support.y, -b.support.y[..., 0].abs()), b.query), "finite numbers"),
    ],
)
def test_a_wrong_meta_batch_after_right_ones_is_told(wrong, message):
    maml, batch = MAML(network(), engine="cpu"), task_batch()
    maml.backward(batch)
    before = gradients(maml)
    for _ in range(2):
        with pytest.raises((TypeError, ValueError), match=message):
            maml.backward(wrong(batch))
    torch.testing.assert_close(gradients(maml), before, rtol=0, atol=0)


def replaced(maml):
    maml.model[2].weight = torch.nn.Parameter(torch.ones_like(maml.model[2].weight))


def in_place(maml):
    with torch.no_grad():
        maml.model[2].weight.mul_(2)


def moved_to_new_memory(maml):
    maml.model[2].weight.data = maml.model[2].weight.data * 2


def frozen(maml):
    maml.model[2].weight.requires_grad_(False)


def of_first_order(maml):
    maml.rule = FirstOrder()


def single(maml):
    maml.float()


def other_activation(maml):
    maml.model[1] = torch.nn.ReLU()


@pytest.mark.usefixtures("told_by")
@pytest.mark.parametrize(
    "change", [replaced, in_place, moved_to_new_memory, frozen, of_first_order, single, other_activation]
)
def test_a_change_between_two_calls_is_noticed(change, used):
    maml, batch = MAML(network(), lr=0.1, steps=2, engine="cpu"), task_batch()
    maml.backward(batch)
    change(maml)
    batch = batch.to(maml.model[0].weight.dtype)
    loss_wanted, wanted = by_autograd(maml, batch)
    torch.testing.assert_close(maml.backward(batch), loss_wanted)
    torch.testing.assert_close(gradients(maml), wanted, rtol=0, atol=0)
    assert used == [True] * 2


def test_an_image_of_another_size_has_a_model_of_its_own():
    layers = [torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()]
    maml = MAML(torch.nn.Sequential(*layers, torch.nn.Linear(2, 2)), engine="cpu")
    for size in (6, 9, 6):
        x, y = torch.randn(3, 4, 1, size, size), torch.randn(3, 4, 2)
        _, wanted = by_autograd(maml, (x, y, x, y))
        maml.backward((x, y, x, y))
        torch.testing.assert_close(gradients(maml), wanted, rtol=0, atol=0)


def one_step_maml() -> MAML:
    torch.manual_seed(3)
    layers = [nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1)]
    return MAML(nn.Sequential(*layers), lr=0.01, steps=1, loss="mse", engine="cpu")


def line_batch(seed: int, tasks: int = 7) -> TaskBatch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, tasks, 10, 1, generator=generator)
    return TaskBatch(Samples(x[0], x[0].sin()), Samples(x[1], x[1].sin()))


def gradient_of(maml: MAML, batch: TaskBatch) -> list[Tensor]:
    maml.zero_grad()
    maml.backward(batch)
    return [p.grad.clone() for p in maml.parameters() if p.grad is not None]


def test_what_is_kept_between_calls_leaves_no_trace() -> None:
    threads = torch.get_num_threads()
    maml = one_step_maml()
    parameter = next(maml.parameters())
    try:
        for number, seed in enumerate([0, 1, 2, 0, 1, 2]):
            alone = gradient_of(one_step_maml(), line_batch(seed))
            assert all(map(torch.equal, gradient_of(maml, line_batch(seed)), alone))
            if number == 1:  # a batch that leaves NaN wherever it was
                spoilt = line_batch(5)
                spoilt.support.x[6, 3] = torch.nan
                with pytest.raises(ValueError, match=r"support\.x: holds NaN"):
                    maml.backward(spoilt)
            if number == 2:
                torch.set_num_threads(3)
            if number == 3:  # parameters that are not finite, then as they were
                kept = parameter.detach().clone()
                with torch.no_grad():
                    parameter.fill_(torch.inf)
                maml.zero_grad()
                maml.backward(line_batch(4))
                with torch.no_grad():
                    parameter.copy_(kept)
            if number == 4:
                gradient_of(maml, line_batch(1, tasks=3))
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("prefilled", [False, True])
@pytest.mark.parametrize("counts", [(40, 40, 40, 40), (40, 17, 40, 17)], ids=["one form", "two forms"])
def test_no_gradient_of_several_threads_is_lost(counts: tuple[int, ...], prefilled: bool) -> None:
    """Those of two forms have prepared calls of their own, into the same gradients."""
    maml, batches = one_step_maml(), [line_batch(seed, tasks) for seed, tasks in enumerate(counts)]
    wanted = [torch.stack(each).sum(0) for each in zip(*(gradient_of(maml, b) for b in batches), strict=True)]
    start = Barrier(len(batches))

    def work(batch: TaskBatch) -> None:
        start.wait()
        maml.backward(batch)

    with ThreadPoolExecutor(len(batches)) as pool:
        for _ in range(50):
            for p in maml.parameters():
                p.grad = torch.zeros_like(p) if prefilled else None
            list(pool.map(work, batches))
            torch.testing.assert_close([p.grad for p in maml.parameters()], wanted)


def test_a_handler_that_raises_leaves_calls_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error comes out of the making of a gradient, in the midst of a call."""
    maml, batch = one_step_maml(), line_batch(0)
    wanted, empty_like = gradient_of(maml, batch), torch.empty_like

    def interrupted(like: Tensor) -> Tensor:
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "empty_like", interrupted)
    other = one_step_maml()
    with pytest.raises(KeyboardInterrupt):
        other.backward(batch)
    assert all(p.grad is None for p in other.parameters())
    monkeypatch.setattr(torch, "empty_like", empty_like)
    with ThreadPoolExecutor(2) as pool:
        assert all(map(torch.equal, pool.submit(gradient_of, maml, batch).result(60), wanted))


@pytest.mark.parametrize("engine", ["cpu", "reference"])
@pytest.mark.parametrize("way", ["hook", "attribute"])
def test_a_maml_that_its_network_leads_to_is_collected(engine: str, way: str) -> None:
    network = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 1))
    maml = MAML(network, engine=engine)
    maml.backward(line_batch(0))
    assert (maml._current().prepared is not None) == (engine == "cpu")
    if way == "hook":
        network[0].weight.register_hook(lambda grad, maml=maml: None)
    else:
        network.owner = [maml]
    seen = weakref.ref(maml)
    del maml, network
    gc.collect()
    assert seen() is None


def test_calls_from_several_threads_at_once() -> None:
    maml, batches = one_step_maml(), [line_batch(seed) for seed in range(8)]
    alone = [maml.meta_loss(batch).item() for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            assert [loss.item() for loss in pool.map(maml.meta_loss, batches)] == alone
