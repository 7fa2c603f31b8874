"""The report in a real browser: complete, usable and self-contained."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from common.results.__main__ import main
from tests.common.results.example_results import write_paper, write_records

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra dev")
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
in_browser = pytest.mark.skipif(BROWSER is None, reason=f"none of {NAMES} is installed")


class Loaded(NamedTuple):
    """A page and what it said and asked for while loading."""

    page: sync_api.Page
    messages: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on the made-up paper, made by the command line from records on."""
    root = tmp_path_factory.mktemp("report")
    results = root / "results"
    folder = write_paper(root)
    write_records(folder, results)
    write_records(folder, results, "paper")
    write_paper(root, "tempering")
    options = ["--root", str(root), "--results", str(results)]
    main(["archive", "annealing", "--scale", "paper", *options])
    for words in (
        ["table", "annealing", "table1"],
        ["figure", "annealing", "figure1"],
        ["claims", "annealing"],
        ["benchmark", "annealing", "speed"],
        ["benchmark", "annealing", "quality"],
        ["summary"],
        ["house_time"],
        ["report"],
    ):
        main([*words, *options])
    return results / "laptop/report/index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    """Headless Chromium."""
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield launched
        launched.close()


def opened(
    browser: sync_api.Browser,
    report: Path,
    at: str = "annealing",
    width: int = 1280,
    **options: Any,
) -> Loaded:
    """The page as a link to ``at`` opens it."""
    page = browser.new_page(viewport={"width": width, "height": 800}, **options)
    messages: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{report.as_uri()}#{at}")
    return Loaded(page, messages, requests)


def test_the_summaries_agree_with_the_report(report: Path) -> None:
    folder = report.parent.parent
    covered = json.loads((folder / "coverage.json").read_text())["annealing"]
    assert (covered["targets"], covered["rebuilt"]) == (3, 2)
    verdicts = [item["verdict"] for item in json.loads((folder / "claims.json").read_text())]
    assert verdicts == ["holds", "fails", "undecided"]
    rows = json.loads((folder / "benchmarks.json").read_text())
    assert [(row["peer"], row["higher_is_better"]) for row in rows] == [
        ("hill climbing", True),
        ("list", False),
    ]
    text = report.read_text(encoding="utf8")
    assert "<strong>2 of 3</strong>" in text
    house = " ".join(text.partition('id="house-time"')[2].split())
    assert "12 of the runs, 4 of the others" in house  # no warm process made them
    assert 'annealing</th> <td>search</td> <td class="num">12</td> <td class="num">5.8 min' in house
    own, kept = text.split('<details class="kept">')
    assert re.findall(r'<li class="claim (\w+)"', own) == verdicts
    assert len(re.findall(r'<li class="claim (\w+)"', kept)) == len(verdicts)


def test_of_a_score_above_one_is_better_and_the_report_says_so(report: Path) -> None:
    text = report.read_text(encoding="utf8").split('-benchmarks">Benchmarks')[-1]
    score, time = (
        re.search(rf"<tr><th scope=\"row\">{what}</th>.*?</tr>", text, re.DOTALL)
        for what in ("share solved", "sum")
    )
    assert score is not None
    assert time is not None
    assert ">1.50<abbr" in score[0]
    assert "1.20 – 1.80" in score[0]
    assert "↑" in score[0]
    assert "↑" not in time[0]
    assert "above 1 is better" in text


@in_browser
def test_claims_are_judged_on_kept_records_too(browser: sync_api.Browser, report: Path) -> None:
    page = opened(browser, report).page
    kept = page.locator("details.kept")
    shown = {
        str(item.get_attribute("id")).removeprefix("annealing-paper-claim-")
        for item in kept.locator("li.claim").all()
    }
    assert shown == {"slow_beats_fast", "greedy_is_cheap", "greedy_differs_little"}
    assert not kept.locator("li.claim").first.is_visible()
    kept.locator("summary").first.click()
    assert kept.locator("li.claim").first.is_visible()


def test_the_page_loads_nothing_else_and_reports_no_error(
    browser: sync_api.Browser, report: Path
) -> None:
    loaded = opened(browser, report)
    assert [url for url in loaded.requests if not url.startswith("data:")] == [report.as_uri()]
    assert loaded.messages == []
    widths = loaded.page.eval_on_selector_all(
        "main img", "images => images.map(image => image.naturalWidth)"
    )
    assert widths
    assert all(widths)


@in_browser
def test_every_internal_link_leads_somewhere_and_no_identifier_is_used_twice(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    links = page.eval_on_selector_all(
        "a[href^='#']", "links => links.map(link => link.hash.slice(1))"
    )
    ids = page.eval_on_selector_all("[id]", "elements => elements.map(element => element.id)")
    assert len(links) > 5
    assert set(links) <= set(ids)
    assert len(ids) == len(set(ids))


@in_browser
def test_sorting_orders_numbers_both_ways_and_leaves_the_missing_last(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    table = page.locator("#annealing-table1")
    names = table.locator("tbody th")
    published = table.locator(".names th", has_text="city").last
    button = published.locator("button")
    button.focus()
    page.keyboard.press("Enter")
    assert published.get_attribute("aria-sort") == "ascending"
    ascending = ["Slow cooling", "Fast cooling", "No temperature at all"]
    assert names.all_text_contents() == ascending
    button.click()
    assert published.get_attribute("aria-sort") == "descending"
    assert names.all_text_contents() == [ascending[1], ascending[0], ascending[2]]


@in_browser
def test_the_filter_keeps_rows_with_every_word(browser: sync_api.Browser, report: Path) -> None:
    page = opened(browser, report).page
    table = page.locator("#annealing-table1")
    box = table.locator("input[type=search]")
    box.fill("cooling 14.1")
    assert table.locator("tbody tr:visible th").all_text_contents() == ["Fast cooling"]
    box.fill("nothing like this")
    assert table.locator("tbody tr:visible").count() == 0
    assert table.locator(".none-left").is_visible()
    box.fill("")
    assert table.locator("tbody tr:visible").count() == 3


@in_browser
@pytest.mark.parametrize("script", [True, False])
@pytest.mark.parametrize(
    "at", ["annealing", "annealing-table1", "annealing-paper-claim-greedy_is_cheap"]
)
def test_a_link_into_a_folded_paper_opens_it(
    browser: sync_api.Browser, report: Path, at: str, script: bool
) -> None:
    page = opened(browser, report, at, java_script_enabled=script).page
    assert page.locator(f"#{at}").is_visible()
    assert not page.locator("#tempering").is_visible()


@in_browser
def test_a_link_on_the_page_opens_a_paper_again_after_it_was_closed(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report, "").page
    first = page.locator(".found a.title").first
    first.click()
    page.locator("details.paper summary").first.click()
    assert not page.locator("#annealing").is_visible()
    first.click()
    assert page.locator("#annealing").is_visible()


@in_browser
@pytest.mark.parametrize("script", [True, False])
def test_a_link_from_one_paper_into_another_lands_on_its_target(
    browser: sync_api.Browser, report: Path, script: bool
) -> None:
    page = opened(browser, report, "annealing-table1", java_script_enabled=script).page
    for at in ("tempering-provenance", "annealing-figure1", "tempering", "annealing-paper-table1"):
        page.goto(f"{report.as_uri()}#{at}")
        box = page.locator(f"#{at}").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 800, at


@in_browser
def test_one_paper_is_open_at_a_time(browser: sync_api.Browser, report: Path) -> None:
    page = opened(browser, report).page
    heads = page.locator("details.paper > summary")
    heads.nth(1).focus()
    page.keyboard.press("Enter")
    assert page.locator("#tempering").is_visible()
    assert not page.locator("#annealing").is_visible()


@in_browser
def test_a_paper_opened_below_another_stays_in_view_when_that_one_closes(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    page.set_viewport_size({"width": 1280, "height": 200})
    page.locator("details.paper > summary").nth(1).click()
    top = "document.querySelectorAll('.paper > summary')[1].getBoundingClientRect().top"
    page.wait_for_function(f"{top} >= 0 && {top} < 200")


@in_browser
def test_the_first_screen_says_of_each_paper_what_was_found(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report, "").page
    lines = page.locator(".found li")
    said = [" ".join(line.inner_text().split()) for line in lines.all()]
    verdicts = "1 held 1 failed 1 undecided"
    title = "Cooling schedules for an annealed search"
    assert said == [
        f"{title} 2 of 3 rebuilt scale laptop {verdicts} scale paper {verdicts}",
        f"{title} 0 of 3 rebuilt",
    ]
    box = lines.last.bounding_box()
    assert box is not None
    assert box["y"] + box["height"] < 800


def claims_shown(page: sync_api.Page) -> list[str]:
    return page.locator(".claim-lines li:visible a").all_text_contents()


@in_browser
def test_claims_are_filtered_by_every_choice_and_counted(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report, "claims").page
    count = page.locator("#claim-filter output")
    assert count.inner_text() == "6 of 6 claims"
    page.locator("select[name=verdict]").select_option("fails")
    assert count.inner_text() == "2 of 6 claims"
    page.locator("select[name=scale]").select_option("paper")
    page.locator("select[name=case]").select_option("Twenty cities")
    assert claims_shown(page) == ["Greedy search stays below a cost of ten."]
    assert count.inner_text() == "1 of 6 claims"
    page.locator("#claim-filter [type=reset]").click()
    # Not wait_for_function: the page's policy lets no string be evaluated a second time.
    sync_api.expect(page.locator(".claim-lines li[hidden]")).to_have_count(0)
    assert count.inner_text() == "6 of 6 claims"


@in_browser
def test_a_count_of_verdicts_leads_to_those_claims_and_each_to_its_place(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report, "").page
    page.locator(".found a.chip.fails").first.click()
    assert claims_shown(page) == ["Greedy search stays below a cost of ten."]
    page.locator(".claim-lines li:visible a").click()
    assert page.locator("#annealing-claim-greedy_is_cheap").is_visible()


@in_browser
def test_a_smaller_case_has_the_published_number_apart_and_no_difference(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    laptop, kept = page.locator("#annealing-table1"), page.locator("#annealing-paper-table1")
    heads = laptop.locator("thead .group").all_text_contents()
    assert heads == ["ours, scale laptop", "published, larger case"]
    assert "difference" not in laptop.locator("thead").text_content()  # type: ignore[operator]
    assert "difference" in kept.locator("thead").text_content()  # type: ignore[operator]


@in_browser
def test_without_script_all_can_be_read_and_nothing_dead_is_shown(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report, "", java_script_enabled=False).page
    page.locator("details.paper > summary").first.click()
    page.locator("#claims > summary").click()
    page.locator("details.kept > summary").click()
    for part in ("#annealing-table1 td.ours", "#annealing li.claim", ".claim-lines li"):
        found = page.locator(part)
        assert found.count() == page.locator(f"{part}:visible").count() > 0
    assert not page.locator("#claim-filter").is_visible()
    assert not page.locator("#theme").is_visible()
    assert page.locator(".filter:visible").count() == 0


@in_browser
def test_a_figure_opens_large_and_escape_closes_it(browser: sync_api.Browser, report: Path) -> None:
    page = opened(browser, report).page
    page.locator(".expand").first.click()
    dialog = page.locator("#enlarged")
    assert dialog.is_visible()
    assert dialog.locator("img").get_attribute("alt") == "Three lines; slow cooling is lowest."
    page.keyboard.press("Escape")
    assert dialog.is_hidden()


def commands_behind(page: sync_api.Page, number: sync_api.Locator) -> list[str]:
    """Open what lies behind a number; the commands shown. Escape closes it."""
    number.click()
    found: list[str] = page.locator("#behind code").all_text_contents()
    assert page.locator("#behind").is_visible()
    return found


@in_browser
def test_a_number_leads_to_its_records_and_their_commands(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    row = page.locator("#annealing-table1 tbody tr", has_text="Fast cooling")
    assert commands_behind(page, row.locator("button").first) == [
        line
        for seed in range(4)
        for line in (
            "python papers/annealing/train.py search --case cities --arm fast"
            f" --seed {seed} --scale laptop",
            f"python -m common.results replay {report.parents[2]}/laptop/annealing/"
            f"search/cities/fast/seed{seed}/record.json",
        )
    ]
    assert "Fast cooling, city: 14.38" in page.locator("#behind h3").inner_text()
    links = page.eval_on_selector_all("#behind a", "links => links.map(link => link.href)")
    runs = report.parents[2] / "laptop/annealing/search/cities/fast"
    assert links == [(runs / f"seed{seed}/record.json").as_uri() for seed in range(4)]
    assert all((runs / f"seed{seed}/record.json").is_file() for seed in range(4))
    page.keyboard.press("Escape")
    assert page.locator("#behind").is_hidden()


@in_browser
def test_a_claim_and_a_figure_lead_to_all_that_they_were_made_of(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    claim = page.locator("#annealing-claim-slow_beats_fast button.behind")
    arms = re.findall(r"--arm (\w+)", " ".join(commands_behind(page, claim)))
    assert arms == ["slow"] * 4 + ["fast"] * 4
    assert "0.143 (seed 0), 0.140 (seed 1)" in page.locator("#behind .each").inner_text()
    page.locator("#behind .close").click()
    figure = page.locator("#annealing-figure1 button.behind")
    arms = re.findall(r"--arm (\w+)", " ".join(commands_behind(page, figure)))
    assert arms == ["slow"] * 4 + ["fast"] * 4 + ["greedy"] * 4


@in_browser
def test_a_number_from_an_archive_is_replayed_from_there(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report, "annealing-paper-table1").page
    kept = page.locator("#annealing-paper-table1 tbody tr").first.locator("button").first
    made, repeated = commands_behind(page, kept)[:2]
    assert made.endswith("--arm slow --seed 0 --scale paper")
    place = "annealing/search/cities/slow/0"
    assert repeated == f"python -m common.results replay {place} --scale paper"
    assert page.locator("#behind a").count() == 0


@in_browser
def test_every_number_of_ours_has_records_behind_it(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    cells = page.locator(".target td.ours:not([data-value=''])")
    assert cells.count() == 12  # two tables of three arms and two problems
    assert cells.locator("button.behind").count() == 12
    claims = page.locator("li.claim")
    assert claims.locator("button.behind").count() == claims.count() == 6


@in_browser
def test_the_button_switches_the_colours(browser: sync_api.Browser, report: Path) -> None:
    page = opened(browser, report, color_scheme="light").page
    colour = "getComputedStyle(document.body).backgroundColor"
    before = page.evaluate(colour)
    page.locator("#theme").click()
    switched = page.evaluate(colour)
    assert switched != before
    dark = opened(browser, report, color_scheme="dark").page
    assert dark.evaluate(colour) == switched


@in_browser
def test_in_print_the_results_take_the_whole_width(browser: sync_api.Browser, report: Path) -> None:
    page = opened(browser, report).page
    page.emulate_media(media="print")
    assert page.evaluate("document.getElementById('main').offsetWidth") > 1200
    assert page.locator("td.ours button.behind").first.is_visible()
    assert not page.locator("nav").is_visible()


#: What a reader may have closed or filtered out, and is on paper all the same.
FOLDED = (
    "#annealing",
    "#tempering",
    "#annealing-paper-table1",
    ".claim-lines li",
    "#annealing-table1 tbody tr",
    "#annealing-provenance .study",
)


@in_browser
@pytest.mark.parametrize("script", [True, False])
def test_print_shows_what_is_closed_or_filtered_out(
    browser: sync_api.Browser, report: Path, script: bool
) -> None:
    page = opened(browser, report, "", java_script_enabled=script).page
    if script:
        rows = "document.querySelectorAll('.claim-lines li, tbody tr')"
        page.evaluate(f"for (const row of {rows}) row.hidden = true")
    page.emulate_media(media="print")
    for part in FOLDED:
        found = page.locator(part)
        assert found.count() == page.locator(f"{part}:visible").count() > 0, part


@in_browser
def test_printing_opens_every_section_and_closes_it_again(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    closed = "document.querySelectorAll('details:not([open])').length"
    before = page.evaluate(closed)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(closed) == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(closed) == before > 0
    page.locator("details.paper > summary").last.click()
    assert not page.locator("#annealing").is_visible()


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_never_wider_than_a_phone(
    browser: sync_api.Browser, report: Path, scheme: str
) -> None:
    page = opened(browser, report, width=360, color_scheme=scheme).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 360  # papers closed but one
    page.evaluate("dispatchEvent(new Event('beforeprint'))")  # opens all
    assert page.evaluate("document.body.scrollWidth") <= 360
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@in_browser
def test_every_column_has_a_scope_and_every_control_a_name(
    browser: sync_api.Browser, report: Path
) -> None:
    page = opened(browser, report).page
    assert page.locator("th").count() > 10
    assert page.locator("th:not([scope])").count() == 0
    assert page.locator("img:not([alt])").count() == 0
    unnamed = page.eval_on_selector_all(
        "button", "all => all.filter(b => !b.textContent.trim() && !b.ariaLabel).length"
    )
    assert unnamed == 0
