"""Random splits: disjoint, complete, of the sizes asked for, and the seed's alone."""

import pytest
import torch

from fastmaml.tasks import random_split


def test_parts_are_disjoint_and_complete():
    split = random_split(20, (12, 3, 5), seed=0)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [12, 3, 5]
    everything = torch.cat((split.train, split.validation, split.test))
    assert sorted(everything.tolist()) == list(range(20))
    assert torch.equal(split.train, split.train.sort().values)


def test_the_seed_decides():
    first, again, other = (random_split(50, (30, 10, 10), seed) for seed in (4, 4, 5))
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.test, other.test)


def test_a_part_may_be_empty():
    assert random_split(4, (4, 0, 0), seed=0).test.tolist() == []


@pytest.mark.parametrize("sizes", [(12, 3, 4), (25, -5, 0), (20, 0)])
def test_sizes_must_add_up(sizes):
    with pytest.raises(ValueError, match="add up to 20 classes"):
        random_split(20, sizes, seed=0)
