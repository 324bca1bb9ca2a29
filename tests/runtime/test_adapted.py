"""MAML.adapt_steps gives what adapting anew for each number of steps gives, at the cost of the last."""

import pytest
import torch

from fastmaml import MAML
from fastmaml.engines.reference import ReferenceEngine
from tests.problems import ON_CPU, network, relative_error, samples


class Counting(ReferenceEngine):
    """Keeps how many inner steps each call of `adapt` took."""

    def __init__(self):
        self.taken = []

    def adapt(self, plan, parameters, inner_lr, support, steps):
        self.taken.append(steps)
        return super().adapt(plan, parameters, inner_lr, support, steps)


@pytest.mark.parametrize("engine", ON_CPU)
@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("learn_lr", [False, "parameter", "element"])
def test_each_step_is_that_of_adapting_anew(engine, ragged, learn_lr):
    maml = MAML(network(), lr=0.1, loss="cross_entropy", engine=engine, learn_lr=learn_lr)
    support, x = samples(loss="cross_entropy", ragged=ragged), samples().x
    seen = 0
    for steps, adapted in enumerate(maml.adapt_steps(support, 4)):
        anew = maml.adapt_tasks(support, steps)
        assert adapted.losses.shape == (3, steps)
        assert relative_error(adapted.parameters, anew.parameters) < 1e-12
        assert relative_error(adapted.losses, anew.losses) < 1e-12
        assert relative_error(adapted(x), anew(x)) < 1e-12
        assert not adapted.parameters.requires_grad
        seen += 1
    assert seen == 5


def test_steps_are_taken_when_asked_for_and_once_each():
    engine = Counting()
    after = MAML(network(), steps=3, engine=engine).adapt_steps(samples())
    assert engine.taken == [0]
    next(after)
    next(after)
    assert engine.taken == [0, 1]
    assert len(list(after)) == 2
    assert engine.taken == [0, 1, 1, 1]


def test_the_start_is_that_of_the_call():
    maml, support = MAML(network(), lr=0.1), samples()
    wanted = maml.adapt_tasks(support, 2)
    after = maml.adapt_steps(support, 2)
    with torch.no_grad():
        maml.model[0].weight.zero_()
    assert relative_error(list(after)[2].parameters, wanted.parameters) < 1e-12


def test_what_was_given_is_not_touched_by_later_steps():
    first, *_ = kept = list(MAML(network(), lr=0.1).adapt_steps(samples(), 3))
    assert len({adapted.parameters.data_ptr() for adapted in kept}) == 4
    assert not torch.equal(first.parameters, kept[1].parameters)


def test_arguments_are_checked_at_the_call():
    maml, support = MAML(network()), samples()
    with pytest.raises(ValueError, match="steps"):
        maml.adapt_steps(support, -1)
    support.x[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"support\.x"):
        list(maml.adapt_steps(support, 1))
