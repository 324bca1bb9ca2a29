"""Streams of meta-batches: the same as sampling, and resumed exactly."""

import pytest
import torch
from safetensors import torch as safetensors

from fastmaml.tasks import BlockSource, Episodes, Sinusoid, TaskStream


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def episodes():
    images = torch.randint(256, (6, 4, 3, 3), dtype=torch.uint8, generator=seeded())
    return Episodes(images, ways=3, shots=1, queries=2)


SOURCES = {"sinusoid": lambda: Sinusoid(3, 4), "oracle": lambda: Sinusoid(3, 4, oracle=True), "episodes": episodes}


@pytest.fixture(params=SOURCES)
def source(request):
    return SOURCES[request.param]()


def tensors(batch):
    return batch.support.x, batch.support.y, batch.query.x, batch.query.y


def take(stream, count):
    return [tensors(next(stream)) for _ in range(count)]


def assert_same(batches, others):
    for batch, other in zip(batches, others, strict=True):
        for tensor, expected in zip(batch, other, strict=True):
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


@pytest.mark.parametrize("position", [0, 1, 5, 63, 64, 65, 130])
def test_a_resumed_stream_continues_bit_for_bit(source, position):
    stream = source.stream(3, seeded())
    take(stream, position)
    state = safetensors.load(safetensors.save(stream.state_dict()))
    uninterrupted = take(stream, 70)
    resumed = source.stream(3, seeded(99))
    resumed.load_state_dict(state)
    assert_same(take(resumed, 70), uninterrupted)


def test_a_stream_can_be_taken_back_to_an_earlier_place(source):
    stream = source.stream(2, seeded())
    take(stream, 3)
    state = stream.state_dict()
    first = take(stream, 100)
    stream.load_state_dict(state)
    assert_same(take(stream, 100), first)


def test_saving_changes_nothing(source):
    stream, saved = source.stream(2, seeded()), source.stream(2, seeded())
    expected = take(stream, 70)
    for batch in expected:
        saved.state_dict()
        assert_same([tensors(next(saved))], [batch])


def test_a_stream_gives_what_sampling_gives(source):
    generator = seeded()
    for (sx, sy, qx, qy), batch in zip(take(source.stream(5, seeded()), 70), range(70), strict=True):
        expected = source.sample(5, generator)
        assert torch.equal(sx, expected.support.x), batch
        assert torch.equal(qx, expected.query.x), batch
        torch.testing.assert_close(sy, expected.support.y)
        torch.testing.assert_close(qy, expected.query.y)


def test_successive_batches_differ(source):
    first, second = take(source.stream(5, seeded()), 2)
    assert not torch.equal(first[0], second[0])


def test_a_stream_is_an_iterator():
    stream = Sinusoid().stream(2, seeded())
    assert iter(stream) is stream
    assert isinstance(Sinusoid(), BlockSource)
    assert not isinstance(episodes(), BlockSource)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tasks": torch.tensor(4)}, "num_tasks=4, this stream 3"),
        ({"block": torch.tensor(8)}, "block=8, this stream 64"),
        ({"position": torch.tensor(65)}, "position=65, allowed is 0 to block=64"),
        ({"position": torch.tensor(-1)}, "position=-1"),
    ],
)
def test_a_state_of_another_stream_is_refused(change, message):
    stream = Sinusoid().stream(3, seeded())
    with pytest.raises(ValueError, match=message):
        stream.load_state_dict(stream.state_dict() | change)


def test_a_refused_state_leaves_the_stream_as_it_was():
    stream, other = Sinusoid().stream(3, seeded()), Sinusoid().stream(3, seeded())
    take(stream, 2), take(other, 2)
    with pytest.raises(ValueError, match="position"):
        stream.load_state_dict(stream.state_dict() | {"position": torch.tensor(65)})
    assert_same(take(stream, 70), take(other, 70))


def test_a_state_without_an_entry_is_refused():
    stream = Sinusoid().stream(3, seeded())
    state = stream.state_dict()
    del state["generator"]
    with pytest.raises(ValueError, match=r"no \['generator'\]"):
        stream.load_state_dict(state)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, None])
def test_counts_below_one_are_refused(count):
    with pytest.raises(ValueError, match="num_tasks="):
        TaskStream(Sinusoid(), count, seeded())
    with pytest.raises(ValueError, match="block="):
        TaskStream(Sinusoid(), 2, seeded(), block=count)


def test_blocks_need_a_source_that_draws_them():
    with pytest.raises(TypeError, match="Episodes has no sample_block; use block=1"):
        TaskStream(episodes(), 2, seeded(), block=2)
