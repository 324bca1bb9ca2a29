"""Zip files read within bounds, whatever their headers say."""

from __future__ import annotations

import zipfile
from pathlib import Path

from fastmaml.tasks.bounded import file_status
from fastmaml.tasks.errors import DatasetError, reason

# Omniglot's own zip files take 9.6 and 6.6 MB. The limit bounds the table of members too, which is read first.
MAX_ZIP_BYTES = 32 * 2**20
# Omniglot's drawings take 108 to 486 bytes; as 16-bit RGBA, the deepest PNG, 105×105 pixels take 88 kB.
MAX_MEMBER_BYTES = 2**20
# The methods whose decompression zipfile can stop after so many bytes; bzip2 and LZMA it cannot.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1


def list_members(path: Path) -> list[zipfile.ZipInfo]:
    """The members of a zip file, as its table has them.

    Raises:
        DatasetError: it is larger than MAX_ZIP_BYTES, cut short, or no zip file.
    """
    file_status(path, MAX_ZIP_BYTES)
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist()
    except Exception as error:  # zipfile raises half a dozen kinds on damaged tables
        raise DatasetError(f"data: {path} is cut short or no zip file ({reason(error)}); download it anew") from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The content of a member.

    Raises:
        DatasetError: it is encrypted, compressed by an unknown method, larger than MAX_MEMBER_BYTES, or damaged.
    """
    where = f"data: {name} in {archive.filename}"
    member = archive.getinfo(name)
    if member.flag_bits & _ENCRYPTED:
        raise DatasetError(f"{where} is encrypted; extract the zip file with its password and remove it")
    if member.compress_type not in _METHODS:
        raise DatasetError(
            f"{where} is compressed by method {member.compress_type}, known are 0 (stored) and 8 (deflated); "
            "extract the zip file with another program and remove it"
        )
    if max(member.file_size, member.compress_size) > MAX_MEMBER_BYTES:
        raise DatasetError(
            f"{where} has {member.file_size:,} bytes, {member.compress_size:,} compressed, allowed are "
            f"{MAX_MEMBER_BYTES:,}; download the zip file anew"
        )
    try:
        with archive.open(member) as file:
            return file.read(member.file_size + 1)  # a size given, zipfile decompresses no more than that
    except Exception as error:  # zipfile and zlib raise half a dozen kinds on damaged members
        raise DatasetError(f"{where} is damaged ({reason(error)}); download the zip file anew") from error
