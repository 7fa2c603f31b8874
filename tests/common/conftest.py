"""What a command that runs in the tests' process leaves behind is put away."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import papers
from common import ROOT


@pytest.fixture(autouse=True)
def _papers_of_this_checkout() -> Iterator[None]:
    """A made-up paper's modules are not there for the next test, whose paper has the same name."""
    places = list(sys.path)
    yield
    sys.path[:] = places
    papers.__path__[:] = [str(ROOT / "papers")]
    # A folder without __init__.py is a package without a file; its path is found by its parent's.
    for name, module in sorted(sys.modules.items(), reverse=True):
        place = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
        if name.startswith("papers.") and place and not Path(place).is_relative_to(ROOT):
            del sys.modules[name]
            parent, _, own = name.rpartition(".")
            if parent in sys.modules:
                vars(sys.modules[parent]).pop(own, None)
