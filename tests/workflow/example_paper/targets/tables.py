"""The example's table."""

from __future__ import annotations

from .accuracy_tables import table1

TABLES = {"table1": table1}
