"""Writes the JSON schemas of experiment files and records: ``python -m common.runs.schemas``."""

from __future__ import annotations

from pathlib import Path

from common import ROOT
from common.experiments.schema import Paper
from common.experiments.settings import schema_text
from common.runs.record import Record


def write_schemas(folder: Path = ROOT / "workflow" / "schema") -> list[Path]:
    """Write the JSON schemas of experiment files and of records; returns their paths."""
    written = []
    for name, model in (("experiments", Paper), ("record", Record)):
        path = folder / f"{name}.schema.json"
        path.write_text(schema_text(model), encoding="utf8")
        written.append(path)
    return written


if __name__ == "__main__":
    for written in write_schemas():
        print(written)
