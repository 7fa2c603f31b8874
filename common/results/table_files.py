"""A table as files: CSV, Markdown, LaTeX, and the JSON that the report reads."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd

from common.results.tables import Cell, Table


def write(table: Table, folder: Path) -> list[Path]:
    """Write ``<target>.csv``, ``.md``, ``.tex`` and ``.json``; returns their paths."""
    return table.write(
        folder, {"csv": to_csv(table), "md": to_markdown(table), "tex": to_latex(table)}
    )


def to_csv(table: Table) -> str:
    """One cell a line; a missing number is an empty field."""
    context = table.context
    rows = [
        {
            "paper": table.paper,
            "target": table.target,
            "scale": context.scale if context else "",
            "data": "; ".join(context.data) if context else "",
            "device": "; ".join(context.devices) if context else "",
            "stale": bool(context and context.stale),
            **cell.model_dump(exclude={"published_text", "runs"}),
            "published_text": cell.published_text,
            "difference": cell.difference,
            "records": " ".join(map(str, table.runs_behind(cell))),
        }
        for cell in table.cells
    ]
    return pd.DataFrame(rows).to_csv(index=False, lineterminator="\n", float_format="%.10g")


def spread(table: Table) -> pd.DataFrame:
    """The table as text, laid out as in the paper.

    Under each row of the paper stand ours, published and difference (only ours where the table
    has no published number).
    """
    lines = ["ours", "published", "difference"] if table.has_published else ["ours"]
    content = {
        table.heading(column, metric): [
            _line(table.cell(row, column, metric), line) for row in table.rows for line in lines
        ]
        for column, metric in table.layout
    }
    index = pd.MultiIndex.from_product([table.rows, lines], names=[table.row_header, ""])
    frame = pd.DataFrame(content, index=index)
    return frame if table.has_published else frame.droplevel(1)


def _line(cell: Cell, line: str) -> str:
    if line == "ours":
        return cell.ours_text
    if line == "difference":
        return cell.difference_text
    return cell.published_with_std + (f" [{cell.mark}]" if cell.mark else "")


def to_markdown(table: Table) -> str:
    """GitHub Markdown with title and notes."""
    frame = spread(table).reset_index(allow_duplicates=True)
    if table.has_published:  # name each row once
        names = frame.iloc[:, 0]
        frame.isetitem(0, names.where(names != names.shift(), "").to_numpy())
    escaped = frame.map(lambda text: str(text).replace("|", "\\|"))
    escaped.columns = pd.Index([str(name).replace("|", "\\|") for name in frame.columns])
    body = escaped.to_markdown(index=False, disable_numparse=True)
    notes = "".join(f"\n- {note}" for note in table.all_notes())
    return f"### {table.source}: {table.title}\n\n{body}\n{notes}\n"


#: Characters that pdflatex does not set as they are.
_LATEX: Final = {"±": r"$\pm$", "—": "---", "−": "$-$", "…": r"\ldots{}", "×": r"$\times$"}


def to_latex(table: Table) -> str:
    """A ``table`` environment (needs booktabs and multirow)."""
    frame = spread(table)
    frame.index.names = [_escape(str(name)) for name in frame.index.names]
    styler = frame.style.format(escape="latex")
    styler.format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
    text = styler.to_latex(
        hrules=True,
        clines="skip-last;data" if table.has_published else None,
        caption=_escape(f"{table.title} ({table.source})"),
        label=f"tab:{table.paper}:{table.target}",
        position_float="centering",
    )
    notes = "".join(f"\\par {_escape(note)}\n" for note in table.all_notes())
    text = text.replace("\\end{table}", f"\\footnotesize\n{notes}\\end{{table}}")
    for character, command in _LATEX.items():
        text = text.replace(character, command)
    return text


def _escape(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: "\\" + character for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)
