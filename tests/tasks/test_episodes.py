"""Episodes: what a task may hold, and how evenly it is drawn."""

import pytest
import torch

from fastmaml.tasks import QUARTER_TURNS, Episodes

SIDE = 5


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def labelled_images(classes, samples):
    """Images that say what they are: filled with their class, their sample in the middle, 255 in the corner (0, 0)."""
    images = torch.arange(classes, dtype=torch.uint8)[:, None, None, None].repeat(1, samples, SIDE, SIDE)
    images[:, :, 2, 2] = torch.arange(samples, dtype=torch.uint8)
    images[:, :, 0, 0] = 255
    return images


def read(samples, ways):
    """Class, sample and angle of each image, each [T, ways, samples of a class]."""
    images = (samples.x * 255).round().to(torch.uint8)[:, :, 0]
    corners = torch.stack([images[..., row, column] for row, column in ((0, 0), (-1, 0), (-1, -1), (0, -1))], -1)
    angle = (corners == 255).int().argmax(-1) * 90
    return [part.unflatten(1, (ways, -1)).long() for part in (images[..., 2, 1], images[..., 2, 2], angle)]


def test_a_batch_is_what_it_says():
    batch = Episodes(labelled_images(7, 6), ways=4, shots=2, queries=3).sample(5, seeded())
    batch.check()
    assert batch.support.x.shape == (5, 8, 1, SIDE, SIDE)
    assert batch.query.x.shape == (5, 12, 1, SIDE, SIDE)
    assert batch.support.x.dtype == batch.query.x.dtype == torch.float32
    assert batch.support.y.tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]] * 5
    assert batch.query.y.tolist() == [[0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]] * 5
    assert batch.support.y.dtype == torch.int64
    assert all(part.is_contiguous() for samples in (batch.support, batch.query) for part in (samples.x, samples.y))


def test_moved_episodes_are_drawn_on_their_device_and_the_first_stay():
    """On the meta device, whose tensors have shapes but no numbers."""
    episodes = Episodes(torch.zeros(6, 4, 5, 5, dtype=torch.uint8), ways=3, shots=1, queries=2, rotations=QUARTER_TURNS)
    moved = episodes.to("meta")
    assert (episodes.device.type, moved.device.type) == ("cpu", "meta")
    batch = moved.sample(2, seeded())
    assert batch.support.x.shape == (2, 3, 1, 5, 5)
    assert {t.device.type for s in (batch.support, batch.query) for t in (s.x, s.y)} == {"meta"}
    assert episodes.sample(2, seeded()).support.x.device.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")
def test_a_run_on_a_gpu_draws_there():
    from fastmaml.training.arguments import open_stream

    episodes = Episodes(torch.randint(256, (6, 4, 5, 5), dtype=torch.uint8), ways=3, shots=1).to("cuda")
    first, again = (next(open_stream(episodes, 2, seed=3)) for _ in range(2))
    assert first.support.x.is_cuda
    assert torch.equal(first.query.x, again.query.x)


@pytest.mark.parametrize("rotations", [(0,), QUARTER_TURNS])
def test_classes_are_distinct_and_no_sample_is_in_both_sets(rotations):
    batch = Episodes(labelled_images(6, 5), 4, 2, 3, rotations).sample(200, seeded())
    support_class, support_sample, support_angle = read(batch.support, 4)
    query_class, query_sample, query_angle = read(batch.query, 4)
    of_class = support_class[:, :, 0]
    assert (support_class == of_class[..., None]).all()
    assert (query_class == of_class[..., None]).all()
    assert all(len(set(task)) == 4 for task in of_class.tolist())
    samples = torch.cat((support_sample, query_sample), -1).sort(-1).values
    assert torch.equal(samples, torch.arange(5).expand_as(samples))  # all five samples of the class, each once
    angles = torch.cat((support_angle, query_angle), -1)
    assert (angles == angles[..., :1]).all()
    assert set(angles.flatten().tolist()) == set(rotations)


