"""A test on a real data set runs where the set lies and is skipped, with a reason, elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.data.registry import located


def skip_without(name: str, data_root: Path) -> None:
    """Skip the test unless the data set ``name`` can be found from ``data_root``."""
    if located(name, data_root) is None:
        pytest.skip(f"needs the data set {name}; `python -m common.data fetch {name}` says how")
