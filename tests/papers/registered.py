"""Registered data sets whose files a test makes itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.data import registry
from common.data.registry import DataSet, File, Layout, data_set


def registered_as_it_lies(name: str, root: Path, patch: pytest.MonkeyPatch) -> None:
    """Accept the files in ``root / name`` whatever they hold."""
    files = {path.name: File() for path in (root / name).iterdir()}
    changes: dict[str, Any] = {"get": "by hand", "layouts": {"files": Layout(files=files)}}
    entry: DataSet = data_set(name).model_copy(update=changes)
    known = dict(registry.registry()) | {name: entry}
    patch.setattr(registry, "registry", lambda: known)
