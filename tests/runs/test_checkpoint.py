"""Checkpoints are whole or absent, and say clearly what is wrong with them."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from safetensors.torch import save_file

from fastmaml.runs import checkpoint
from fastmaml.runs.checkpoint import CheckpointError
from tests.small_runs import ROOT, network, regression, same

WEIGHT = torch.arange(6.0).reshape(2, 3)
STATE = {"iteration": 7, "model": {"weight": WEIGHT}, "settings": {"lr": 0.1, "betas": (0.9, 1)}}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    checkpoint.save(path, STATE)
    return path


def test_comes_back_as_it_was_saved(path):
    state = checkpoint.load(path)
    assert torch.equal(state["model"].pop("weight"), WEIGHT)
    assert state == {**STATE, "model": {}}
    assert os.listdir(path.parent) == [path.name]


def test_is_a_safetensors_file_with_json(path):
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["model/weight"]
        assert "iteration" in str(json.loads(file.metadata()["fastmaml"]))


def test_what_it_loads_outlives_the_file(path):
    state = checkpoint.load(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(state["model"]["weight"], WEIGHT)


def test_cut_short_anywhere_is_an_error_that_names_the_file(path):
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: .*delete it and run again"):
            checkpoint.load(path)


def test_a_flipped_bit_anywhere_is_an_error_that_names_the_file(path):
    whole = bytearray(path.read_bytes())
    for place in range(len(whole)):
        whole[place] ^= 1 << place % 8
        path.write_bytes(whole)
        with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: "):
            checkpoint.load(path)
        whole[place] ^= 1 << place % 8


def test_absent_foreign_and_newer_files_are_told_apart(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(CheckpointError, match=r"x\.safetensors: there is no such checkpoint"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path)
    path.write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="cut short or no checkpoint"):
        checkpoint.load(path)
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match="no checkpoint of fastmaml"):
        checkpoint.load(path)
    save_file({"weight": torch.zeros(1)}, path, {"fastmaml": "{}", "format": "99"})
    with pytest.raises(CheckpointError, match="has format 99, this fastmaml reads 1"):
        checkpoint.load(path)


def written(path, text, tensors=None):
    """A checkpoint whose checksum is right, whatever its JSON."""
    tensors = tensors or {}
    metadata = {"fastmaml": text, "format": "1", "crc32": checkpoint._checksum(text, tensors)}
    path.write_bytes(to_bytes(tensors, metadata))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000 + "]" * 100_000, "9" * 5000, "{", '{"$tensor": "x"}', '{"$dict": [[{"$dict": []}, 1]]}', "{}"],
    ids=["deep", "5,000 digits", "no JSON", "no such tensor", "a dict as a key", "no tag"],
)
def test_a_state_that_was_never_saved_is_an_error_that_names_the_file(path, text):
    written(path, text)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: holds no state that fastmaml wrote \(.+\)"):
        checkpoint.load(path)


def test_a_state_is_a_dict(path):
    written(path, "[1]")
    with pytest.raises(CheckpointError, match="holds list; allowed is a dict"):
        checkpoint.load(path)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"pipe: cannot be read, it is a named pipe; allowed is a file\. Move it"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError, match="it is a folder"):
        checkpoint.load(tmp_path)


def test_links_are_followed_where_they_lead_to_a_checkpoint(path, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(path)
    assert checkpoint.load(link)["iteration"] == 7
    path.unlink()
    with pytest.raises(CheckpointError, match=r"there is no such checkpoint, .*checkpoint\.safetensors to which it"):
        checkpoint.load(link)
    link.unlink()
    link.symlink_to(link)
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(link)


def test_a_write_does_not_go_through_a_link_in_the_place_of_its_temporary_file(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / f".c.{os.getpid()}.tmp").symlink_to(victim)
    checkpoint.save(tmp_path / "c", STATE)
    assert checkpoint.load(tmp_path / "c")["iteration"] == 7
    assert victim.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["c", "victim"]


def test_a_failed_write_leaves_the_former_one_and_no_litter(path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors: cannot be written .*No space left"):
        checkpoint.save(path, {"iteration": 8})
    assert checkpoint.load(path)["iteration"] == 7
    assert os.listdir(path.parent) == [path.name]


SAVE_AND_DIE = """
import sys
from fastmaml.runs import checkpoint
from tests.small_runs import die_in
die_in(sys.argv[2], int(sys.argv[3]))
checkpoint.save(sys.argv[1], {"iteration": 8})
"""


@pytest.mark.parametrize(("function", "call", "survivor"), [("fsync", 1, 7), ("replace", 1, 7), ("fsync", 2, 8)])
def test_killed_while_writing_leaves_the_old_or_the_new_one_whole(path, function, call, survivor):
    arguments = [sys.executable, "-c", SAVE_AND_DIE, str(path), function, str(call)]
    process = subprocess.run(arguments, cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    assert checkpoint.load(path)["iteration"] == survivor


def test_numbered_sorts_by_iteration_and_ignores_other_files(tmp_path):
    for iteration in (5, 100_000_000, 20):
        checkpoint.save(checkpoint.path_of(tmp_path, iteration), {"iteration": iteration})
    for name in (
        "iteration-7.safetensors",
        "iteration-00000030.safetensors.bak",
        ".iteration-00000031.safetensors.1.tmp",
    ):
        (tmp_path / name).touch()
    assert [checkpoint.load(path)["iteration"] for path in checkpoint.numbered(tmp_path)] == [5, 20, 100_000_000]


def test_prune_keeps_the_last_and_removes_interrupted_writes(tmp_path):
    for iteration in range(4):
        checkpoint.save(checkpoint.path_of(tmp_path, iteration), {})
    (tmp_path / ".iteration-00000009.safetensors.1.tmp").touch()
    (tmp_path / "notes.txt").touch()
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(os.listdir(tmp_path)) == [
        "iteration-00000002.safetensors",
        "iteration-00000003.safetensors",
        "notes.txt",
    ]


def test_load_model_restores_a_model_and_gives_the_rest(tmp_path):
    path, saved, other = tmp_path / "model.safetensors", regression(seed=1), regression(seed=2)
    checkpoint.save(path, {"model": saved.state_dict(), "config": {"ways": 5}})
    assert checkpoint.load_model(path, other)["config"] == {"ways": 5}
    assert same(other.state_dict(), saved.state_dict())


def test_a_model_is_a_dict(tmp_path):
    checkpoint.save(tmp_path / "c", {"model": [1]})
    with pytest.raises(CheckpointError, match="'model' is list; allowed is a dict of tensors"):
        checkpoint.load_model(tmp_path / "c", network(1, 1))


def test_a_config_is_a_dict_of_names(path):
    assert checkpoint.load_config(path) == {}
    for config in ([1], {3: 4}, "x"):
        checkpoint.save(path, {"config": config})
        with pytest.raises(CheckpointError, match=r"'config' is .*; allowed is a dict of names"):
            checkpoint.load_config(path)


def test_another_model_is_refused_naming_the_tensors(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, {"model": network(1, 1).state_dict()})
    with pytest.raises(CheckpointError, match=r"'0\.weight' is float32 \[8, 1\] in the file and float32 \[8, 2\] here"):
        checkpoint.load_model(path, network(2, 1))
    with pytest.raises(CheckpointError, match=r"'0\.bias' is float32 \[8\] in the file and float64 \[8\] here.*1 more"):
        checkpoint.load_model(path, network(1, 1).double())
    with pytest.raises(CheckpointError, match=r"'4\.weight' is absent in the file"):
        checkpoint.load_model(path, network(1, 1).append(torch.nn.Tanh()).append(torch.nn.Linear(1, 1)))
