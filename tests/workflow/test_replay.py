"""Records made again: one by its command, and as many as vouch for records of older code."""

from __future__ import annotations

import json
import subprocess
import sys

from common.results.evidence.repeats import TOLERANCE, compare
from common.results.evidence.replay import old_folder
from common.runs.record import read_record
from tests.workflow.conftest import Checkout, call

#: The same number in other words, and another number.
SAME = ("fit(halves.train, ", "fit(halves.train * 1, ")
OTHER = (SAME[0], "fit(halves.train * 4, ")


def results(checkout: Checkout, *words: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "common.results", *words, "--scale", "smoke")
    return call(checkout.folder, *command)


def stale(checkout: Checkout) -> dict[str, list[str]]:
    """Stale and recertified records, as the table's context says."""
    done = results(checkout, "table", "example_paper", "table1")
    assert done.returncode == 0, done.stderr
    table = json.loads((checkout.results / "tables/table1.json").read_text(encoding="utf8"))
    context: dict[str, list[str]] = table["context"]
    return context


def test_a_record_s_command_gives_the_record_again(copy_of_built: Checkout) -> None:
    path = "results/smoke/example_paper/regularisation/digits/weak/seed1/record.json"
    done = results(copy_of_built, "replay", path)
    assert done.stdout == "regularisation/digits/weak/seed1: equal\n", done.stderr
    copy_of_built.edit("experiments/classify.py", *OTHER)
    before = (copy_of_built.folder / path).read_bytes()
    done = results(copy_of_built, "replay", path)
    assert done.returncode == 2
    assert "regularisation/digits/weak/seed1: different\n  accuracy: " in done.stdout
    assert "answers.csv: other bytes" in done.stdout
    assert (copy_of_built.folder / path).read_bytes() == before


def test_what_a_case_says_to_measure_the_machine_is_not_compared(copy_of_built: Checkout) -> None:
    path = "results/smoke/example_paper/regularisation/digits/weak/seed1/record.json"
    copy_of_built.edit("experiments/classify.py", *OTHER)
    copy_of_built.edit(
        "experiments.yaml", "published: digits, at:", "published: digits, timed: [acc*], at:"
    )
    done = results(copy_of_built, "replay", path)
    assert done.returncode == 2
    lines = done.stdout.splitlines()
    assert lines == ["regularisation/digits/weak/seed1: different", "  answers.csv: other bytes"]


def test_a_record_that_is_not_there_is_one_line(copy_of_built: Checkout) -> None:
    for name in ("results/nowhere", "example_paper/regularisation/digits/weak/0", "other/a/b/c/0"):
        done = results(copy_of_built, "replay", name)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {name}: no such record; allowed: the path of")
        assert done.stderr.count("\n") == 1


def test_an_archived_record_is_named_by_its_run(copy_of_built: Checkout) -> None:
    assert results(copy_of_built, "archive", "example_paper").returncode == 0
    done = results(copy_of_built, "replay", "example_paper/regularisation/digits/usual/2")
    assert done.stdout == "regularisation/digits/usual/seed2: equal\n", done.stderr
    done = results(copy_of_built, "replay", "example_paper/regularisation/digits/usual/9")
    assert done.returncode == 2
    assert "holds no run regularisation/digits/usual/9" in done.stderr


def test_a_change_that_changes_no_number_is_recertified(copy_of_built: Checkout) -> None:
    checkout = copy_of_built
    assert results(checkout, "archive", "example_paper").returncode == 0
    assert stale(checkout)["stale"] == []
    checkout.edit("experiments/classify.py", *SAME)
    network, *six = stale(checkout)["stale"]
    assert len(six) == 6
    # It is of another program, and has read three of them.
    assert network.startswith("hidden_layer/digits/perceptron/seed0 ")
    assert "(what it needs: regularisation/digits/usual/seed0 and 2 more)" in network
    done = results(checkout, "recertify", "example_paper", "--experiments", "regularisation")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 2  # one of the archive, one of the results
    context = stale(checkout)
    assert context["stale"] == []
    assert context["recertified"] == ["regularisation: 6 records (1 repeated: 1 equal)"]
    # What was seen holds for that code alone.
    checkout.edit("experiments/classify.py", SAME[1], "fit(halves.train * 2 / 2, ")
    assert len(stale(checkout)["stale"]) == 7
    assert stale(checkout)["recertified"] == []


