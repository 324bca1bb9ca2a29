"""A generator's state is taken where it was left, and refused where torch would read beyond its words."""

import pytest
import torch

from fastmaml.runs.random_state import check_state, set_state


@pytest.mark.parametrize("drawn", [0, 1, 100, 623, 624, 625])
def test_any_state_of_a_generator_is_taken(drawn):
    generator, other = torch.Generator().manual_seed(1), torch.Generator()
    torch.rand(drawn, generator=generator)
    torch.randn(7, generator=generator)
    set_state(other, generator.get_state())
    assert torch.equal(torch.rand(9, generator=generator), torch.rand(9, generator=other))


def test_a_place_beyond_the_words_is_refused():
    generator = torch.Generator()
    state = generator.get_state()
    state[8:12].view(torch.int32)[0] = 600  # words left
    state[16:24].view(torch.int64)[0] = 600  # the next one
    generator.clone_state().set_state(state)  # torch takes it
    with pytest.raises(ValueError, match="has 600 words left and the next is 600; allowed is a sum of 625"):
        check_state(state)


@pytest.mark.parametrize("state", [None, [1], torch.zeros(5056), torch.zeros(2, 3, dtype=torch.uint8)])
def test_what_is_no_state_is_refused(state):
    with pytest.raises(ValueError, match=r"random state: given .*; allowed is torch\.uint8"):
        check_state(state)


@pytest.mark.parametrize("state", [torch.zeros(12, dtype=torch.uint8), torch.zeros(5056, dtype=torch.uint8)])
def test_what_a_generator_refuses_is_a_value_error(state):
    with pytest.raises(ValueError, match="random state"):
        set_state(torch.Generator(), state)
