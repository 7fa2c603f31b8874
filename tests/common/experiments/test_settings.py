"""Experiment files: what is merged, what is refused, and with which words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import Field

from common import ROOT
from common.errors import InputError
from common.experiments.documents import parsed_yaml, read_yaml, user_path
from common.experiments.schema import Paper, RunKey, load_paper
from common.experiments.settings import (
    Settings,
    merge_into,
    parse_overrides,
    schema_text,
    validated,
)

SEEDS = {"smoke": [0], "laptop": [0, 1], "paper": [0, 1, 2]}
FRAME: dict[str, Any] = {
    "paper": "tiny",
    "title": "A tiny paper",
    "publication": "nowhere",
    "experiments": {
        "study": {
            "title": "A study",
            "source": "Sec. 1",
            "program": "train",
            "seeds": SEEDS,
            "settings": {"steps": 1000, "optim": {"lr": 0.1, "name": "sgd"}},
            "scales": {"smoke": {"steps": 10, "optim": {"lr": 0.2}}},
            "cases": {
                "main": {"title": "Main", "at": {"smoke": ["ours"], "laptop": "all"}},
                "large": {
                    "title": "Large",
                    "at": ["laptop", "paper"],
                    "settings": {"width": 9, "optim": {"lr": 0.4}},
                    "scales": {"paper": {"width": 99}},
                    "arms": {"theirs": {"steps": 3}},
                    "seeds": {"laptop": [7]},
                    "resources": {"laptop": {"gpu": 2}},
                },
            },
            "arms": {
                "ours": {"title": "Ours", "settings": {"optim": {"name": "adam"}}},
                "theirs": {"title": "Theirs", "scales": {"smoke": {"steps": 5}}},
            },
            "resources": {"paper": {"gpu": 1, "mem_mb": 16000}},
        }
    },
    "targets": {
        "table1": {
            "kind": "table",
            "title": "Scores",
            "source": "Table 1",
            "experiments": ["study"],
        }
    },
}


#: Of a third arm that runs nowhere.
ALL_BUT_THIRD = {
    "experiments__study__cases__main__at": {"smoke": ["ours"], "laptop": ["ours", "theirs"]},
    "experiments__study__cases__large__at": {"laptop": ["theirs"], "paper": ["theirs"]},
}


def frame(**changes: Any) -> dict[str, Any]:
    """The frame with values set by dotted path, ``__`` between keys."""
    data = copy.deepcopy(FRAME)
    for path, value in changes.items():
        *parents, last = path.split("__")
        node = data
        for key in parents:
            node = node[key]
        node[last] = value
    return data


def write(folder: Path, data: Any) -> Path:
    """An experiment file in ``folder/tiny``; returns the folder."""
    (folder / "tiny").mkdir()
    text = data if isinstance(data, str) else yaml.safe_dump(data)
    (folder / "tiny" / "experiments.yaml").write_text(text, encoding="utf8")
    return folder / "tiny"


def test_layers_merge_in_order_and_mappings_merge_deeply() -> None:
    paper = Paper.model_validate(FRAME)
    assert paper.settings("study", "main", "ours", "laptop") == {
        "steps": 1000,
        "optim": {"lr": 0.1, "name": "adam"},
    }
    assert paper.settings("study", "main", "ours", "smoke") == {
        "steps": 10,
        "optim": {"lr": 0.2, "name": "adam"},
    }
    assert paper.settings("study", "main", "theirs", "smoke")["steps"] == 5  # arm's scale wins
    changed = paper.settings("study", "main", "theirs", "smoke", {"steps": 7, "optim": {"lr": 1}})
    assert changed == {"steps": 7, "optim": {"lr": 1, "name": "sgd"}}


def test_a_case_lies_between_experiment_and_arm_and_may_have_a_word_for_one_arm() -> None:
    paper = Paper.model_validate(FRAME)
    large = {"steps": 1000, "width": 9, "optim": {"lr": 0.4, "name": "adam"}}
    assert paper.settings("study", "large", "ours", "laptop") == large
    assert paper.settings("study", "large", "ours", "paper") == large | {"width": 99}
    assert paper.settings("study", "large", "theirs", "laptop")["steps"] == 3
    assert paper.settings("study", "large", "theirs", "smoke")["steps"] == 3  # over the arm's scale


def test_runs_that_come_before_are_all_seeds_of_an_arm_and_a_case_or_arm_may_name_another() -> None:
    study = FRAME["experiments"]["study"]
    case = {"main": {"title": "Main", "at": ["smoke", "laptop", "paper"]}}
    arms = {"a": {"title": "A"}, "b": {"title": "B"}, "ours": {"title": "Ours"}}
    changed = frame(
        experiments__pretraining=study | {"cases": case, "arms": arms},
        experiments__study__needs={
            "weights": "pretraining/main/a",
            "same": "pretraining/main/ours",
        },
        experiments__study__cases__large__needs={"same": "pretraining/main/b"},
        experiments__study__arms__theirs__needs={"weights": "pretraining/main/b"},
    )
    paper = Paper.model_validate(changed)

    def needed(case: str, arm: str) -> dict[str, set[str]]:
        found = paper.needed(RunKey("tiny", "study", case, arm, 0, "laptop"))
        return {name: {key.place for key in keys} for name, keys in found.items()}

    before = [RunKey("tiny", "pretraining", "main", "a", seed, "laptop") for seed in (0, 1)]
    assert paper.needed(RunKey("tiny", "study", "main", "ours", 1, "laptop"))["weights"] == before
    assert needed("main", "theirs")["weights"] == {"pretraining/main/b"}
    assert needed("main", "ours")["same"] == {"pretraining/main/ours"}
    assert needed("large", "ours")["same"] == {"pretraining/main/b"}
    assert paper.needed(before[0]) == {}


def test_a_need_may_be_the_run_of_the_same_case_and_arm() -> None:
    study = FRAME["experiments"]["study"]
    changed = frame(
        experiments__pretraining=copy.deepcopy(study),
        experiments__study__needs={"weights": "pretraining/{case}/{arm}"},
    )
    paper = Paper.model_validate(changed)
    (before,) = paper.needed(RunKey("tiny", "study", "large", "ours", 7, "laptop")).values()
    assert before == [RunKey("tiny", "pretraining", "large", "ours", 7, "laptop")]


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"weights": "study/{case}/{arm}"}, "study/main/ours needs study/main/ours"),
        ({"weights": "study"}, "'study' must be EXPERIMENT/CASE/ARM"),
        ({"weights": "studies/main/ours"}, "'studies/main/ours' must be EXPERIMENT/CASE/ARM"),
        ({"weights": "study/main/ours/more"}, "must be EXPERIMENT/CASE/ARM"),
        ({"weights": "study/main/theirs"}, "of what runs at smoke"),
    ],
)
def test_a_need_that_no_run_meets_is_refused(needs: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Paper.model_validate(frame(experiments__study__needs=needs))


def test_merging_leaves_the_layers_untouched() -> None:
    paper = Paper.model_validate(FRAME)
    paper.settings("study", "main", "ours", "smoke", {"optim": {"lr": 9}})
    assert paper.experiments["study"].settings == FRAME["experiments"]["study"]["settings"]
    base: dict[str, Any] = {}
    layer = {"a": {"b": [1]}}
    merge_into(base, layer)
    base["a"]["b"].append(2)
    assert layer == {"a": {"b": [1]}}


def test_runs_are_cases_times_arms_times_seeds_of_the_scale() -> None:
    paper = Paper.model_validate(FRAME)
    assert paper.runs("smoke") == [RunKey("tiny", "study", "main", "ours", 0, "smoke")]
    assert [(key.case, key.arm, key.seed) for key in paper.runs("laptop")] == [
        ("main", "ours", 0),
        ("main", "ours", 1),
        ("main", "theirs", 0),
        ("main", "theirs", 1),
        ("large", "ours", 7),
        ("large", "theirs", 7),
    ]
    assert {key.case for key in paper.runs("paper")} == {"large"}
    assert len(paper.runs("paper")) == 6
    assert paper.runs("paper", []) == []


def test_a_run_is_named_by_experiment_case_arm_and_seed() -> None:
    key = RunKey("tiny", "study", "main", "ours", 3, "paper")
    assert key.record() == Path("results/paper/tiny/study/main/ours/seed3/record.json")
    assert key.command == (
        "python papers/tiny/train.py study --case main --arm ours --seed 3 --scale paper"
    )


def test_a_case_need_not_be_named_where_there_is_one() -> None:
    study = Paper.model_validate(FRAME).experiments["study"]
    assert study.case("large", "here") == "large"
    assert study.case(None, "here", "smoke") == "main"
    with pytest.raises(InputError, match="here: a case is needed; it has main, large"):
        study.case(None, "here")
    with pytest.raises(InputError, match="here: no case 'huge'; it has main, large"):
        study.case("huge", "here", "smoke")


def test_a_case_whose_data_differ_by_scale_has_a_title_at_each() -> None:
    titles = {"smoke": "Digits", "laptop": "Clothes"}
    study = Paper.model_validate(frame(experiments__study__cases__main__title=titles))
    main, large = study.experiments["study"].cases.values()
    assert [main.title_at(scale) for scale in main.at] == ["Digits", "Clothes"]
    assert large.title_at("paper") == "Large"


def test_resources_are_the_case_s_or_the_experiment_s_or_none() -> None:
    paper = Paper.model_validate(FRAME)
    assert paper.resources("study", "main", "paper").gpu == 1
    assert paper.resources("study", "main", "laptop").gpu == 0
    assert paper.resources("study", "large", "laptop").gpu == 2
    assert paper.resources("study", "large", "paper").gpu == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, ["unknown key 'colour'", "'red'", "allowed:", "experiments"]),
        (
            {"experiments__study__arms__ours__setings": {"lr": 1}},
            [
                "unknown key 'experiments.study.arms.ours.setings'",
                "allowed: needs, published, scales, settings",
            ],
        ),
        ({"experiments__study__seeds__smoke": []}, ["seeds.smoke", "at least one seed"]),
        ({"experiments__study__seeds__smoke": [1, 1]}, ["seeds.smoke", "[1, 1]", "distinct"]),
        ({"experiments__study__seeds__smoke": [-1]}, ["seeds.smoke", "[-1]", ">= 0"]),
        ({"experiments__study__seeds__smoke": [2**32]}, ["seeds.smoke", "< 4294967296"]),
        (
            {"experiments__study__cases__main__at": {"smoke": ["mine"]}},
            ["cases.main.at.smoke", "mine", "'all'", "['ours', 'theirs']"],
        ),
        ({"experiments__study__cases__main__at": {"smoke": []}}, ["cases.main.at.smoke", "[]"]),
        ({"experiments__study__cases__main__at": ["huge"]}, ["cases.main.at", "'huge'"]),
        ({"experiments__study__cases__main__at": ["laptop"]}, ["none runs at smoke"]),
        ({"experiments__study__cases__main__arms": {"mine": {}}}, ["main.arms: ['mine'] not"]),
        ({"experiments__study__cases__large__seeds": {"paper": []}}, ["large.seeds.paper", "one"]),
        ({"experiments__study__cases__main__smaller": "few"}, ["main.smaller", "scale paper"]),
        (
            {"experiments__study__cases__main__scales": {"paper": {}}},
            ["main.scales: ['paper'] not"],
        ),
        ({"experiments__study__cases__large__title": "Main"}, ["at laptop", "title 'Main'"]),
        ({"experiments__study__arms__theirs__title": "Ours"}, ["arms: two", "title 'Ours'"]),
        ({"experiments__study__arms__third": {"title": "T"}} | ALL_BUT_THIRD, ["['third'] run in"]),
        ({"experiments__study__cases__main__at": [["smoke"]]}, ["cases.main.at"]),
        ({"targets__table1__experiments": ["study", "study"]}, ["table1.experiments", "twice"]),
        (
            {"experiments__study__cases__main__title": {"smoke": "Small"}},
            ["cases.main.title", "['smoke']", "needed: ['laptop', 'smoke']"],
        ),
        ({"experiments__study__resources": {"paper": {"gpu": -1}}}, ["resources.paper.gpu", "-1"]),
        ({"experiments__study__scales": {"huge": {}}}, ["'smoke', 'laptop' or 'paper'"]),
        ({"targets__table1__kind": "tabel"}, ["targets.table1.kind", "'tabel'", "'figure'"]),
        ({"targets__table1__experiments": ["stud"]}, ["['stud']", "['study']"]),
        (
            {"not_rebuilt": [{"name": "table1", "title": "t", "reason": "no data is public"}]},
            ["table1", "also targets"],
        ),
        ({"paper": "other"}, ["'paper'", "'tiny'"]),
    ],
)
def test_a_bad_file_is_refused_with_file_key_value_and_what_is_allowed(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    folder = write(tmp_path, frame(**changes))
    with pytest.raises(InputError) as caught:
        load_paper(folder)
    message = str(caught.value)
    assert str(folder / "experiments.yaml") in message
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    data = frame()
    del data["experiments"]["study"]["program"]
    with pytest.raises(InputError, match=r"key 'experiments\.study\.program' is missing"):
        load_paper(write(tmp_path, data))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("a: 1\nb: {c: 1, c: 2}\n")
    with pytest.raises(InputError, match=r"twice\.yaml.*'c' is given twice \(line 2\)"):
        read_yaml(tmp_path / "twice.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: !!python/object/apply:os.getcwd []", "\t- x"])
def test_yaml_that_is_malformed_or_asks_for_code_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError, match=r"bad\.yaml: not valid YAML"):
        read_yaml(tmp_path / "bad.yaml")


#: Texts that YAML's grammar takes and of which no value can be built, with what is said of each.
UNBUILDABLE = [
    ("2020-13-45", "a timestamp is not allowed"),
    ("2020-01-01", "a timestamp is not allowed"),
    ("!!timestamp x", "a timestamp is not allowed"),
    ("!!binary aGk=", "a binary is not allowed"),
    ("!!set {a}", "a set is not allowed"),
    ("0x_", "'0x_' is not a valid int"),
    ("!!int abc", "'abc' is not a valid int"),
    ("!!int ''", "'' is not a valid int"),
    ("9" * 5000, "not a valid int"),
    ("!!float x", "'x' is not a valid float"),
    ("!!bool x", "'x' is not a valid bool"),
    ("[" * 3000, "nested too deeply"),
    ("[" * 3000 + "]" * 3000, "nested too deeply"),
    ("[" * 300_000, "nested too deeply"),
    ("- " * 300_000, "nested too deeply"),
    ("&a [*a]", "recursive"),
    ("{a: 1, a: 2}", "'a' is given twice"),
]


@pytest.mark.parametrize(("text", "words"), UNBUILDABLE, ids=lambda text: text[:20])
def test_a_value_that_cannot_be_built_is_refused_by_file(
    tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "bad.yaml").write_text(f"title:\n  {text}\n")
    with pytest.raises(InputError, match=r"bad\.yaml: not valid YAML") as caught:
        read_yaml(tmp_path / "bad.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize(("text", "words"), UNBUILDABLE, ids=lambda text: text[:20])
def test_a_value_that_cannot_be_built_is_refused_by_option(text: str, words: str) -> None:
    with pytest.raises(InputError, match=r"--set .*interval_s=") as caught:
        parse_overrides([f"interval_s={text}"])
    assert words in str(caught.value)
    assert len(str(caught.value)) < 200


def test_half_a_character_is_refused() -> None:
    with pytest.raises(InputError, match=r"--set .*a="):
        parse_overrides(["a=\udc80"])


def test_libyaml_finds_in_our_files_what_python_finds() -> None:
    files = [*ROOT.glob("papers/*/*.yaml"), *ROOT.glob("common/data/manifests/*.yaml")]
    texts = [path.read_text(encoding="utf8") for path in files]
    found = [parsed_yaml(text) for text in texts]
    assert len(found) > 10
    assert found == [yaml.load(text, Loader=yaml.SafeLoader) for text in texts]


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml: no such file"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(InputError, match=r"latin\.yaml: cannot be read"):
        read_yaml(tmp_path / "latin.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_yaml(tmp_path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"experiments\.yaml: key '\(top level\)'"):
        load_paper(write(tmp_path, ""))


def test_overrides_are_yaml_values_under_dotted_keys() -> None:
    pairs = ["a.b=1", "a.c=[1, 2]", "d=true", "e=text", "f=", "g=x=y", "a.b=2.5"]
    assert parse_overrides(pairs) == {
        "a": {"b": 2.5, "c": [1, 2]},
        "d": True,
        "e": "text",
        "f": None,
        "g": "x=y",
    }


@pytest.mark.parametrize("pair", ["novalue", "=1", "a..b=1", ".a=1", "a=[1"])
def test_an_override_that_is_no_assignment_is_quoted(pair: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_overrides([pair])
    assert repr(pair) in str(caught.value)


class Optimiser(Settings):
    lr: float = Field(0.1, gt=0)


class Training(Settings):
    steps: int = Field(10, gt=0)
    optim: Optimiser = Optimiser()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"optim": {"lrr": 1}}, ["unknown key 'optim.lrr' (value 1)", "allowed: lr"]),
        ({"optim": {"lr": -1}}, ["key 'optim.lr'", "greater than 0", "got -1"]),
        ({"steps": "many"}, ["key 'steps'", "integer", "'many'"]),
        ({"steps": 2.5}, ["key 'steps'", "integer", "2.5"]),
        ({"steps": float("nan")}, ["key 'steps'"]),
        ("text", ["(top level)"]),
    ],
)
def test_settings_are_refused_with_key_and_value(data: Any, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        validated(Training, data, "here")
    for word in ["here: ", *words]:
        assert word in str(caught.value)


class Numbers(Settings):
    share: float = 0.5
    free: float | None = None
    many: dict[str, list[float]] = Field({})
    count: int = 0
    counts: tuple[int, ...] = ()
    raw: dict[str, Any] = Field({})


@pytest.mark.parametrize("field", ["share", "free"])
@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "nan", "1e400", "1.0e+400", "9" * 400])
def test_no_setting_is_infinite_or_not_a_number(field: str, text: str) -> None:
    data = parse_overrides([f"{field}={text}"])
    with pytest.raises(InputError, match=f"here: key '{field}'"):
        validated(Numbers, data, "here")


def test_a_number_within_a_setting_is_finite_too() -> None:
    with pytest.raises(InputError, match=r"key 'many\.a\.1': .*finite number, got inf"):
        validated(Numbers, {"many": {"a": [1.0, float("inf")]}}, "here")


@pytest.mark.parametrize("value", [2**63, -(2**63), 10**30, 1 << 20000], ids=int.bit_length)
@pytest.mark.parametrize("field", ["count", "counts", "raw"])
def test_whole_numbers_fit_into_64_bits(field: str, value: int) -> None:
    data = {"count": value, "counts": [1, value], "raw": {"deep": [{"er": value}]}}
    with pytest.raises(InputError, match=f"key '{field}': .*between") as caught:
        validated(Numbers, {field: data[field]}, "here")
    assert len(str(caught.value)) < 200


def test_the_largest_numbers_are_settings() -> None:
    largest = {"share": 1.7e308, "count": 2**63 - 1, "counts": [1 - 2**63]}
    made = validated(Numbers, largest, "here")
    assert (made.share, made.count, made.counts) == (1.7e308, 2**63 - 1, (1 - 2**63,))


def test_a_long_value_is_not_repeated() -> None:
    with pytest.raises(InputError, match=r"unknown key 'colour'; allowed") as caught:
        validated(Numbers, {"colour": "x" * 5000}, "here")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("path", ["", "~no_such_user/data"])
def test_a_path_that_leads_nowhere_is_refused(path: str) -> None:
    with pytest.raises(InputError):
        user_path(path)


def test_a_tilde_is_the_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/homes/me")
    assert user_path("~/data") == Path("/homes/me/data")
    assert user_path("data/~") == Path("data/~")


def test_exponents_without_a_dot_are_numbers() -> None:
    # YAML 1.1 reads 1e-3 as text; the settings model must not.
    data = {"optim": parse_overrides(["lr=1e-3"])}
    assert validated(Training, data, "here").optim.lr == 1e-3


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Training().steps = 3  # type: ignore[misc]


def test_the_json_schema_accepts_and_refuses_as_the_model_does() -> None:
    schema = Draft202012Validator(json.loads(schema_text(Paper)))
    assert schema.is_valid(FRAME)
    assert not schema.is_valid(frame(colour="red"))
    assert not schema.is_valid(frame(targets__table1__kind="tabel"))
    assert not schema.is_valid(frame(experiments__study__arms={}))
    assert not schema.is_valid(frame(experiments__study__cases={}))
    assert not schema.is_valid(frame(experiments__study__cases__main__at=["huge"]))
