"""Records, archives and results that are not what they should be: one line that names the file."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import papers
from common import ROOT
from common.errors import InputError
from common.experiments.documents import parse_json
from common.experiments.schema import RunKey, load_paper
from common.results.__main__ import main
from common.results.evidence.archives import (
    archive_files,
    archive_path,
    read_archive,
    write_archive,
)
from common.results.evidence.repeats import read_repeats
from common.results.records import Results
from common.runs.fingerprint import Code, Sources, Tree
from common.runs.record import Record, read_record
from common.runs.run import Run
from tests.common.results.example_results import write_paper, write_records

PLACE = "results/laptop/quenching/search/cities/slow/seed0/record.json"


@pytest.fixture(autouse=True)
def _papers_are_read_anew() -> Iterator[None]:
    """Nothing of this paper stays with the process, where other tests would see it as their own."""
    load_paper.cache_clear()
    before, folders = list(sys.path), list(papers.__path__)
    yield
    load_paper.cache_clear()
    sys.path[:], papers.__path__ = before, folders
    for name in [name for name in sys.modules if name.startswith("papers.quenching")]:
        del sys.modules[name]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with the made-up paper and its records at laptop scale."""
    write_records(write_paper(tmp_path, "quenching"), tmp_path / "results")
    return tmp_path


def options(root: Path) -> list[str]:
    return ["--root", str(root), "--results", str(root / "results")]


def load(root: Path) -> Results:
    return Results.load(root / "papers/quenching", "laptop", root / "results", root=root)


def changed(**fields: Any) -> Callable[[Path], None]:
    """Change fields of a record's JSON."""

    def damage(path: Path) -> None:
        data = json.loads(path.read_text())
        path.write_text(json.dumps(data | fields), encoding="utf8")

    return damage


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


ARTIFACT = {"sha256": 64 * "0", "bytes": 1}
DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "NaN": (changed(metrics={"city_cost": float("nan"), "grid_cost": 1.0}), "NaN is not a finite"),
    "infinity": (changed(metrics={"city_cost": float("inf")}), "Infinity is not a finite number"),
    "too large": (lambda path: path.write_text('{"metrics": {"x": 1e999}}'), "1e999 is not a fin"),
    "10^400": (changed(metrics={"city_cost": 10**400}), "city_cost"),
    "nested": (lambda path: path.write_text(100_000 * "["), "nested too deeply"),
    "twice": (lambda path: path.write_text('{"seed": 0, "seed": 1}'), "key 'seed' is given twice"),
    "no text": (lambda path: path.write_bytes(b"\xff\xfe{}"), "not a record"),
    "half": (lambda path: path.write_text(path.read_text()[:90]), "not a record"),
    "a folder": (as_folder, "cannot be read"),
    "another run's": (
        lambda path: path.write_bytes((path.parents[1] / "seed1/record.json").read_bytes()),
        "is the record of another run, laptop/quenching/search/cities/slow/seed1",
    ),
    "no name of an arm": (changed(experiment="search/cities/slow", arm=""), "experiment"),
    "above": (changed(artifacts={"../../x": ARTIFACT}), "below the folder of its record"),
    "absolute": (changed(artifacts={"/etc/passwd": ARTIFACT}), "below the folder of its record"),
    "roundabout": (changed(artifacts={"a/./b": ARTIFACT}), "below the folder of its record"),
    "itself": (changed(artifacts={"record.json": ARTIFACT}), "below the folder of its record"),
}


@pytest.mark.parametrize("name", DAMAGES)
@pytest.mark.parametrize("words", [["check"], ["table", "quenching", "table1"], ["report"]])
def test_a_damaged_record_is_named_in_one_line_by_every_command(
    root: Path, name: str, words: list[str]
) -> None:
    damage, message = DAMAGES[name]
    damage(root / PLACE)
    with pytest.raises(InputError) as caught:
        main([*words, *options(root)])
    assert str(root / PLACE) in str(caught.value)
    assert message in str(caught.value)


