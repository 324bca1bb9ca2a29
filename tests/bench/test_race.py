"""Learners that train by the clock: the same start, the same gradients, and marks that are recorded."""

from __future__ import annotations

import csv

import pytest
import torch

from bench import race as room
from bench.learners import Race, learned
from bench.race import Mark, judge, marks, race, train_until
from bench.rivals import Absent
from fastmaml.recipes import OmniglotRecipe
from fastmaml.tasks import Episodes


class Blots(OmniglotRecipe):
    """Random images in place of Omniglot."""

    def train_source(self) -> Episodes:
        images = torch.randint(256, (8, 4, 28, 28), dtype=torch.uint8, generator=self.generator())
        return Episodes(images, self.ways, self.shots, self.queries)

    test_source = train_source


RECIPE = Blots(ways=2, filters=4, meta_batch=2, test_tasks=4, test_steps=1, inner_lr=0.1)


def test_marks_end_with_the_time_and_are_densest_at_first():
    found = marks(45, 15)
    assert found[-1] == 45
    assert found[0] == pytest.approx(0.2)
    gaps = [b - a for a, b in zip([0, *found], found, strict=False)]
    assert gaps == sorted(gaps)


def test_training_stops_by_its_own_clock(monkeypatch):
    racer = Race("fastmaml", RECIPE)
    monkeypatch.setattr(room.time, "perf_counter", iter(range(100)).__next__)  # a second passes with every look
    train_until(racer, 3)
    assert (racer.iterations, racer.seconds) == (3, 3)
    train_until(racer, 5)
    assert (racer.iterations, racer.seconds) == (5, 5)


def test_a_race_records_the_start_and_every_mark(monkeypatch, tmp_path):
    monkeypatch.setattr(
        room, "train_until", lambda racer, seconds: (racer.iterate(), setattr(racer, "seconds", seconds))
    )
    found: list[Mark] = []
    race(RECIPE, ["fastmaml"], [0.5, 2.0], found.append)
    assert [(mark.minutes, mark.iterations) for mark in found] == [(0, 0), (0.5, 1), (2.0, 2)]
    assert all(0 <= mark.accuracy <= 1 for mark in found)
    room.write(found, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open() as file:
        assert [float(row["minutes"]) for row in csv.DictReader(file)] == [0, 0.5, 2.0]


def test_both_learners_start_alike_and_learn2learn_takes_the_exact_gradient():
    try:
        theirs = Race("learn2learn", RECIPE)
    except Absent as absence:
        pytest.skip(str(absence))
    ours = Race("fastmaml", RECIPE)
    assert judge(ours).accuracy == pytest.approx(judge(theirs).accuracy, abs=0.26)  # which parameters adapt differs
    starts = [torch.cat([p.detach().flatten() for p in racer.parameters]) for racer in (ours, theirs)]
    assert torch.equal(*starts)
    batch = theirs.tasks.sample(3, theirs.generator)
    theirs.learner.step(batch)
    network = RECIPE.model()
    from fastmaml import MAML

    MAML(network, lr=RECIPE.inner_lr, steps=1, loss="cross_entropy", engine="reference").meta_loss(batch).backward()
    for own, other in zip(learned(network), theirs.parameters, strict=True):
        assert torch.allclose(own.grad, other.grad, rtol=1e-3, atol=1e-6)