def test_a_change_that_changes_a_number_stays_stale(copy_of_built: Checkout) -> None:
    checkout = copy_of_built
    checkout.edit("experiments/classify.py", *OTHER)
    done = results(checkout, "recertify", "example_paper", "--runs", "2")
    assert done.returncode == 2
    assert done.stdout.count("different") == 2
    assert "2 of 2 repeated runs are different" in done.stderr
    assert stale(checkout)["recertified"] == []
    _, *six = stale(checkout)["stale"]
    assert all("(code, and a repeated run differs)" in item for item in six)


def test_on_another_machine_the_record_s_own_commit_is_run_beside(copy_of_built: Checkout) -> None:
    """A record whose number this machine does not give, neither with its code nor with today's."""
    checkout = copy_of_built
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for words in (
        ("init", "-q"),
        ("add", "papers", "common", "pyproject.toml"),
        (*who, "commit", "-qm", "as it was"),
    ):
        assert call(checkout.folder, "git", *words).returncode == 0
    commit = call(checkout.folder, "git", "rev-parse", "HEAD").stdout.strip()
    for path in checkout.results.rglob("record.json"):
        record = json.loads(path.read_text(encoding="utf8"))
        record["provenance"] |= {"git_commit": commit, "instructions": "avx9"}
        record["metrics"]["accuracy"] /= 2
        path.write_text(json.dumps(record), encoding="utf8")
    checkout.edit("experiments/classify.py", *SAME)
    done = results(checkout, "recertify", "example_paper")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("equal here ")
    said = "regularisation: 6 records (1 repeated: 1 equal to the old code on another machine)"
    assert stale(checkout)["recertified"] == [said]
    checkout.edit("experiments/classify.py", SAME[1], OTHER[1])
    done = results(checkout, "recertify", "example_paper")
    assert done.returncode == 2
    assert done.stdout.startswith("different ")


def test_a_recorded_command_tells_where_its_own_code_keeps_the_run() -> None:
    words = ["search", "--seed", "3", "--arm", "slow", "--set", "rate=2", "--scale=paper"]
    before_cases = old_folder("annealing", words)
    assert before_cases.as_posix() == "paper/annealing/search/slow/seed3"
    with_case = old_folder("annealing", ["search", "--case", "city", "--arm", "slow"])
    assert with_case.as_posix() == "laptop/annealing/search/city/slow/seed0"


def test_nothing_to_repeat_is_said(copy_of_built: Checkout) -> None:
    done = results(copy_of_built, "recertify", "example_paper")
    assert (done.returncode, done.stdout) == (0, "nothing to repeat\n"), done.stderr
    done = results(copy_of_built, "recertify", "example_paper", "--experiments", "unheard")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no experiment unheard; allowed: regularisation, hidden_layer" in done.stderr


def test_another_machine_may_round_otherwise_the_same_one_may_not(built: Checkout) -> None:
    made = read_record(built.results / "regularisation/digits/weak/seed1/record.json")
    accuracy = made.metrics["accuracy"]
    near = made.model_copy(update={"metrics": {"accuracy": accuracy * (1 + TOLERANCE / 2)}})
    far = made.model_copy(update={"metrics": {"accuracy": accuracy * (1 + TOLERANCE * 2)}})
    elsewhere = made.provenance.model_copy(update={"instructions": "avx2"})
    old = made.model_copy(update={"provenance": elsewhere})
    assert compare(made, made, []) == ("equal", [])
    assert compare(made, near, [])[0] == "different"
    assert compare(old, near, [])[0] == "within tolerance"
    assert compare(old, far, [])[0] == "different"
    # What measures the machine is not compared; other bytes without another number are a change.
    assert compare(made, far, ["acc*"]) == ("equal", [])
    assert compare(old, made.model_copy(update={"artifacts": {}}), [])[0] == "different"
    assert compare(made, made.model_copy(update={"settings": {}}), [])[0] == "different"
    newer = made.model_copy(update={"settings": {**made.settings, "new": "its default"}})
    assert compare(made, newer, []) == ("equal", [])
    assert compare(made, made.model_copy(update={"metrics": {}}), [])[0] == "different"
