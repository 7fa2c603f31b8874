"""Rules of the house: who imports whom, what agrees with what, what is not kept here."""

from __future__ import annotations

import ast
import importlib
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from common import ROOT
from common.experiments.schema import SCALES, Paper, Scale, find_papers, load_paper
from common.experiments.settings import schema_text, validated
from common.results.claims import FEWEST_SEEDS, read_claims
from common.results.evidence.archives import archive_path, read_archive
from common.results.records import read_published
from common.results.report.summary import list_papers
from common.runs.imports import list_imports, resolve_source
from common.runs.programs import Programs
from common.runs.record import Record
from workflow import environment, pins

PAPERS = {folder.name: folder for folder in find_papers()}
#: Floors of a paper above its library: what is compared and tried, then what is shown of it.
FLOORS = (
    {"methods", "measures", "tasks", "corpora", "speech", "experiments"},
    {"targets", "benchmarks"},
)
#: What a library that is imported alone has no use for.
OF_RUNS = (
    "common.results",
    *(f"common.runs.{name}" for name in ("cli", "programs", "record", "run")),
)
each_paper = pytest.mark.parametrize("name", PAPERS)


def committed() -> list[Path]:
    """Files under version control."""
    done = subprocess.run(("git", "ls-files", "-z"), cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def papers_among(modules: Iterable[str]) -> set[str]:
    """Names of the papers that modules belong to."""
    parts = [name.split(".") for name in modules]
    return {name[1] for name in parts if name[0] == "papers" and len(name) > 1}


def papers_imported(path: Path) -> set[str]:
    """Names of the papers whose modules a file imports."""
    package = path.relative_to(ROOT).parts[:-1]
    return papers_among(list_imports(path.read_text(encoding="utf8"), package))


def test_the_core_knows_no_paper() -> None:
    files = sorted((ROOT / "common").rglob("*.py"))
    assert files
    assert {str(path): papers_imported(path) for path in files if papers_imported(path)} == {}


@each_paper
def test_papers_import_the_core_themselves_and_what_they_say_they_use(name: str) -> None:
    used = set(load_paper(PAPERS[name]).uses)
    assert used <= PAPERS.keys() - {name}
    seen = set()
    for path in PAPERS[name].rglob("*.py"):
        others = papers_imported(path) - {name}
        assert others <= used, f"{path} imports papers {others - used}"
        seen |= others
    assert seen == used


def floor_of(part: str) -> int:
    """0 for a part of a paper's library, 1 for a recipe, 2 for results."""
    return next((number for number, names in enumerate(FLOORS, 1) if part in names), 0)


@each_paper
def test_results_know_recipes_and_recipes_the_library_and_not_the_other_way_round(
    name: str,
) -> None:
    for path in sorted(PAPERS[name].rglob("*.py")):
        part = path.relative_to(PAPERS[name]).parts[0]
        if part in ("__init__.py", "train.py"):
            continue  # the doors: of the library, and of the experiments
        package = path.relative_to(ROOT).parts[:-1]
        for module in list_imports(path.read_text(encoding="utf8"), package):
            of_runs = any(f"{module}.".startswith(f"{other}.") for other in OF_RUNS)
            assert floor_of(part) > 0 or not of_runs, f"{path} imports {module}"
            if module.startswith(f"papers.{name}."):
                assert floor_of(module.split(".")[2]) <= floor_of(part), f"{path} imports {module}"


@each_paper
def test_what_a_package_brings_is_what_it_tells_type_checkers(name: str) -> None:
    front = PAPERS[name] / "__init__.py"
    package = ("papers", name)
    told, brought = {}, {}
    for node in ast.walk(ast.parse(front.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom):
            told |= {alias.name: resolve_source(node, package) for alias in node.names}
        elif isinstance(node, ast.keyword) and node.arg == "submod_attrs":
            for module, names in ast.literal_eval(node.value).items():
                brought |= dict.fromkeys(names, f"papers.{name}.{module}")
    assert brought
    assert brought.items() <= told.items()
    offered = importlib.import_module(f"papers.{name}").__all__
    assert set(offered) - brought.keys() <= told.keys() | {"init"}


@each_paper
def test_each_module_of_experiments_is_the_program_of_some(name: str) -> None:
    assert set(Programs(PAPERS[name])) == {
        study.program for study in load_paper(PAPERS[name]).experiments.values()
    }


def test_every_way_to_import_a_paper_is_seen() -> None:
    source = "from ..two import x\nfrom papers import three\nimport papers.four.five\nimport os"
    assert papers_among(list_imports(source, ("papers", "one"))) == {"two", "three", "four"}
    assert papers_among(list_imports("from . import x", ("papers", "one"))) == {"one"}


def test_schemas_are_those_of_the_models() -> None:
    folder = ROOT / "workflow" / "schema"
    for name, model in (("experiments", Paper), ("record", Record)):
        text = (folder / f"{name}.schema.json").read_text(encoding="utf8")
        assert text == schema_text(model), "run: python -m common.runs.schemas"


@each_paper
def test_every_arm_validates_in_every_case_at_every_scale(name: str) -> None:
    paper = load_paper(PAPERS[name])
    programs = Programs(PAPERS[name])
    for experiment, study in paper.experiments.items():
        assert study.program in programs
        for scale in SCALES:
            for case, arm in study.runs(scale):
                raw = paper.settings(experiment, case, arm, scale)
                where = f"{name}.{experiment}.{case}.{arm} at {scale}"
                validated(programs[study.program].settings, raw, where)


@each_paper
def test_every_archived_record_is_of_a_run_that_the_file_has(name: str) -> None:
    paper = load_paper(PAPERS[name])
    for scale in SCALES:
        path = archive_path(PAPERS[name], scale)
        kept = read_archive(path) if path.is_file() else []
        assert {item.key for item in kept} <= set(paper.runs(scale)), path


@each_paper
def test_every_target_and_benchmark_has_its_function_and_the_other_way_round(name: str) -> None:
    paper = load_paper(PAPERS[name])

    def given(module: str, mapping: str) -> set[str]:
        if not (PAPERS[name] / Path(*module.split("."))).with_suffix(".py").exists():
            return set()
        found: ModuleType = importlib.import_module(f"papers.{name}.{module}")
        return set(getattr(found, mapping))

    def named(kind: str) -> set[str]:
        return {target for target, body in paper.targets.items() if body.kind == kind}

    assert given("targets.tables", "TABLES") == named("table")
    assert given("targets.figures", "FIGURES") == named("figure")
    assert given("targets.listings", "LISTINGS") == named("listing")
    assert given("benchmarks.ratios", "BENCHMARKS") == set(paper.benchmarks)


@each_paper
def test_claims_name_what_is_run(name: str) -> None:
    claims = read_claims(PAPERS[name])
    paper = load_paper(PAPERS[name])
    for claim in claims:
        scale: Scale = "laptop" if "laptop" in claim.scales else "paper"
        for operand in (claim.a, claim.b or claim.a):
            runs = paper.experiments[operand.experiment].runs(scale)
            assert (operand.case, operand.arm) in runs, f"{claim.claim} is never judged"
            fewest = 1 if claim.deterministic else FEWEST_SEEDS
            seeds = paper.seeds(operand.experiment, operand.case, scale)
            assert len(seeds) >= fewest, f"{claim.claim} needs {fewest} seeds"


def test_the_readme_lists_every_paper_with_its_coverage() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    assert list_papers(ROOT) in text, "run: python -m common.results readme"


@each_paper
def test_a_paper_says_what_of_it_is_rebuilt(name: str) -> None:
    assert load_paper(PAPERS[name]).summary


@each_paper
def test_published_numbers_are_well_formed(name: str) -> None:
    frame = read_published(PAPERS[name])
    assert len(frame)
    assert set(frame["paper"]) == {name}
    assert (frame["source"].str.len() > 0).all()
    assert (frame["text"].str.len() > 0).all()


@each_paper
def test_a_paper_has_what_every_paper_has(name: str) -> None:
    for file in ("README.md", "train.py", "experiments", "targets", "claims.yaml"):
        assert (PAPERS[name] / file).exists(), file


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "misc", "tools"}
    for path in committed():
        parts = {part.removesuffix(".py") for part in path.relative_to(ROOT).parts}
        assert not parts & drawers, path


def test_no_committed_file_is_above_one_megabyte() -> None:
    large = {str(path): path.stat().st_size for path in committed() if path.is_file()}
    assert {path: size for path, size in large.items() if size > 1_000_000} == {}


def pinned() -> dict[str, str]:
    """Versions in requirements.txt, by normalised name."""
    lines = environment.PINS.read_text(encoding="utf8").splitlines()
    pairs = [line.split("==") for line in lines if line[:1].isalnum()]
    return {normalised(name): version.strip() for name, version in pairs}


def normalised(name: str) -> str:
    """A project's name as the package index compares it, without extras."""
    return name.partition("[")[0].strip().lower().replace("_", "-").replace(".", "-")


def test_requirements_hold_every_pin_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(pin for extra in extras for pin in extra)]
    for pin in wanted:
        name, version = pin.split("==")
        assert pinned()[normalised(name)] == version, "run: make pins"


