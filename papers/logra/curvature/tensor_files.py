"""Tensors and JSON in one safetensors file that tells when it was altered."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.errors import InputError

VERSION = 1


def digest_tensors(tensors: Mapping[str, Tensor], content: Any = None) -> str:
    """SHA-256 of names, types, shapes and bytes, whatever the order, and of JSON beside them.

    Tensors that are sharded over processes are put together, one by one: all processes must ask.
    """
    whole = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        if hasattr(tensor, "full_tensor"):
            tensor = tensor.full_tensor()
        tensor = tensor.cpu().contiguous()
        whole.update(f"{json.dumps(name)} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], content: Any) -> None:
    """Write tensors and JSON ``content`` as a file of a ``kind``, by one rename.

    Raises:
        InputError: the disk is full, or may not be written; the file is as it was.
    """
    held = _apart(tensors)
    about = {"kind": kind, "version": VERSION, "content": content}
    about["sha256"] = digest_tensors(held, content)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One entry, for safetensors writes several in any order, and equal files shall be equal.
        save_file(held, temporary, metadata={"about": json.dumps(about, sort_keys=True)})
        with temporary.open("rb") as written:
            os.fsync(written.fileno())  # before the rename, that no crash leaves an empty file
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be written ({error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """In the CPU's memory, copied where they share it, which safetensors refuses."""
    held, seen = {}, set()
    for name, tensor in tensors.items():
        part = tensor.detach().cpu().contiguous()
        place = part.untyped_storage().data_ptr()
        held[name] = part.clone() if place in seen else part
        seen.add(place)
    return held


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], Any]:
    """Inverse of :func:`write_tensors`.

    Raises:
        InputError: no such file, not a file of this kind and version, or altered.
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: {error}; allowed: a file of {kind}") from error
    found = (about.get("kind"), about.get("version"))
    if found != (kind, VERSION):
        raise InputError(f"{path}: {found[0]}, version {found[1]}; allowed: {kind}, {VERSION}")
    if digest_tensors(tensors, about.get("content")) != about.get("sha256"):
        raise InputError(f"{path}: altered since it was saved; allowed: as it was saved")
    return tensors, about["content"]
