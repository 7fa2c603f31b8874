"""Permissions hold for root as well, in a process without the right to pass them over."""

from __future__ import annotations

import os
import shutil

import pytest


def without_privileges() -> tuple[str, ...]:
    """Prefix of a command for which file permissions count, whoever runs the tests."""
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("root may write everywhere; setpriv (util-linux) would take that right away")
    return ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
