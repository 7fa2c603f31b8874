"""A listing: texts side by side, each query with the ranked texts that several methods give it.

For what a table of numbers cannot show: a reader compares the texts themselves. Words that matter
are marked, and so is what else is to be seen of a text. Kept as JSON, shown as HTML.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pydantic import Field, model_validator

from common.experiments.settings import Settings
from common.results.records import Context, Results
from common.results.report.templates import environment, inlined
from common.results.targets import Target, built, context_notes, read_as


class Text(Settings):
    """Words, of which some are marked.

    Args:
        words: in order.
        marked: places of words.
        label: what kind of text it is, e.g. its topic.
        tags, warnings: what else is to be known of it.
        score: that it was ranked by; None for one that was not.
    """

    words: list[str]
    marked: list[int] = Field([])
    label: str = ""
    tags: list[str] = Field([])
    warnings: list[str] = Field([])
    score: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Text:
        outside = [place for place in self.marked if not 0 <= place < len(self.words)]
        if outside:
            raise ValueError(f"marked: {outside[0]} is no place of {len(self.words)} words")
        return self

    @property
    def runs(self) -> list[tuple[bool, str]]:
        """The words joined, as (marked, text) runs: neighbours alike are one run."""
        marked = set(self.marked)
        found: list[tuple[bool, list[str]]] = []
        for place, word in enumerate(self.words):
            if not found or found[-1][0] != (place in marked):
                found.append((place in marked, []))
            found[-1][1].append(word)
        return [(kind, " ".join(words)) for kind, words in found]


class Ranking(Settings):
    """The texts that one method gives a query, the best first."""

    method: str
    texts: list[Text]


class Entry(Settings):
    """A query and its rankings."""

    query: Text
    rankings: list[Ranking] = Field(min_length=1)


class Listing(Target):
    """Queries with their rankings."""

    entries: list[Entry] = Field(min_length=1)
    caption: str
    query_header: str = "Query"

    def all_notes(self) -> list[str]:
        """What must be said below it, the made-from line first."""
        return self.notes if self.context is None else [*_made_from(self.context), *self.notes]


def _made_from(context: Context) -> list[str]:
    first, *others = context_notes(context, compared=False)
    # Texts are of one run: there is no mean to explain.
    return [first.partition(";")[0] + ".", *others]


def build(function: Callable[[Results], Listing], results: Results, target: str) -> Listing:
    """The listing that a paper's function makes of ``results``, with its place in the paper."""
    return built(function, results, target)


def write(listing: Listing, folder: Path) -> list[Path]:
    """Write ``<target>.html`` and ``.json``, the JSON last; returns their paths."""
    return listing.write(folder, {"html": to_html(listing)})


def read(path: Path) -> Listing:
    """The listing in a JSON file. Raises InputError if it is not one."""
    return read_as(Listing, path, "a listing")


def to_html(listing: Listing) -> str:
    """A page of its own, with everything in it; the report shows the same part of it."""
    return (
        environment()
        .get_template("listing_page.html")
        .render(listing=listing, style=inlined("report.css"))
    )
