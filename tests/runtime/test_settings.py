"""Which attributes of a module count as its settings, and when two of them are the same."""

import functools

import pytest
import torch
from torch import nn

from fastmaml.runtime.settings import is_same, settings_of, written_by_forward


def test_settings_are_what_a_layer_computes_by():
    assert settings_of(nn.Linear(3, 2)) == {"training": True, "in_features": 3, "out_features": 2}
    assert settings_of(nn.Sequential(nn.ReLU())) == {"training": True}
    pool = nn.MaxPool2d([2, 3])
    assert settings_of(pool)["kernel_size"] == [2, 3]
    assert settings_of(pool)["kernel_size"] is not pool.kernel_size


def decorated(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)

    return wrapper


class Base(nn.Module):
    def tell(self):
        self.told = True

    def reset(self):
        self.calls = 0


class Child(Base):
    @decorated
    def forward(self, x):
        def later():
            self.late = x

        self.calls += 1
        self.training = True
        self.tell()
        return x.float()

    def tell(self):
        self.also_told = True
        self.forward  # noqa: B018  # which is seen only once

    def unused(self):
        self.other = True


def test_what_forward_writes_is_found_in_the_methods_that_it_names():
    assert written_by_forward(Child) == {"calls", "also_told", "late"}
    assert written_by_forward(Base) == set()
    assert written_by_forward(nn.BatchNorm1d) == set()


SAME = [(1, 1), (0.5, float("0.5")), ("same", "".join(["sa", "me"])), ((1, (2.5,)), (1, (float("2.5"),)))]
SAME += [([1, 2], [1, 2]), (None, None), (torch.relu, torch.relu), (torch.Size([2]), torch.Size([2]))]
tensor = torch.ones(2)
OTHER = [(1, 1.0), (1, True), ((1,), [1]), ((1,), (1, 2)), ([1], [1, 2]), ([1], [2]), (torch.relu, torch.tanh)]
OTHER += [(tensor, tensor.clone()), ([tensor], [tensor.clone()]), ({}, {}), (object(), object()), ([[1]], [[1]])]


@pytest.mark.parametrize(("now", "seen"), SAME)
def test_the_same(now, seen):
    assert is_same(now, seen)


@pytest.mark.parametrize(("now", "seen"), OTHER)
def test_not_the_same(now, seen):
    assert not is_same(now, seen)


def test_a_list_within_itself_is_compared_to_an_end():
    inner, other = [], []
    inner.append(inner)
    other.append(other)
    assert is_same(inner, [*inner])
    assert not is_same(other, [*inner])
