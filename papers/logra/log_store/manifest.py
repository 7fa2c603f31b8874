"""What lies in the folder of a log store, and what its rows are.

================================ ================================================================
``manifest.json``                what the rows are; written once, before any row
``rank000/journal.jsonl``        of a writing process: one line for each chunk, then ``closed``
``rank000/000000.safetensors``   rows of one chunk: gradients and ids
``columns/``                     values computed from the rows later, such as self-influence
================================ ================================================================
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings, validated
from common.runs.files import write_atomically
from papers.logra.curvature.layout import Layout

FORMAT: Final = "logra log store"
#: Raised when a reader of today would misread what is written.
VERSION: Final = 1
MANIFEST: Final = "manifest.json"

DtypeName = Literal["float64", "float32", "float16", "bfloat16", "int8"]
Identity = dict[str, str | int | float | bool | None]


class Manifest(Settings):
    """What the rows of a store are."""

    format: Literal["logra log store"] = FORMAT
    version: Literal[1] = VERSION
    layout: list[tuple[str, int, int]] = Field(min_length=1)
    identity: Identity
    dtype: DtypeName
    rows_per_chunk: int = Field(gt=0)
    ranks: int = Field(gt=0, description="processes that write")
    token: str = Field("", description="of this store; one made in its place has another")

    @property
    def blocks(self) -> Layout:
        """Which columns belong to which layer."""
        return Layout.from_json(self.layout)

    @property
    def text(self) -> str:
        """What its file holds."""
        return self.model_dump_json(indent=1) + "\n"

    def write(self, folder: Path) -> None:
        """Put it into ``folder`` by one rename."""
        write_atomically(folder / MANIFEST, self.text)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest in ``folder``. Raises InputError: none, of another version, or altered."""
        path = folder / MANIFEST
        try:
            found = json.loads(path.read_text(encoding="utf8"))
        except FileNotFoundError:
            raise InputError(f"{folder}: no log store ({MANIFEST} is missing)") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not a manifest ({error})") from None
        kind = (found.get("format"), found.get("version")) if isinstance(found, dict) else None
        if kind != (FORMAT, VERSION):
            raise InputError(f"{path}: format and version {kind}; allowed: {(FORMAT, VERSION)}")
        return validated(cls, found, str(path))

    def require(self, wanted: Mapping[str, Any], where: Path) -> None:
        """Raise InputError where a field, or a key of the identity, is not as ``wanted``."""
        for key, value in wanted.items():
            held = getattr(self, key)
            if key == "identity":
                _require_identity(held, value, where)
            elif key == "layout":
                _require_layout(held, value, where)
            elif key == "token":
                _require_token(held, value, where)
            elif held != value:
                raise InputError(f"{where}: {key} {value}; allowed: {held}, which its rows have")


def _require_identity(held: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    for key in sorted({*held, *wanted}):
        if key not in held or key not in wanted or held[key] != wanted[key]:
            raise InputError(
                f"{where}: rows of another run: identity '{key}' is {held.get(key)!r} in the store"
                f" and {wanted.get(key)!r} here; allowed: equal, or another folder"
            )


def _require_layout(held: list[Any], wanted: list[Any], where: Path) -> None:
    for mine, theirs in zip_longest(wanted, held):
        if mine != theirs:
            raise InputError(f"{where}: rows of another layout: layer {mine}; allowed: {theirs}")


def _require_token(held: str, wanted: str, where: Path) -> None:
    if held != wanted:
        raise InputError(
            f"{where}: rows of another run, which began its log in place of this one's: token"
            f" {held!r} in the store and {wanted!r} here; allowed: a folder for each run"
        )


def journal_path(folder: Path, rank: int) -> Path:
    """Where the process ``rank`` notes its chunks."""
    return folder / f"rank{rank:03d}" / "journal.jsonl"


def chunk_path(folder: Path, rank: int, number: int) -> Path:
    """Where the process ``rank`` writes its chunk ``number``."""
    return folder / f"rank{rank:03d}" / f"{number:06d}.safetensors"
