"""Files that are none, or too large, are refused before they are opened."""

import os
from pathlib import Path

import pytest

from fastmaml.tasks import DatasetError
from fastmaml.tasks.bounded import list_folder, read_file

LIMIT = 100


def a_folder(path):
    path.mkdir()


def a_loop(path):
    path.symlink_to(path)


def a_dangling_link(path):
    path.symlink_to(path.parent / "nowhere")


def a_device(path):
    path.symlink_to("/dev/zero")  # a read of it never ends


def a_large_file(path):
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (a_folder, "is a folder, expected a file"),
        (os.mkfifo, "is a pipe, expected a file"),
        (a_loop, r"cannot be read \(.*symbolic links\)"),
        (a_dangling_link, r"cannot be read \(No such file"),
        (a_device, "is a device, expected a file"),
        (a_large_file, "has 1,099,511,627,776 bytes, allowed are 100"),
    ],
)
def test_what_is_no_file_of_allowed_size_is_refused(tmp_path, make, told):
    make(tmp_path / "x.png")
    with pytest.raises(DatasetError, match=rf"^data: .*x\.png {told}.*; "):
        read_file(tmp_path / "x.png", LIMIT)


@pytest.mark.parametrize("size", [0, 1, LIMIT])
def test_a_file_of_allowed_size_is_read_whole(tmp_path, size):
    (tmp_path / "x").write_bytes(bytes(size))
    (tmp_path / "link").symlink_to(tmp_path / "x")
    assert read_file(tmp_path / "x", LIMIT) == read_file(tmp_path / "link", LIMIT) == bytes(size)


def test_a_file_that_is_longer_than_it_says_is_not_read_on():
    # The kernel's files claim to be empty.
    with pytest.raises(DatasetError, match=r"data: /proc/self/status changed while it was read; try again"):
        read_file(Path("/proc/self/status"), LIMIT)


def test_a_nul_in_a_name(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot be read .*null byte"):
        read_file(tmp_path / "a\0b", LIMIT)


def test_a_folder_is_listed_by_name_and_an_unreadable_one_is_named(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / name).touch()
    assert [path.name for path in list_folder(tmp_path)] == ["a", "b", "c"]
    with pytest.raises(DatasetError, match=r"data: .*/a cannot be listed \(Not a directory\); make it readable"):
        list_folder(tmp_path / "a")
