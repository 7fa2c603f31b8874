"""The frame of experiment files: what is run, at which scale, and what is made of it.

``papers/<paper>/experiments.yaml`` names every experiment of a paper: its cases (data set, size,
corpus), its arms (methods compared), seeds and settings at each scale; and the paper's targets
(tables and figures). This module checks the frame of that file; a program's own settings are
checked by the pydantic model that it declares (:class:`common.runs.programs.Program`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from common import ROOT
from common.errors import InputError
from common.experiments.documents import read_yaml
from common.experiments.settings import Settings, merge_into, validated

Scale = Literal["smoke", "laptop", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
NAME = r"^[a-z][a-z0-9_]*$"
#: Of cases and arms.
PART_NAME = r"^[a-z0-9][a-z0-9_.+-]*$"
#: Seeds are below this: what every generator that a run may seed takes.
MAX_SEED = 2**32


class Resources(Settings):
    """What one run asks of the machine (Snakemake's standard resource names)."""

    gpu: int = Field(0, ge=0, description="GPUs")
    mem_mb: int = Field(2000, gt=0, description="memory, MiB")
    runtime: int = Field(60, gt=0, description="wall time, minutes")
    threads: int = Field(1, gt=0, description="CPU threads")


class Arm(Settings):
    """One method compared in an experiment, in all of its cases."""

    title: str = Field(min_length=1)
    published: str = Field("", description="its name in published.csv, where the title is another")
    settings: dict[str, Any] = Field({})
    scales: dict[Scale, dict[str, Any]] = Field({})
    needs: dict[str, str] = Field({}, description="as the experiment's; of equal name, instead")


def _all_arms(given: Any) -> Any:
    """Scales alone mean all arms there."""
    scales = isinstance(given, list) and all(isinstance(scale, str) for scale in given)
    return dict.fromkeys(given, "all") if scales else given


_Arms = dict[Scale, Literal["all"] | list[str]]
ArmsByScale = Annotated[
    _Arms, BeforeValidator(_all_arms, json_schema_input_type=_Arms | list[Scale])
]


Title = Annotated[str, Field(min_length=1)]


class Case(Settings):
    """What the arms of an experiment are compared on: a data set, a size, a corpus."""

    title: Title | dict[Scale, Title] = Field(description="by scale where the data are others")
    published: str = Field("", description="its name in published.csv, where the title is another")
    at: ArmsByScale = Field(
        min_length=1, description="arms that run, by scale; a list of scales means all arms"
    )
    smaller: str = Field(
        "", description="what is less than in the paper, of a case that runs at scale paper"
    )
    settings: dict[str, Any] = Field({})
    scales: dict[Scale, dict[str, Any]] = Field({})
    arms: dict[str, dict[str, Any]] = Field(
        {}, description="settings of an arm in this case alone, over those of the arm"
    )
    seeds: dict[Scale, list[int]] = Field({}, description="instead of the experiment's")
    resources: dict[Scale, Resources] = Field({}, description="instead of the experiment's")
    needs: dict[str, str] = Field({}, description="as the experiment's; of equal name, instead")
    timed: list[str] = Field([], description="as the experiment's, in addition")

    def title_at(self, scale: str) -> str:
        """The title at a scale; where it does not run there, that of another."""
        if isinstance(self.title, str):
            return self.title
        return self.title.get(scale) or next(iter(self.title.values()))  # type: ignore[call-overload, no-any-return]


class Experiment(Settings):
    """One study: cases x arms x seeds of one program."""

    title: str = Field(min_length=1)
    source: str = Field(min_length=1, description="where the paper describes it")
    program: str = Field(pattern=NAME)
    seeds: dict[Scale, list[int]]
    settings: dict[str, Any] = Field({})
    scales: dict[Scale, dict[str, Any]] = Field({})
    cases: dict[str, Case] = Field(min_length=1)
    arms: dict[str, Arm] = Field(min_length=1)
    resources: dict[Scale, Resources] = Field({})
    timed: list[str] = Field(
        [], description="metrics and artifacts (* matches) that measure the machine: never equal"
    )
    needs: dict[str, str] = Field(
        {},
        description="name: EXPERIMENT/CASE/ARM, all of whose runs at that scale come before;"
        " {case} and {arm} stand for those of the run",
    )

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        _check_names("cases", self.cases, PART_NAME)
        _check_names("arms", self.arms, PART_NAME)
        for scale in SCALES:
            if not any(scale in case.at for case in self.cases.values()):
                raise ValueError(f"cases: none runs at {scale}")
            _check_seeds(f"seeds.{scale}", self.seeds.get(scale))
        for name, case in self.cases.items():
            self._check_case(name, case)
        run = {arm for scale in SCALES for _, arm in self.runs(scale)}
        if idle := sorted(set(self.arms) - run):
            raise ValueError(f"arms: {idle} run in no case")
        for scale in SCALES:
            cases = dict.fromkeys(case for case, _ in self.runs(scale))
            _check_distinct(
                f"cases at {scale}", [self.cases[case].title_at(scale) for case in cases]
            )
        _check_distinct("arms", [arm.title for arm in self.arms.values()])
        return self

    def _check_case(self, name: str, case: Case) -> None:
        """Raise ValueError for what a case says of arms or scales that it does not have."""
        for scale, chosen in case.at.items():
            unknown = sorted(set(chosen) - set(self.arms)) if chosen != "all" else []
            if unknown or not chosen:
                raise ValueError(
                    f"cases.{name}.at.{scale}: {chosen} must be 'all', or arms of {list(self.arms)}"
                )
        for scale, seeds in case.seeds.items():
            _check_seeds(f"cases.{name}.seeds.{scale}", seeds)
        here = {arm for scale in case.at for other, arm in self.runs(scale) if other == name}
        unknown = sorted(set(case.arms) - here)
        if unknown:
            raise ValueError(f"cases.{name}.arms: {unknown} not among {sorted(here)}")
        for key in ("scales", "seeds", "resources"):
            unknown = sorted(set(getattr(case, key)) - set(case.at))
            if unknown:
                raise ValueError(f"cases.{name}.{key}: {unknown} not among {list(case.at)}")
        if isinstance(case.title, dict) and case.title.keys() != case.at.keys():
            raise ValueError(f"cases.{name}.title: has {list(case.title)}; needed: {list(case.at)}")
        if case.smaller and "paper" not in case.at:
            raise ValueError(
                f"cases.{name}.smaller: it does not run at scale paper; at the other scales"
                " every case is smaller"
            )

    def runs(self, scale: Scale) -> list[tuple[str, str]]:
        """(case, arm) of what runs at ``scale``, in file order."""
        return [
            (name, arm)
            for name, case in self.cases.items()
            if scale in case.at
            for arm in self.arms
            if case.at[scale] == "all" or arm in case.at[scale]
        ]

    def case(self, name: str | None, where: str, scale: Scale | None = None) -> str:
        """``name``, or that of the only case (of those at ``scale``) where it is None.

        Raises:
            InputError: there is no such case, or there are several; it begins with ``where``.
        """
        possible = [case for case, body in self.cases.items() if scale is None or scale in body.at]
        if name is None and len(possible) == 1:
            return possible[0]
        if name is None or name not in self.cases:
            said = "a case is needed" if name is None else f"no case {name!r}"
            raise InputError(f"{where}: {said}; it has {', '.join(self.cases)}")
        return name


def _check_distinct(kind: str, titles: list[str]) -> None:
    """Raise ValueError for a title that two have: their rows or columns would be one."""
    twice = sorted({title for title in titles if titles.count(title) > 1})
    if twice:
        raise ValueError(f"{kind}: two have the title {twice[0]!r}")


def _check_seeds(where: str, seeds: list[int] | None) -> None:
    """Raise ValueError for seeds that are absent, repeated or that a generator does not take."""
    if not seeds:
        raise ValueError(f"{where}: at least one seed is needed")
    if len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= MAX_SEED:
        raise ValueError(f"{where}: {seeds} must be distinct, >= 0 and < {MAX_SEED}")


def _check_names(kind: str, names: Iterable[str], pattern: str) -> None:
    """Raise ValueError for one that is not to become the name of a file or folder."""
    for name in names:
        if not re.fullmatch(pattern, name):
            raise ValueError(f"{kind}: name {name!r} must match {pattern}")


class Target(Settings):
    """A table, figure or listing of texts of the paper, named as the paper numbers it."""

    kind: Literal["table", "figure", "listing"]
    title: str = Field(min_length=1)
    source: str = Field(min_length=1, description="e.g. 'Table 2, Sec. 5.2'")
    experiments: list[str] = Field(min_length=1)
    note: str = Field("", description="what a reader must know, e.g. testbed against simulation")
    in_paper: bool = Field(True, description="False: an extra of ours, not counted in coverage")


class NotRebuilt(Settings):
    """A table or figure of the paper that is not rebuilt, and why."""

    name: str = Field(pattern=NAME)
    title: str = Field(min_length=1)
    reason: str = Field(min_length=10)


class Paper(Settings):
    """The frame of ``experiments.yaml``."""

    paper: str = Field(pattern=NAME)
    title: str = Field(min_length=1)
    publication: str = Field(min_length=1)
    url: str = ""
    summary: str = Field("", description="what is rebuilt, in a few words: for the list of papers")
    uses: list[str] = Field([], description="other papers whose libraries this one imports")
    experiments: dict[str, Experiment] = Field(min_length=1)
    targets: dict[str, Target] = Field(min_length=1)
    not_rebuilt: list[NotRebuilt] = Field([])
    benchmarks: dict[str, str] = Field(
        {}, description="name in BENCHMARKS of benchmarks/ratios.py: title"
    )

    @model_validator(mode="after")
    def _check(self) -> Paper:
        _check_names("experiments", self.experiments, NAME)
        _check_names("targets", self.targets, NAME)
        _check_names("benchmarks", self.benchmarks, NAME)
        for name, target in self.targets.items():
            if len(set(target.experiments)) < len(target.experiments):
                raise ValueError(f"targets.{name}.experiments: one is named twice")
            unknown = sorted(set(target.experiments) - set(self.experiments))
            if unknown:
                raise ValueError(
                    f"targets.{name}.experiments: {unknown} not among {list(self.experiments)}"
                )
        both = sorted(set(self.targets) & {item.name for item in self.not_rebuilt})
        if both:
            raise ValueError(f"not_rebuilt: {both} are also targets")
        for scale in SCALES:
            for key in self.runs(scale):
                self._check_needs(key, ())
        return self

    def _check_needs(self, key: RunKey, before: tuple[str, ...]) -> None:
        """Whether what a run needs is there at its scale, and does not need the run itself."""
        here = key.place
        if here in before:
            raise ValueError(f"needs: {' needs '.join((*before, here))}")
        for name, text in self._needs(key).items():
            experiment, case, arm = (*text.split("/"), "", "", "")[:3]
            study = self.experiments.get(experiment)
            there = study is not None and (case, arm) in study.runs(key.scale)  # type: ignore[arg-type]
            if text.count("/") != 2 or not there:
                raise ValueError(
                    f"experiments.{key.experiment}: needs.{name}: {text!r} must be"
                    f" EXPERIMENT/CASE/ARM, of what runs at {key.scale}"
                )
            needed = RunKey(self.paper, experiment, case, arm, 0, key.scale)
            self._check_needs(needed, (*before, here))

    def _needs(self, key: RunKey) -> dict[str, str]:
        study = self.experiments[key.experiment]
        needs = study.needs | study.cases[key.case].needs | study.arms[key.arm].needs
        return {
            name: text.replace("{case}", key.case).replace("{arm}", key.arm)
            for name, text in needs.items()
        }

    def needed(self, key: RunKey) -> dict[str, list[RunKey]]:
        """Runs that must come before a run, by the name that it knows them by."""
        found = {}
        for name, text in self._needs(key).items():
            experiment, case, arm = text.split("/")
            seeds = self.seeds(experiment, case, key.scale)  # type: ignore[arg-type]
            found[name] = [
                RunKey(self.paper, experiment, case, arm, seed, key.scale) for seed in seeds
            ]
        return found

    def all_needed(self, key: RunKey) -> list[RunKey]:
        """Those, those that they need and so on: each after what it needs itself."""
        found: dict[RunKey, None] = {}
        for keys in self.needed(key).values():
            for other in keys:
                found |= dict.fromkeys([*self.all_needed(other), other])
        return list(found)

    def seeds(self, experiment: str, case: str, scale: Scale) -> list[int]:
        """Seeds of each arm of a case at ``scale``."""
        study = self.experiments[experiment]
        return study.cases[case].seeds.get(scale, study.seeds[scale])

    def runs(self, scale: Scale, experiments: Iterable[str] | None = None) -> list[RunKey]:
        """Every run of the named experiments (default: all) at ``scale``, in file order."""
        return [
            RunKey(self.paper, name, case, arm, seed, scale)
            for name in (self.experiments if experiments is None else experiments)
            for case, arm in self.experiments[name].runs(scale)
            for seed in self.seeds(name, case, scale)
        ]

    def has(self, key: RunKey) -> bool:
        """Whether the file has the experiment, the case and the arm of a run."""
        study = self.experiments.get(key.experiment)
        return study is not None and key.case in study.cases and key.arm in study.arms

    def settings(
        self,
        experiment: str,
        case: str,
        arm: str,
        scale: Scale,
        overrides: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Raw settings, the later over the earlier: experiment, case, arm, arm in the case alone.

        Each but the last is followed by what it has at ``scale``; ``overrides`` come at the end.
        """
        study = self.experiments[experiment]
        merged: dict[str, Any] = {}
        for part in (study, study.cases[case], study.arms[arm]):
            merge_into(merged, part.settings)
            merge_into(merged, part.scales.get(scale, {}))
        merge_into(merged, study.cases[case].arms.get(arm, {}))
        merge_into(merged, overrides or {})
        return merged

    def resources(self, experiment: str, case: str, scale: Scale) -> Resources:
        """What one run of a case asks of the machine at ``scale``."""
        study = self.experiments[experiment]
        return study.cases[case].resources.get(scale) or study.resources.get(scale, Resources())


@dataclass(frozen=True, order=True)
class RunKey:
    """Identity of a run: one case, one arm, one seed, one scale."""

    paper: str
    experiment: str
    case: str
    arm: str
    seed: int
    scale: str

    @property
    def place(self) -> str:
        """Experiment, case and arm in one word."""
        return f"{self.experiment}/{self.case}/{self.arm}"

    @property
    def folder(self) -> Path:
        """Folder of the run below ``results/`` or ``work/``."""
        return Path(self.scale, self.paper, self.place, f"seed{self.seed}")

    @property
    def options(self) -> list[str]:
        """Words after ``train.py`` that make it."""
        chosen = {"case": self.case, "arm": self.arm, "seed": str(self.seed), "scale": self.scale}
        return [self.experiment, *(word for key in chosen for word in (f"--{key}", chosen[key]))]

    @property
    def command(self) -> str:
        """The command line that makes it."""
        return " ".join(("python", f"papers/{self.paper}/train.py", *self.options))

    def record(self, results: Path = Path("results")) -> Path:
        """Path of the run's record."""
        return results / self.folder / "record.json"


@lru_cache
def load_paper(folder: Path) -> Paper:
    """The checked experiment file of the paper in ``folder`` (e.g. ``papers/pollux_sim``)."""
    path = folder / "experiments.yaml"
    paper = validated(Paper, read_yaml(path), str(path))
    if paper.paper != folder.name:
        raise InputError(f"{path}: key 'paper': must be the folder's name {folder.name!r}")
    return paper


def find_papers(root: Path = ROOT) -> list[Path]:
    """Folders of all papers below ``root``, sorted: those that hold an ``experiments.yaml``."""
    return sorted(path.parent for path in (root / "papers").glob("*/experiments.yaml"))
