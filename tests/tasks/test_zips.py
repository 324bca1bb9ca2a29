"""Zip files that lie, that are encrypted, or that hold more than they should."""

import struct
import tracemalloc
import zipfile

import pytest

from fastmaml.tasks import DatasetError, zips

NAME = "part/a/b/1.png"
LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


@pytest.fixture
def archive(tmp_path):
    """The function that writes a zip file of one member."""

    def write(content=b"content", method=zipfile.ZIP_DEFLATED):
        path = tmp_path / "x.zip"
        with zipfile.ZipFile(path, "w", method) as file:
            file.writestr(NAME, content)
        return path

    return write


def patch(path, local, central, kind, value):
    """Overwrite a field of both headers, at its place in each."""
    content = bytearray(path.read_bytes())
    for mark, place in ((LOCAL, local), (CENTRAL, central)):
        struct.pack_into(kind, content, content.index(mark) + place, value)
    path.write_bytes(content)


def read(path):
    with zipfile.ZipFile(path) as file:
        return zips.read_member(file, NAME)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("size", [0, 7, zips.MAX_MEMBER_BYTES])
def test_a_member_is_read_whole(archive, method, size):
    assert read(archive(bytes(size), method)) == bytes(size)


def test_an_encrypted_member(archive):
    path = archive()
    patch(path, 6, 8, "<H", 1)
    with pytest.raises(DatasetError, match=rf"data: {NAME} in .*x\.zip is encrypted; extract .* password"):
        read(path)


@pytest.mark.parametrize("method", [9, 12, 14, 99])
def test_a_method_that_is_unknown_or_cannot_be_bounded(archive, method):
    path = archive()
    patch(path, 8, 10, "<H", method)
    with pytest.raises(DatasetError, match=rf"data: {NAME} in .*x\.zip is compressed by method {method}, .*; extract"):
        read(path)


def peak_memory(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_member_that_is_too_large_is_not_read(archive):
    path = archive(bytes(40 * 2**20))

    def refused():
        with pytest.raises(
            DatasetError, match=rf"data: {NAME} in .*x\.zip has 41,943,040 bytes, .* allowed are 1,048,576"
        ):
            read(path)

    assert peak_memory(refused) < 2**20


def test_a_member_that_is_larger_than_it_says_is_not_read_on(archive):
    path = archive(bytes(40 * 2**20))
    patch(path, 22, 24, "<I", 300)

    def refused():
        with pytest.raises(DatasetError, match=rf"data: {NAME} in .*x\.zip is damaged \(Bad CRC-32"):
            read(path)

    assert peak_memory(refused) < 4 * zips.MAX_MEMBER_BYTES


@pytest.mark.parametrize("size", [zips.MAX_ZIP_BYTES + 1, 2**40])
def test_a_zip_file_that_is_too_large_is_not_listed(archive, size):
    path = archive()
    with path.open("r+b") as file:
        file.truncate(size)
    with pytest.raises(DatasetError, match=r"data: .*x\.zip has .* bytes, allowed are 33,554,432"):
        zips.list_members(path)


def test_damage_to_the_table_raises_nothing_else(archive):
    path = archive(bytes(range(256)))
    content, told = path.read_bytes(), []
    for bit in range(8 * content.index(CENTRAL), 8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            if [member.filename for member in zips.list_members(path)] == [NAME]:
                assert read(path) == bytes(range(256))
        except DatasetError as error:
            told.append(str(error))
    assert all(error.startswith("data: ") for error in told)
    for kind in ("cut short", "is damaged", "is encrypted", "by method", "allowed are"):
        assert any(kind in error for error in told)
