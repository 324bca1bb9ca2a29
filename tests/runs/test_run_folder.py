"""A run's folder is locked without harm to what others put into it, and cleared of what a killed run left."""

import os

import pytest

from fastmaml.runs.checkpoint import CheckpointError
from fastmaml.runs.run_folder import RunFolder


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run", keep=2)


def test_a_lock_that_is_a_link_is_not_followed(run, tmp_path):
    run.path.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run.path / ".lock").symlink_to(victim)
    with pytest.raises(CheckpointError, match=r"\.lock: is a symbolic link; allowed is a file of the run's own"), run:
        pass
    (run.path / ".lock").unlink()
    (run.path / ".lock").symlink_to(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="symbolic link"), run:
        pass
    assert victim.read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_a_lock_is_not_emptied(run):
    run.path.mkdir()
    (run.path / ".lock").write_text("someone's")
    with run:
        pass
    assert (run.path / ".lock").read_text() == "someone's"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_lock_that_is_no_file_is_named(run, make):
    run.path.mkdir()
    make(run.path / ".lock")
    with pytest.raises(CheckpointError, match=r"\.lock: (is no file|cannot be opened).*Delete it or give another"), run:
        pass


def test_a_file_in_the_folders_place_is_named(run):
    run.path.write_text("")
    with pytest.raises(CheckpointError, match="checkpoints: cannot be made, a file stands in its way"), run:
        pass


def test_what_a_killed_run_was_writing_is_deleted_and_nothing_else(run):
    run.path.mkdir()
    kept = {".lock", "checkpoints", "best.safetensors", "nonfinite-00000003.safetensors", ".table.txt.1.tmp", "x.tmp"}
    for name in kept - {".lock", "checkpoints"} | {
        ".best.safetensors.77.tmp",
        ".nonfinite-00000003.safetensors.77.tmp",
    }:
        (run.path / name).touch()
    with run:
        assert set(os.listdir(run.path)) == kept


def test_a_folder_among_the_checkpoints_does_not_stop_the_next_save(run):
    with run:
        (run.checkpoints / "iteration-00000001.safetensors").mkdir()
        (run.checkpoints / ".x.tmp").mkdir()
        for iteration in (2, 3, 4):
            run.save(iteration, {"iteration": iteration})
        assert len([path for path in run.checkpoints.iterdir() if path.is_file()]) == 2
