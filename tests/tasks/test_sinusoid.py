"""Sinusoid tasks: their distribution, their targets, the oracle's inputs."""

import math

import pytest
import torch

from fastmaml.tasks import Sinusoid

DRAWS = 20_000


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def distance_from_uniform(values, low, high):
    """The Kolmogorov-Smirnov statistic, times the root of the number of values."""
    cdf = (values.double().flatten().sort().values - low) / (high - low)
    steps = torch.arange(len(cdf) + 1, dtype=torch.float64) / len(cdf)
    return float(torch.max((cdf - steps[:-1]).abs().max(), (cdf - steps[1:]).abs().max())) * math.sqrt(len(cdf))


def test_amplitude_phase_and_x_are_uniform_over_the_papers_ranges():
    batch, waves = Sinusoid(1, 1).sample_tasks(DRAWS, seeded())
    drawn = [
        (waves.amplitude, 0.1, 5.0),
        (waves.phase, 0.0, math.pi),
        (batch.support.x, -5.0, 5.0),
        (batch.query.x, -5.0, 5.0),
    ]
    for values, low, high in drawn:
        assert low <= values.min()
        assert values.max() <= high
        assert distance_from_uniform(values, low, high) < 1.63  # 1% level


def test_amplitude_phase_and_points_are_independent():
    batch, waves = Sinusoid(2, 1).sample_tasks(DRAWS, seeded())
    columns = [waves.amplitude, waves.phase, *batch.support.x[..., 0].T, batch.query.x[:, 0, 0]]
    correlation = torch.corrcoef(torch.stack(columns))
    assert (correlation - torch.eye(len(columns))).abs().max() < 4 / math.sqrt(DRAWS)


def test_targets_are_the_waves_at_the_points():
    batch, waves = Sinusoid(10, 7).sample_tasks(50, seeded())
    for samples in (batch.support, batch.query):
        amplitude, phase = waves.amplitude.double()[:, None, None], waves.phase.double()[:, None, None]
        expected = amplitude * torch.sin(samples.x.double() - phase)
        torch.testing.assert_close(samples.y.double(), expected, rtol=1e-6, atol=5e-6)
        torch.testing.assert_close(waves(samples.x), samples.y)


def test_shapes_and_dtypes():
    batch = Sinusoid(shots=5, queries=100).sample(7, seeded())
    batch.check()
    for samples, count in ((batch.support, 5), (batch.query, 100)):
        for tensor in (samples.x, samples.y):
            assert tensor.shape == (7, count, 1)
            assert tensor.dtype == torch.float32
            assert tensor.is_contiguous()
        assert samples.weights is None


def test_support_and_query_points_are_different_draws():
    batch = Sinusoid(10, 10).sample(25, seeded())
    assert not torch.isin(batch.support.x, batch.query.x).any()


def test_the_oracle_is_given_amplitude_and_phase():
    batch, waves = Sinusoid(4, 3, oracle=True).sample_tasks(6, seeded())
    plain = Sinusoid(4, 3).sample(6, seeded())
    for samples, expected in ((batch.support, plain.support), (batch.query, plain.query)):
        assert torch.equal(samples.x[..., :1], expected.x)
        assert torch.equal(samples.y, expected.y)
        assert torch.equal(samples.x[..., 1], waves.amplitude[:, None].expand(-1, samples.x.shape[1]))
        assert torch.equal(samples.x[..., 2], waves.phase[:, None].expand(-1, samples.x.shape[1]))


def test_a_generator_state_gives_the_same_tasks_whatever_the_default_dtype():
    first = Sinusoid().sample(3, seeded(5))
    torch.set_default_dtype(torch.float64)
    try:
        second = Sinusoid().sample(3, seeded(5))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(first.support.y, second.support.y)
    assert not torch.equal(first.support.y, Sinusoid().sample(3, seeded(6)).support.y)


def test_sampling_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    Sinusoid().sample(3, seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_ranges_can_be_set_and_may_be_single_values():
    batch, waves = Sinusoid(amplitude=(2.0, 2.0), phase=(0.0, 0.0), x=(1.0, 1.5)).sample_tasks(100, seeded())
    assert torch.equal(waves.amplitude, torch.full((100,), 2.0))
    assert torch.equal(waves.phase, torch.zeros(100))
    assert 1.0 <= batch.support.x.min() <= batch.support.x.max() <= 1.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shots": 0}, "shots=0"),
        ({"queries": -2}, "queries=-2"),
        ({"shots": 2.0}, r"shots=2\.0"),
        ({"amplitude": (5.0, 0.1)}, "amplitude="),
        ({"phase": (0.0, math.nan)}, "phase="),
        ({"x": (-math.inf, 5.0)}, "x="),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Sinusoid(**arguments)


@pytest.mark.parametrize("method", ["sample", "sample_tasks"])
def test_no_tasks_are_refused(method):
    with pytest.raises(ValueError, match="num_tasks=0"):
        getattr(Sinusoid(), method)(0, seeded())
