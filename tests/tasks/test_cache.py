"""Caches: stored whole, found by their sources, never used when damaged."""

import os

import numpy as np
import pytest

from fastmaml.tasks import cache


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "kept"))
    return cache.path_for("things", ["a", "b"])


ARRAYS = {"numbers": np.arange(1000), "names": np.array(["x", "y"])}


def test_arrays_come_back(path):
    assert cache.load(path, ARRAYS) is None
    cache.store(path, ARRAYS)
    loaded = cache.load(path, ARRAYS)
    assert all(np.array_equal(loaded[name], ARRAYS[name]) for name in ARRAYS)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_other_sources_have_another_file(path):
    assert cache.path_for("things", ["a", "b"]) == path
    assert cache.path_for("things", ["a", "c"]) != path


def test_the_folder_is_the_users_cache_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTMAML_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.path_for("things", []).parent == tmp_path / "fastmaml"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.path_for("things", []).parent == tmp_path / ".cache" / "fastmaml"


@pytest.mark.parametrize("kept", [0, 1, 0.1, 0.5, 0.99])
def test_a_file_cut_short_is_not_used(path, kept):
    cache.store(path, ARRAYS)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else -1])
    assert cache.load(path, ARRAYS) is None


def test_a_flipped_byte_is_noticed(path):
    cache.store(path, ARRAYS)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    assert cache.load(path, ARRAYS) is None


@pytest.mark.filterwarnings("ignore:Data type alias")  # numpy's, of a damaged header
def test_damage_is_survived(path):
    cache.store(path, ARRAYS)
    content = path.read_bytes()
    table = content.index(b"PK\1\2")
    every = range(8 * table, 8 * (table + 46))  # bits of the table's first entry, without its name
    some = range(3, 8 * content.index(ARRAYS["numbers"].tobytes()), 19)  # of what precedes the first array's numbers
    outcomes = []
    for bit in [*every, *some]:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        loaded = cache.load(path, ARRAYS)
        outcomes.append(loaded is None)
        assert loaded is None or all(np.array_equal(loaded[name], ARRAYS[name]) for name in ARRAYS)
    assert {True, False} == set(outcomes)  # a bit of a date, for one, changes no array


def test_an_array_that_is_longer_than_its_header_says_is_not_used(path):
    cache.store(path, ARRAYS)
    content = path.read_bytes()
    assert content.count(b"(1000,)") == 1
    path.write_bytes(content.replace(b"(1000,)", b"(100,) "))
    assert cache.load(path, ARRAYS) is None


def test_a_source_whose_name_is_not_utf_8_has_a_file_too(path):
    assert len({cache.path_for("things", [os.fsdecode(name)]) for name in (b"\xff", b"\xfe")}) == 2


def test_a_file_without_an_array_is_not_used(path):
    cache.store(path, {"numbers": ARRAYS["numbers"]})
    assert cache.load(path, ARRAYS) is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTMAML_CACHE", str(tmp_path / "file" / "within"))
    path = cache.path_for("things", [])
    cache.store(path, ARRAYS)
    assert cache.load(path, ARRAYS) is None


def test_an_interrupted_store_leaves_nothing(path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.store(path, ARRAYS)
    assert list(path.parent.iterdir()) == []
