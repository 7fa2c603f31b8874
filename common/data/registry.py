"""Where a data set lies: ``--data-root``, ``REPRO_DATA``, or the user's cache, in this order."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from common.errors import InputError


def roots(root: Path | None = None) -> list[Path]:
    """Folders that are searched, in order."""
    given = [root] if root else []
    named = os.environ.get("REPRO_DATA")
    cache = os.environ.get("REPRO_CACHE")
    given += [Path(named)] if named else []
    return [*given, Path(cache) if cache else user_cache_path("paper-reproductions")]


def find(name: str, root: Path | None = None) -> Path:
    """Folder of a registered data set. Raises InputError that says where it was looked for."""
    searched = roots(root)
    for folder in searched:
        if (folder / name).is_dir():
            return folder / name
    where = ", ".join(map(str, searched))
    raise InputError(
        f"data set {name!r} is in none of: {where}; "
        f"get it with `python -m common.data fetch {name}`, or point REPRO_DATA at its parent"
    )