def test_the_check_names_every_damaged_record(root: Path) -> None:
    runs = root / "results/laptop/quenching/search/cities/slow"
    for seed, name in enumerate(("NaN", "a folder", "above")):
        DAMAGES[name][0](runs / f"seed{seed}/record.json")
    with pytest.raises(InputError) as caught:
        main(["check", *options(root)])
    assert [f"seed{seed}/record.json" in str(caught.value) for seed in range(4)] == [
        True,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("text", ["step,cost\n0,1\n", None])
def test_the_check_compares_artifacts_with_the_record(root: Path, text: str | None) -> None:
    main(["check", *options(root)])
    path = (root / PLACE).with_name("curve.csv")
    if text is None:
        path.unlink()
    else:
        path.write_text(text, encoding="utf8")
    with pytest.raises(InputError, match=r"slow/seed0/curve.csv: .* its record"):
        main(["check", *options(root)])


@pytest.mark.skipif(os.getuid() == 0, reason="everything may be read")
def test_a_record_that_may_not_be_read_is_named(root: Path) -> None:
    (root / PLACE).chmod(0)
    with pytest.raises(InputError, match=r"seed0/record.json: cannot be read \(Permission denied"):
        main(["check", *options(root)])


def test_a_folder_is_no_missing_record(root: Path) -> None:
    """A report that leaves out what is missing must not leave out what is wrong."""
    as_folder(root / PLACE)
    with pytest.raises(InputError, match="cannot be read"):
        Results.load(
            root / "papers/quenching", "laptop", root / "results", root=root, complete=False
        )


def test_a_run_refuses_another_runs_record_and_an_absent_file_where_it_needs_one(
    root: Path,
) -> None:
    key = RunKey("quenching", "search", "cities", "slow", 0, "laptop")
    settings = load_paper(root / "papers/quenching")
    run = Run(key, "anneal", settings, root / "out", needs={"before": [key]})
    (root / PLACE).with_name("curve.csv").unlink()
    with pytest.raises(InputError, match=r"curve.csv: is not the file that its run wrote"):
        run.needed("before", root / "results")
    DAMAGES["another run's"][0](root / PLACE)
    with pytest.raises(InputError, match="is the record of another run"):
        run.needed("before", root / "results")


@pytest.mark.parametrize("command", [["claims"], ["table", "table1"], ["benchmark", "speed"]])
def test_a_paper_is_named_and_not_pointed_at(root: Path, command: list[str]) -> None:
    before = sorted((root / "papers").rglob("*"))
    for paper in (str(root / "papers/quenching"), "../papers/quenching", "quenching/", "."):
        with pytest.raises(InputError, match=r"paper '.*': must be one of quenching"):
            main([command[0], paper, *command[1:], *options(root)])
    assert sorted((root / "papers").rglob("*")) == before


def test_folders_on_the_command_line_are_what_a_user_means(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root))
    main(["claims", "quenching", "--root", "~", "--results", "~/results"])
    assert (root / "results/laptop/quenching/claims.json").is_file()
    for option in ("--results", "--root"):
        with pytest.raises(InputError, match=f"argument {option}: a path is needed, not ''"):
            main(["claims", "quenching", option, ""])


REPEATS: dict[str, tuple[str, str]] = {
    "nested": (100_000 * "[", "nested too deeply"),
    "negative place": ('{"code": [{}], "repeats": [{"code": -1}]}', "-1"),
    "NaN": ('{"code": [{}], "repeats": [{"code": 0, "x": NaN}]}', "NaN is not a finite number"),
}


@pytest.mark.parametrize("name", REPEATS)
def test_a_damaged_file_of_repeated_runs_is_named(root: Path, name: str) -> None:
    text, message = REPEATS[name]
    path = root / "repeats.json"
    path.write_text(text, encoding="utf8")
    with pytest.raises(InputError, match=f"{path}: not a file of repeated runs .*{message}"):
        read_repeats(path, Tree(Sources(root)))


@pytest.mark.parametrize(
    ("old", "new"),
    [("  search:", "  ../search:"), ("slow: {", "a/slow: {"), ("  table1:", "  /tmp/table1:")],
)
def test_names_that_become_paths_are_no_paths(root: Path, old: str, new: str) -> None:
    path = root / "papers/quenching/experiments.yaml"
    text = path.read_text(encoding="utf8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf8")
    load_paper.cache_clear()
    with pytest.raises(InputError, match=r"experiments.yaml: .*name '.*' must match"):
        load_paper(path.parent)


def archive(root: Path) -> Path:
    path = archive_path(root / "papers/quenching", "laptop")
    main(["archive", "quenching", *options(root)])
    return path


def test_text_with_any_character_survives_the_archive(root: Path) -> None:
    strange = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\r\nh\ni\ufeff"
    changed(settings={"note": strange})(root / PLACE)
    path = archive_path(root / "papers/quenching", "laptop")
    write_archive(path, [item.record for item in load(root).stored])
    kept = Results.from_archive(root / "papers/quenching", "laptop", root=root)
    assert [item.record for item in kept.stored] == [item.record for item in load(root).stored]
    assert kept.stored[-4].record.settings["note"] == strange


def as_of_old(lines: list[str]) -> list[str]:
    """An archive in the form that this project wrote first, with lists of data and code alone."""
    head, *records = map(json.loads, lines)
    codes = [dict(head["modules"][place] for place in places) for places in head["code"]]
    for record in records:
        record["provenance"] |= head["environment"][record["provenance"].pop("environment")]
        record["settings"] = head["settings"][record["settings"]]
    return [json.dumps(item) for item in ({"data": head["data"], "code": codes}, *records)]


