"""Several processes: a gradient that nothing brings together is refused."""

import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from fastmaml import MAML
from tests.problems import network, task_batch


@pytest.fixture
def two_ranks():
    torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
    yield
    torch.distributed.destroy_process_group()


class Step(nn.Module):
    def __init__(self, maml, how="meta_loss"):
        super().__init__()
        self.maml, self.how = maml, how

    def forward(self, batch):
        return getattr(self.maml, self.how)(batch)


WAYS = {
    "meta_loss": lambda maml, batch: maml.meta_loss(batch),
    "backward": lambda maml, batch: maml.backward(batch),
    "behind a wrapper": lambda maml, batch: DistributedDataParallel(maml).module.meta_loss(batch),
    "backward behind a wrapper": lambda maml, batch: DistributedDataParallel(maml).module.backward(batch),
    "backward inside a wrapper": lambda maml, batch: DistributedDataParallel(Step(maml, "backward"))(batch),
    "compiled": lambda maml, batch: torch.compile(lambda b: maml.meta_loss(b), backend="eager")(batch),
}


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize("learn_lr", [False, "parameter"])
@pytest.mark.parametrize("way", WAYS)
def test_a_gradient_of_ones_own_is_refused(way, learn_lr):
    maml = MAML(network(), learn_lr=learn_lr)
    with pytest.raises(RuntimeError, match=r"group: 2 processes train.*fully_shard wraps, or say group=None"):
        WAYS[way](maml, task_batch())
    assert all(p.grad is None for p in maml.parameters())


@pytest.mark.usefixtures("two_ranks")
def test_who_says_so_reduces_gradients_alone():
    maml, batch = MAML(network()), task_batch()
    assert torch.equal(maml.backward(batch, group=None), maml.meta_loss(batch, group=None))
    with torch.no_grad():
        maml.meta_loss(batch)
    maml.adapt_tasks(batch.support)
    with pytest.raises(TypeError, match="group: given str; allowed is None"):
        maml.backward(batch, group="world")


@pytest.mark.usefixtures("two_ranks")
def test_inside_a_wrapper_nothing_is_refused():
    DistributedDataParallel(Step(MAML(network())))(task_batch()).backward()


def test_one_process_is_never_refused():
    torch.distributed.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    try:
        MAML(network()).backward(task_batch())
    finally:
        torch.distributed.destroy_process_group()


PROGRAM = """
    import sys, torch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from fastmaml import MAML
    from tests.problems import gradients, network, task_batch
    rank, place = int(sys.argv[1]), sys.argv[2]
    torch.distributed.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model, whole = network(), task_batch(tasks=4)
    mine = [s[rank::2] for s in (whole.support.x, whole.support.y, whole.query.x, whole.query.y)]

    class Step(nn.Module):
        def __init__(self, maml):
            super().__init__()
            self.maml = maml

        def forward(self, *batch):
            return self.maml.meta_loss(batch)

    def sharded(step):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        fully_shard(step, mesh=init_device_mesh("cpu", (2,)))
        return step

    maml = MAML(model, lr=0.1, steps=2)
    maml.backward(whole, group=None)
    wanted = gradients(maml)
    for how in ("meta_loss", "backward"):
        inside = MAML(DistributedDataParallel(network()), lr=0.1, steps=2)
        inside.model.module.load_state_dict(model.state_dict())
        loss = getattr(inside, how)(mine)
        if how == "meta_loss":
            loss.backward()
        torch.testing.assert_close(gradients(inside), wanted)
    for wrap in (DistributedDataParallel, sharded):
        maml.zero_grad()
        step = wrap(Step(maml))
        step(*mine).backward()
        grads = [p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad for p in step.parameters()]
        torch.testing.assert_close(torch.cat([g.flatten() for g in grads]), wanted)
    torch.distributed.destroy_process_group()
"""


def test_two_processes_have_the_gradient_of_the_whole_batch(tmp_path, pytestconfig):
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            cwd=pytestconfig.rootpath,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
