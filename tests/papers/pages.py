"""Programs of documentation pages, run as a reader would."""

from __future__ import annotations

import re
from typing import Any

import torch

from common import ROOT


def run(page: str, parts: int | None = None) -> dict[str, Any]:
    """Names that the program of a page defines, all its parts together.

    Args:
        parts: how many there must be.
    """
    text = (ROOT / page).read_text(encoding="utf8")
    programs = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert programs
    assert parts in (None, len(programs))
    torch.set_num_threads(1)
    names: dict[str, Any] = {}
    exec(compile("\n".join(programs), page, "exec"), names)  # noqa: S102
    return names