def test_an_archive_of_old_gives_the_same_records(root: Path) -> None:
    path = archive(root)
    folder, lines = path.parents[1], path.read_text(encoding="utf8").splitlines()
    now = Results.from_archive(folder, "laptop", root=root)
    path.write_text("\n".join(as_of_old(lines)) + "\n", encoding="utf8")
    before = Results.from_archive(folder, "laptop", root=root)
    assert before.stored == now.stored
    assert [item.stale for item in before.stored] == [item.stale for item in now.stored]


def test_an_archive_keeps_runs_that_are_not_at_hand(root: Path) -> None:
    path = archive(root)
    every = read_archive(path)
    shutil.rmtree((root / PLACE).parents[1])
    main(["archive", "quenching", *options(root)])
    assert read_archive(path) == every


def test_a_run_made_again_takes_the_place_of_the_archived_one(root: Path) -> None:
    path = archive(root)
    every = read_archive(path)
    changed(settings={"note": "again"})(root / PLACE)
    main(["archive", "quenching", *options(root)])
    again = read_archive(path)
    assert [item.key for item in again] == [item.key for item in every]
    differ = [item.settings for item, old in zip(again, every, strict=True) if item != old]
    assert [item["note"] for item in differ] == ["again"]


def test_what_archived_records_share_stands_once(root: Path, tmp_path: Path) -> None:
    first, *others = (item.record for item in load(root).stored)
    shared, old, new = {"step": "1"}, {"rate": "2"}, {"rate": "3"}

    def of_code(record: Record, code: Code) -> Record:
        made = record.provenance.model_copy(update={"code": code})
        return record.model_copy(update={"provenance": made})

    records = [of_code(first, {"loop.py": shared, "search.py": old})]
    records += [of_code(item, {"loop.py": shared, "search.py": new}) for item in others]
    path = write_archive(tmp_path / "laptop.jsonl", records)
    assert read_archive(path) == records
    head, *lines = map(json.loads, path.read_text(encoding="utf8").splitlines())
    assert head["modules"] == [["loop.py", shared], ["search.py", old], ["search.py", new]]
    assert head["code"] == [[0, 1], [0, 2]]
    assert [line["provenance"]["environment"] for line in lines] == [0] * 12
    assert len(head["settings"]) == 3


