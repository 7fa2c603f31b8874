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

# Workers share the cores: torch and NumPy, imported after this, and the tests' own processes take
# one thread each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: a worker for each core that may be used, up to 8; each takes 1 to 2 GB."""
    return min(len(os.sched_getaffinity(0)), 8)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets: ``REPRO_DATA``, or ``shared/data`` beside the checkout."""
    named = os.environ.get("REPRO_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the data sets: {folder} is no folder (set REPRO_DATA)")
    return folder
