"""Listings: texts are shown as they are and as text, in a page that needs nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.errors import InputError
from common.results.__main__ import main
from common.results.listings import Entry, Listing, Ranking, Text, read, to_html, write
from tests.common.results.example_results import write_paper, write_records

HOSTILE = ['<script>alert("x")</script>', "</p>", "&amp;", "it's", "<unk>"]

LISTINGS = """
from common.results.listings import Entry, Listing, Ranking, Text


def listing1(results):
    texts = [
        Text(words=["cool", arm, "<b>"], marked=[1], label=arm, score=float(values.mean()))
        for arm in ("slow", "fast")
        for values in [results.values("search", arm, "city_cost")]
    ]
    query = Text(words=["how", "slow"])
    entry = Entry(query=query, rankings=[Ranking(method="By cost", texts=texts)])
    return Listing(entries=[entry], caption="What is cooled how.")


LISTINGS = {"listing1": listing1}
"""


class Page(HTMLParser):
    """Tags of a page, and the text in its paragraphs of text and in its marks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str | None] = []
        self.texts: list[str] = []
        self.marks: list[str] = []
        self._inside: list[list[str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        known = dict(attrs)
        self.addresses += [known[name] for name in ("src", "href", "action") if name in known]
        if tag == "p" and known.get("class") == "text":
            self.texts.append("")
            self._inside.append(self.texts)
        if tag == "mark":
            self.marks.append("")
            self._inside.append(self.marks)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag in ("p", "mark"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        for texts in self._inside:
            texts[-1] += data


def listing(words: list[str], marked: list[int]) -> Listing:
    text = Text(
        words=words, marked=marked, label=words[0], tags=words, warnings=words, score=-0.01234
    )
    entry = Entry(query=text, rankings=[Ranking(method=words[0], texts=[text, text])])
    return Listing(
        entries=[entry],
        caption=words[0],
        title=words[0],
        source=words[0],
        notes=words,
        target="listing1",
    )


def test_words_are_text_whatever_they_are() -> None:
    html = to_html(listing(HOSTILE, [0, 2, 3]))
    page = Page(html)
    assert page.texts == [" ".join(HOSTILE)] * 3
    assert not {"script", "unk", "b"} & set(page.tags)


def test_marked_neighbours_are_one_mark() -> None:
    page = Page(to_html(listing(["a", "b", "c", "d", "e"], [1, 2, 4])))
    assert page.marks == ["b c", "e"] * 3
    assert page.texts == ["a b c d e"] * 3


def test_scores_have_three_digits() -> None:
    assert "−0.0123<" in to_html(listing(["a"], []))


def test_a_page_needs_nothing_from_elsewhere() -> None:
    html = to_html(listing(["a"], []))
    assert set(Page(html).addresses) == {"data:,"}
    assert not re.search(r"https?:|@import|url\(", html)
    assert "default-src 'none'" in html


def test_a_listing_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = listing(HOSTILE, [1])
    written = write(made, tmp_path)
    assert [path.name for path in written] == ["listing1.html", "listing1.json"]
    assert read(written[1]) == made
    with pytest.raises(InputError, match=r"listing1\.html: not a listing"):
        read(written[0])


def test_a_mark_beyond_the_words_is_refused() -> None:
    with pytest.raises(ValueError, match="marked: 2 is no place of 2 words"):
        Text(words=["a", "b"], marked=[2])


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """Results of the made-up paper with a listing, made by the command line."""
    folder = write_paper(tmp_path)
    path = folder / "experiments.yaml"
    extra = "  figure2: {kind: figure,"
    line = "  listing1: {kind: listing, title: Two, source: ours, experiments: [search]}\n"
    path.write_text(path.read_text().replace(extra, line + extra))
    (folder / "targets/listings.py").write_text(LISTINGS)
    results = tmp_path / "results"
    write_records(folder, results)
    options = ["--root", str(tmp_path), "--results", str(results)]
    main(["listing", "annealing", "listing1", *options])
    main(["report", *options])
    return results / "laptop"


def test_the_report_shows_the_part_that_the_page_of_its_own_shows(built: Path) -> None:
    own = (built / "annealing/listings/listing1.html").read_text(encoding="utf8")
    report = (built / "report/index.html").read_text(encoding="utf8")
    part = re.compile(r'<section class="entry".*?</section>', re.DOTALL)
    assert part.findall(own) == part.findall(report)
    assert Page(own).texts == ["how slow", "cool slow <b>", "cool fast <b>"]
    assert 'href="#annealing-listings"' in report
    note = "Scale: laptop. Data: "
    assert own.count(note) == 1
    assert "mean ± standard deviation" not in own


def test_a_kind_that_a_target_is_not_is_refused(built: Path) -> None:
    options = ["--root", str(built.parents[1]), "--results", str(built.parent)]
    with pytest.raises(InputError, match="listing 'table1': must be one of listing1"):
        main(["listing", "annealing", "table1", *options])
