"""What tests of several folders share: the real data sets, where they lie here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from common import ROOT

# A fact holds on a busy machine too, where the first example also waits for compilation.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets: ``REPRO_DATA``, or ``shared/data`` beside the checkout."""
    named = os.environ.get("REPRO_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the data sets: {folder} is no folder (set REPRO_DATA)")
    return folder