def test_a_large_archive_goes_on_in_other_files(root: Path, tmp_path: Path) -> None:
    every = [item.record for item in load(root).stored]
    path = tmp_path / "laptop.jsonl"
    whole = len(write_archive(path, every).read_bytes())
    assert archive_files(path) == [path]
    write_archive(path, every, largest=whole // 3 + 1)
    files = archive_files(path)
    assert [file.name for file in files] == [
        "laptop.jsonl",
        "laptop.2.jsonl",
        "laptop.3.jsonl",
    ]
    assert read_archive(path) == every
    # One that is missing, or of another state, is not passed over.
    kept = files[2].read_bytes()
    files[2].unlink()
    with pytest.raises(InputError, match=rf"says {len(every)}: one of them is missing"):
        read_archive(path)
    files[2].write_bytes(files[1].read_bytes())
    with pytest.raises(InputError, match=r"laptop\.3\.jsonl: line 2: a second record"):
        read_archive(path)
    files[2].write_bytes(kept)
    write_archive(path, every[:-1])
    assert archive_files(path) == [path]
    assert read_archive(path) == every[:-1]


def rewritten(number: int, change: Callable[[dict[str, Any]], Any]) -> Callable[[list[str]], None]:
    def damage(lines: list[str]) -> None:
        content = json.loads(lines[number])
        change(content)
        lines[number] = json.dumps(content)

    return damage


ARCHIVES: dict[str, tuple[Callable[[list[str]], None], str]] = {
    "NaN": (
        rewritten(3, lambda record: record["metrics"].update(city_cost=float("nan"))),
        "line 4: not a record .*NaN is not a finite number",
    ),
    "negative place": (
        rewritten(3, lambda record: record.update(data=[-1])),
        r"line 4: not a record \(data -1: must be a place in line 1, below 1",
    ),
    "place of no data": (
        rewritten(3, lambda record: record.update(data=[1])),
        "line 4: .*data 1: must be",
    ),
    "no place": (rewritten(3, lambda record: record.update(data=[True])), "line 4: .*data True"),
    "negative place of code": (
        rewritten(3, lambda record: record["provenance"].update(code=-1)),
        "line 4: not a record .*code -1: must be a place in line 1",
    ),
    "place of no environment": (
        rewritten(3, lambda record: record["provenance"].update(environment=9)),
        "line 4: not a record .*environment 9: must be a place in line 1, below 1",
    ),
    "place of no settings": (
        rewritten(3, lambda record: record.update(settings="slow")),
        "line 4: not a record .*settings 'slow': must be a place in line 1",
    ),
    "place of no module": (
        rewritten(0, lambda head: head["code"][0].append(999)),
        r"line 1: not the lists of an archive, .* \(modules 999: must be a place in line 1",
    ),
    "a list is gone": (
        rewritten(0, lambda head: head.pop("modules")),
        "line 1: not the lists of an archive, data, modules, code, environment, settings",
    ),
    "nested": (lambda lines: lines.insert(2, 100_000 * "["), "line 3: not a record .*too deeply"),
    "no data": (lambda lines: lines.pop(0), "line 1: not the lists of an archive"),  # type: ignore[dict-item]
    "blank": (lambda lines: lines.insert(2, ""), "line 3: not a record"),
    "twice": (
        lambda lines: lines.append(lines[2]),
        "line 14: a second record of laptop/quenching/search/cities/fast/seed1",
    ),
    "another scale": (
        rewritten(3, lambda record: record.update(scale="paper")),
        "line 4: is of quenching at scale paper; allowed: quenching at laptop",
    ),
    "another paper": (rewritten(3, lambda record: record.update(paper="x")), "line 4: is of x at"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_damaged_archive_is_named_with_its_line(root: Path, name: str) -> None:
    damage, message = ARCHIVES[name]
    path = archive(root)
    lines = path.read_text(encoding="utf8").removesuffix("\n").split("\n")
    damage(lines)
    path.write_text("\n".join(lines) + "\n", encoding="utf8")
    with pytest.raises(InputError, match=f"laptop.jsonl: {message}"):
        Results.from_archive(path.parents[1], "laptop", root=root)


def test_an_archive_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "laptop.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"laptop.jsonl: not an archive"):
        read_archive(tmp_path / "laptop.jsonl")
    with pytest.raises(InputError, match=r"cannot be read \(Is a directory\)"):
        read_archive(tmp_path)


def test_results_of_every_kind_refuse_what_is_no_number(root: Path) -> None:
    """Tables, verdicts and benchmarks are read back by the summary and the report."""
    for words in (["table", "quenching", "table1"], ["figure", "quenching", "figure1"]):
        main([*words, *options(root)])
    for words in (["claims", "quenching"], ["benchmark", "quenching", "speed"]):
        main([*words, *options(root)])
    main(["report", *options(root)])
    results = root / "results/laptop/quenching"
    for name, keys in {
        "tables/table1.json": ["cells", 0, "mean"],
        "figures/figure1.json": ["width_px"],
        "claims.json": [0, "value"],
        "benchmarks/speed.json": [0, "ratio"],
    }.items():
        whole = (results / name).read_text(encoding="utf8")
        for number in ("NaN", "-Infinity", "1e999"):
            data = json.loads(whole)
            place: Any = data
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = "@"
            (results / name).write_text(json.dumps(data).replace('"@"', number))
            with pytest.raises(InputError, match=rf"{name}: .*{number} is not a finite number"):
                main(["report", *options(root)])
        (results / name).write_text(whole, encoding="utf8")
    main(["report", *options(root)])


def test_a_published_infinity_is_text(root: Path) -> None:
    path = root / "papers/quenching/published.csv"
    path.write_text(path.read_text().replace("12.50,0.3", "inf,1e999"), encoding="utf8")
    number = load(root).published_value("Table 1", "slow", "city", "cost")
    assert number is not None
    assert (number.value, number.text, number.std) == (None, "inf", None)


def test_what_json_has_no_number_for_is_no_json() -> None:
    assert parse_json('{"a": [1, -2.5e3, null, true, "NaN"]}') == {
        "a": [1, -2500.0, None, True, "NaN"]
    }
    for text in ("NaN", "[Infinity]", "-Infinity", "-1e999", "9" * 400 + ".0", "{} {}", ""):
        with pytest.raises(ValueError, match=r"finite number|Expecting value|Extra data"):
            parse_json(text)


def test_the_command_line_ends_in_one_line_and_status_2(root: Path) -> None:
    DAMAGES["nested"][0](root / PLACE)
    done = subprocess.run(
        [sys.executable, "-m", "common.results", "check", *options(root)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.strip().split("\n")
    assert line.startswith(f"error: {root / PLACE}: not a record (it is nested too deeply)")


def test_a_record_that_is_read_is_the_one_that_was_written(root: Path) -> None:
    record = read_record(root / PLACE)
    assert record.key.record(root / "results") == root / PLACE
