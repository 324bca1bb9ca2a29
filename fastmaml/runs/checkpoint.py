"""Checkpoints: one safetensors file each, written whole or not at all, nothing pickled."""

from __future__ import annotations

import json
import os
import re
import stat
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from fastmaml.runs.packing import pack, unpack

FORMAT = 1
_LONGEST = 40  # characters of a value that an error shows
_NAME = re.compile(r"iteration-(\d{8,})\.safetensors")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read, or used here; the message names the file and what to do."""


def save(path: Path | str, state: Mapping[str, Any]) -> None:
    """Writes `state` to `path`, whole or not at all: whatever happens, a file that was there stays or is replaced.

    The tensors are those of the safetensors file; all else is JSON in its metadata, beside a checksum of both.

    Args:
        state: a nest of dicts, lists, tuples, tensors, numbers, strings and None.
    Raises:
        TypeError: for an entry of another type. CheckpointError: where the file cannot be written.
    """
    tree, tensors = pack(state)
    text = json.dumps(tree, allow_nan=False)
    metadata = {"fastmaml": text, "format": str(FORMAT), "crc32": _checksum(text, tensors)}
    try:
        _write_atomically(Path(path), to_bytes(tensors, metadata))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error}); what was there before is still whole") from error


def load(path: Path | str) -> dict[str, Any]:
    """The state that was saved to `path`, its tensors on the CPU.

    Raises:
        CheckpointError: where there is none, or it is cut short, damaged, of a newer format or no checkpoint at all.
    """
    metadata, tensors = _read(path)
    if "fastmaml" not in metadata:
        raise CheckpointError(f"{path}: is a safetensors file, but no checkpoint of fastmaml; give one that it wrote")
    if metadata.get("format") != str(FORMAT):
        raise CheckpointError(
            f"{path}: has format {metadata.get('format')}, this fastmaml reads {FORMAT}; use the version that wrote it"
        )
    text = metadata["fastmaml"]
    if metadata.get("crc32") != _checksum(text, tensors):
        raise CheckpointError(f"{path}: is damaged, its checksum is wrong; {ADVICE}")
    return _unpacked(path, text, tensors)


def load_model(path: Path | str, module: nn.Module) -> dict[str, Any]:
    """Loads the model of a checkpoint (a MAML with its learned inner lr) into `module`; gives all of its state.

    Raises:
        CheckpointError: as `load`, or where the tensors have other names, shapes or dtypes than those of `module`.
    """
    state = load(path)
    model = state.get("model", {})
    if not isinstance(model, Mapping):
        raise CheckpointError(
            f"{path}: 'model' is {describe(model)}; allowed is a dict of tensors. Give one that fastmaml wrote"
        )
    check_tensors(path, model, module.state_dict())
    module.load_state_dict(state["model"])
    return state


def load_config(path: Path | str) -> dict[str, Any]:
    """What the run that wrote `path` was given as `config`; empty where there is none.

    Raises:
        CheckpointError: as `load`, or where it is no dict of names.
    """
    config = load(path).get("config", {})
    if not isinstance(config, dict) or not all(isinstance(name, str) for name in config):
        raise CheckpointError(f"{path}: 'config' is {describe(config)}; allowed is a dict of names. {ADVICE}")
    return config


def check_tensors(path: Path | str, saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises CheckpointError, naming the first differences, unless both have the same names, shapes and dtypes."""
    differences = [
        f"'{name}' is {_kind(saved.get(name))} in the file and {_kind(own.get(name))} here"
        for name in sorted(saved.keys() | own.keys(), key=str)
        if _kind(saved.get(name)) != _kind(own.get(name))
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise CheckpointError(
            f"{path}: was saved from another model: {'; '.join(differences[:3])}{more}. "
            "Build the model as it was saved, or give another log_dir"
        )


def path_of(folder: Path, iteration: int) -> Path:
    """Where the checkpoint after `iteration` iterations lies in `folder`."""
    return folder / f"iteration-{iteration:08d}.safetensors"


def numbered(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    found = [path for path in folder.glob("iteration-*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]))  # type: ignore[index]


def prune(folder: Path, keep: int) -> None:
    """Deletes all but the last `keep` checkpoints, and what an interrupted write left behind; no folders."""
    for path in numbered(folder)[:-keep]:
        _delete(path)
    prune_interrupted(folder)


def prune_interrupted(folder: Path, names: str = "*") -> None:
    """Deletes what interrupted writes of files called `names` (a glob pattern) left behind. No one may write now."""
    for path in folder.glob(f".{names}.tmp"):
        _delete(path)


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)


ADVICE = "delete it and run again: training resumes from the checkpoint before it, or starts anew if there is none"


def _unpacked(path: Path | str, text: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    try:
        state = unpack(json.loads(text), tensors)
    except (ValueError, RecursionError) as error:  # the latter of what is nested a thousand deep
        raise CheckpointError(f"{path}: holds no state that fastmaml wrote ({error}); {ADVICE}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds {describe(state)}; allowed is a dict. Give one that fastmaml wrote")
    return state


def _check_regular(path: Path | str) -> None:
    """Raises CheckpointError for what is no file: to open a pipe would wait for someone to write into it."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError as error:
        dangling = f", {os.readlink(path)} to which it is a link does not exist" if os.path.islink(path) else ""
        raise CheckpointError(f"{path}: there is no such checkpoint{dangling}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); move it away or delete it") from error
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "named pipe" if stat.S_ISFIFO(mode) else "device or socket"
        raise CheckpointError(f"{path}: cannot be read, it is a {kind}; allowed is a file. Move it away or delete it")


def _read(path: Path | str) -> tuple[dict[str, str], dict[str, Tensor]]:
    _check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            # cloned, as the file may be unmapped or deleted before they are used
            return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is cut short or no checkpoint ({error}); {ADVICE}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # on the same file system, or replace would copy
    try:
        with _new_file(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _new_file(path: Path) -> BinaryIO:
    """Open for writing, in place of what an interrupted write or a link left there."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags, 0o666)
    except FileExistsError:
        path.unlink()
        handle = os.open(path, flags, 0o666)
    return os.fdopen(handle, "wb")


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable; systems that cannot open a folder need no such thing."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    checksum = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {_kind(tensor)}".encode(), checksum)
        checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return f"{checksum:08x}"


def describe(value: Any) -> str:
    """A value of a checkpoint in a few words, for errors."""
    if value is None or isinstance(value, (bool, int, float, str)):
        text = "absent or None" if value is None else repr(value)
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"
    return _kind(value)


def _kind(value: Any) -> str:
    if value is None:
        return "absent"
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