def test_images_are_the_originals_turned():
    images = torch.randint(256, (1, 1, 4, 4), dtype=torch.uint8, generator=seeded())
    doubled = images.repeat(1, 2, 1, 1)
    for angle in QUARTER_TURNS:
        x = Episodes(doubled, 1, 1, 1, (angle,)).sample(1, seeded()).query.x
        assert torch.equal(x[0, 0, 0], torch.rot90(images[0, 0], angle // 90).float() / 255)


def test_values_span_zero_to_one_exactly():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, 2, 1, 1)
    x = Episodes(images, 1, 1).sample(1, seeded()).support.x
    assert torch.equal(x.flatten(), torch.arange(256) / 255)


def test_every_class_sample_label_and_angle_comes_equally_often():
    ways, tasks = 3, 20_000
    batch = Episodes(labelled_images(6, 4), ways, 1, 2, QUARTER_TURNS).sample(tasks, seeded())
    klass, sample, angle = read(batch.support, ways)
    for label in range(ways):
        for values, options in ((klass, 6), (sample, 4), (angle // 90, 4)):
            counts = torch.bincount(values[:, label].flatten(), minlength=options)
            expected = tasks / options
            assert ((counts - expected).abs() < 5 * expected**0.5).all()


def test_classes_of_a_task_are_drawn_independently_of_their_labels():
    """All ordered pairs of classes come equally often: labels are shuffled, not sorted by class."""
    batch = Episodes(labelled_images(4, 2), 2, 1).sample(24_000, seeded())
    first, second = read(batch.support, 2)[0][..., 0].T
    counts = torch.bincount(first * 4 + second, minlength=16).view(4, 4)
    assert counts.diagonal().sum() == 0
    assert (counts[~torch.eye(4, dtype=torch.bool)] - 2000).abs().max() < 5 * 2000**0.5


@pytest.mark.parametrize(("classes", "ways"), [(60, 20), (60, 50), (200, 3)])
def test_labels_say_nothing_of_the_class(classes, ways):
    """Drawing many of many goes another way than drawing few: the order must be random there too."""
    klass = read(Episodes(labelled_images(classes, 2), ways, 1).sample(2000, seeded()).support, ways)[0][..., 0]
    labels = torch.arange(ways).expand_as(klass)
    correlation = torch.corrcoef(torch.stack((klass.flatten(), labels.flatten())).double())[0, 1]
    assert abs(correlation) < 4 / klass.numel() ** 0.5


def test_all_classes_and_all_samples_can_be_used():
    batch = Episodes(labelled_images(3, 4), ways=3, shots=1, queries=3).sample(10, seeded())
    classes = read(batch.query, 3)[0][..., 0].sort(-1).values
    assert torch.equal(classes, torch.arange(3).expand_as(classes))


def test_as_many_queries_as_shots_by_default():
    batch = Episodes(labelled_images(3, 10), 2, 4).sample(1, seeded())
    assert batch.query.x.shape == batch.support.x.shape == (1, 8, 1, SIDE, SIDE)


def test_colour_images_keep_their_channels():
    images = torch.randint(256, (2, 2, 3, 4, 6), dtype=torch.uint8, generator=seeded())
    batch = Episodes(images, 2, 1, rotations=(180,)).sample(1, seeded())
    assert batch.support.x.shape == (1, 2, 3, 4, 6)
    expected = torch.rot90(images, 2, (-2, -1)).flatten(0, 1).float() / 255
    assert all((image == expected).flatten(1).all(1).any() for image in batch.support.x[0])


def test_a_generator_state_gives_the_same_tasks_and_images_stay_as_they_are():
    images = labelled_images(6, 4).transpose(-1, -2)  # not contiguous
    before = images.clone()
    source = Episodes(images, 3, 1, 2, QUARTER_TURNS)
    first = source.sample(8, seeded(1))
    first.support.x.zero_()
    first.support.y.zero_()
    again, other = source.sample(8, seeded(1)), source.sample(8, seeded(2))
    assert torch.equal(again.query.x, first.query.x)
    assert again.support.x.any()
    assert again.support.y.any()
    assert not torch.equal(again.query.x, other.query.x)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(2, 2, 4, 4), TypeError, r"images is torch\.float32: give a torch\.uint8"),
        ([[1]], TypeError, "images is list"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), ValueError, r"images has shape \(2, 4, 4\)"),
        (torch.zeros(0, 2, 4, 4, dtype=torch.uint8), ValueError, "none of them zero"),
    ],
)
def test_bad_images_are_named(images, error, message):
    with pytest.raises(error, match=message):
        Episodes(images, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ways": 4}, "ways=4, but images holds 3 classes"),
        ({"ways": 0}, "ways=0"),
        ({"shots": 0}, "shots=0"),
        ({"queries": 0}, "queries=0"),
        ({"shots": 3, "queries": 2}, "shots=3 and queries=2 need 5 samples of a class, but images holds 4"),
        ({"shots": 3}, "shots=3 and queries=3 need 6"),
        ({"rotations": ()}, "rotations="),
        ({"rotations": (0, 45)}, r"rotations=\(0, 45\)"),
        ({"rotations": (90, 90)}, "each once"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Episodes(labelled_images(3, 4), **({"ways": 2, "shots": 1} | arguments))


def test_images_that_are_not_square_take_no_quarter_turns():
    with pytest.raises(ValueError, match="of 4×6 images: only square images"):
        Episodes(torch.zeros(2, 2, 4, 6, dtype=torch.uint8), 1, 1, rotations=QUARTER_TURNS)


def test_no_tasks_are_refused():
    with pytest.raises(ValueError, match="num_tasks=0"):
        Episodes(labelled_images(3, 4), 2, 1).sample(0, seeded())