def test_requirements_name_versions_and_nothing_else() -> None:
    for line in environment.PINS.read_text(encoding="utf8").splitlines():
        if not line.lstrip().startswith("#"):
            name, version = line.split("==")
            assert name == name.strip()
            assert version.replace(".", "").replace("post", "").isalnum()


def test_the_environment_that_runs_this_holds_the_pins() -> None:
    assert environment.differences() == [], "run: make env"


def test_a_processor_without_avx2_is_an_untested_one() -> None:
    assert environment.tested_processor("x86_64", "flags\t\t: fpu avx avx2 bmi2\n")
    assert not environment.tested_processor("x86_64", "flags\t\t: fpu avx bmi1\n")
    assert not environment.tested_processor("aarch64", "Features\t: fp asimd\n")


def test_conda_installs_the_same_pins_on_a_supported_python() -> None:
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf8"))
    assert content["channels"] == ["conda-forge", "nodefaults"]
    *packages, last = content["dependencies"]
    assert f"python={environment.SUPPORTED[-1]}" in packages
    assert "pip" in packages
    assert last == {"pip": ["-r requirements.txt", "-e ."]}


def test_the_conda_environment_of_rules_is_made_of_the_same_pins() -> None:
    path = ROOT / "workflow" / "envs" / "reproductions.yaml"
    text = environment.PINS.read_text(encoding="utf8")
    assert path.read_text(encoding="utf8") == pins.conda_environment(text), "run: make pins"
    assert yaml.safe_load(path.read_text(encoding="utf8"))["channels"][-1] == "nodefaults"
