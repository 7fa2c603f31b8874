"""The frame of experiment files: what is run, at which scale, and what is made of it.

``papers/<paper>/experiments.yaml`` names every experiment of a paper, its arms (methods
compared), seeds and settings at each scale, and the paper's targets (tables and figures). This
module checks the frame of that file; a program's own settings are checked by the pydantic model
that it declares (:class:`common.runs.programs.Program`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, model_validator

from common import ROOT
from common.errors import InputError
from common.experiments.documents import read_yaml
from common.experiments.settings import Settings, merge_into, validated

Scale = Literal["smoke", "laptop", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
NAME = r"^[a-z][a-z0-9_]*$"
ARM_NAME = r"^[a-z0-9][a-z0-9_.+-]*$"
#: Seeds are below this: what every generator that a run may seed takes.
MAX_SEED = 2**32


class Resources(Settings):
    """What one run asks of the machine (Snakemake's standard resource names)."""

    gpu: int = Field(0, ge=0, description="GPUs")
    mem_mb: int = Field(2000, gt=0, description="memory, MiB")
    runtime: int = Field(60, gt=0, description="wall time, minutes")
    threads: int = Field(1, gt=0, description="CPU threads")


class Arm(Settings):
    """One method or setting compared in an experiment."""

    title: str = Field(min_length=1)
    settings: dict[str, Any] = Field({})
    scales: dict[Scale, dict[str, Any]] = Field({})
    needs: dict[str, str] = Field({}, description="as the experiment's; of equal name, instead")


class Experiment(Settings):
    """One study: arms x seeds of one program."""

    title: str = Field(min_length=1)
    source: str = Field(min_length=1, description="where the paper describes it")
    program: str = Field(pattern=NAME)
    seeds: dict[Scale, list[int]]
    settings: dict[str, Any] = Field({})
    scales: dict[Scale, dict[str, Any]] = Field({})
    arms: dict[str, Arm] = Field(min_length=1)
    arms_at: dict[Scale, list[str]] = Field(
        {}, description="subset of arms at a scale; all where absent"
    )
    resources: dict[Scale, Resources] = Field({})
    timed: list[str] = Field(
        [], description="metrics and artifacts (* matches) that measure the machine: never equal"
    )
    needs: dict[str, str] = Field(
        {}, description="name: EXPERIMENT/ARM, all of whose runs at that scale come before"
    )

    @model_validator(mode="after")
    def _check(self) -> Experiment:
        _check_names("arms", self.arms, ARM_NAME)
        for scale in SCALES:
            seeds = self.seeds.get(scale)
            if not seeds:
                raise ValueError(f"seeds.{scale}: at least one seed is needed")
            if len(set(seeds)) != len(seeds) or min(seeds) < 0 or max(seeds) >= MAX_SEED:
                raise ValueError(f"seeds.{scale}: {seeds} must be distinct, >= 0 and < {MAX_SEED}")
        for scale, names in self.arms_at.items():
            unknown = sorted(set(names) - set(self.arms))
            if unknown or not names:
                raise ValueError(f"arms_at.{scale}: {names} must name arms of {list(self.arms)}")
        return self

    def arms_of(self, scale: Scale) -> list[str]:
        """Names of the arms that run at ``scale``."""
        return self.arms_at.get(scale, list(self.arms))


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
        here = f"{key.experiment}/{key.arm}"
        if here in before:
            raise ValueError(f"needs: {' needs '.join((*before, here))}")
        for name, text in self._needs(key.experiment, key.arm).items():
            experiment, _, arm = text.partition("/")
            study = self.experiments.get(experiment)
            if study is None or arm not in study.arms_of(key.scale):  # type: ignore[arg-type]
                raise ValueError(
                    f"experiments.{key.experiment}: needs.{name}: {text!r} must be EXPERIMENT/ARM,"
                    f" an arm that runs at {key.scale}"
                )
            needed = RunKey(self.paper, experiment, arm, 0, key.scale)
            self._check_needs(needed, (*before, here))

    def _needs(self, experiment: str, arm: str) -> dict[str, str]:
        study = self.experiments[experiment]
        return study.needs | study.arms[arm].needs

    def needed(self, key: RunKey) -> dict[str, list[RunKey]]:
        """Runs that must come before a run, by the name that it knows them by."""
        found = {}
        for name, text in self._needs(key.experiment, key.arm).items():
            experiment, _, arm = text.partition("/")
            seeds = self.experiments[experiment].seeds[key.scale]  # type: ignore[index]
            found[name] = [RunKey(self.paper, experiment, arm, s, key.scale) for s in seeds]
        return found

    def runs(self, scale: Scale, experiments: Iterable[str] | None = None) -> list[RunKey]:
        """Every run of the named experiments (default: all) at ``scale``, in file order."""
        return [
            RunKey(self.paper, name, arm, seed, scale)
            for name in (self.experiments if experiments is None else experiments)
            for arm in self.experiments[name].arms_of(scale)
            for seed in self.experiments[name].seeds[scale]
        ]

    def settings(
        self, experiment: str, arm: str, scale: Scale, overrides: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Raw settings: experiment < experiment's scale < arm < arm's scale < overrides."""
        study = self.experiments[experiment]
        chosen = study.arms[arm]
        layers = (study.settings, study.scales.get(scale, {}), chosen.settings)
        merged: dict[str, Any] = {}
        for layer in (*layers, chosen.scales.get(scale, {}), overrides or {}):
            merge_into(merged, layer)
        return merged

    def resources(self, experiment: str, scale: Scale) -> Resources:
        """What one run of ``experiment`` asks of the machine at ``scale``."""
        return self.experiments[experiment].resources.get(scale, Resources())


@dataclass(frozen=True, order=True)
class RunKey:
    """Identity of a run: one arm, one seed, one scale."""

    paper: str
    experiment: str
    arm: str
    seed: int
    scale: str

    @property
    def folder(self) -> Path:
        """Folder of the run below ``results/`` or ``work/``."""
        return Path(self.scale, self.paper, self.experiment, self.arm, f"seed{self.seed}")

    @property
    def name(self) -> str:
        """The same as one name, for a folder of the run's own among those of others."""
        return "-".join(self.folder.parts)

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
