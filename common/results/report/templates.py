"""Jinja templates of the pages in ``page/``, escaped; style sheet and scripts are inlined."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import jinja2
from markupsafe import Markup

PAGE: Final = Path(__file__).with_name("page")


def environment() -> jinja2.Environment:
    """Templates of ``page/``: values are escaped, an unknown name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["number"] = number
    return made


def inlined(name: str) -> Markup:
    """A file of ``page/`` as it is."""
    return Markup((PAGE / name).read_text(encoding="utf8"))  # noqa: S704


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is short."""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "−")
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f}".replace("-", "−")
