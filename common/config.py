"""Experiment files: what is run, at which scale, with which settings.

``papers/<paper>/experiments.yaml`` names every experiment of a paper, its arms (methods
compared), seeds and settings at each scale, and the paper's targets (tables and figures). This
module checks the frame of that file; a program's own settings are checked by the pydantic model
that it declares (:class:`common.programs.Program`). An unknown key, a wrong type or an impossible
value raises :class:`~common.errors.InputError` with file, key, value and what is allowed.

``python -m common.config schema`` writes the JSON schemas in ``workflow/schema``.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from common import ROOT
from common.errors import InputError

Scale = Literal["smoke", "laptop", "paper"]
SCALES: tuple[Scale, ...] = get_args(Scale)
NAME = r"^[a-z][a-z0-9_]*$"
ARM_NAME = r"^[a-z0-9][a-z0-9_.+-]*$"


#: Seeds are below this: what every generator that a run may seed takes.
MAX_SEED = 2**32
#: Whole numbers are below this, with either sign: what arrays, tensors and compiled code hold.
MAX_INTEGER = 2**63


class Settings(BaseModel):
    """Base of every settings model: frozen, values checked, unknown keys refused.

    Numbers are finite, and whole ones fit into 64 bits.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*")
    @classmethod
    def _check_integers(cls, value: Any) -> Any:
        if _holds_huge_integer(value):
            raise ValueError("whole numbers must lie between -2**63 and 2**63")
        return value


def _holds_huge_integer(value: Any) -> bool:
    if isinstance(value, int):
        return not -MAX_INTEGER < value < MAX_INTEGER
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return False
    return any(map(_holds_huge_integer, value))


class Resources(Settings):
    """What one run asks of the machine (Snakemake's standard resource names)."""

    gpu: int = Field(0, ge=0, description="GPUs")
    mem_mb: int = Field(2000, gt=0, description="memory, MiB")
    runtime: int = Field(60, gt=0, description="wall time, minutes")
    threads: int = Field(1, gt=0, description="CPU threads")


class Arm(Settings):
    """One method or setting compared in an experiment."""

    title: str = Field(min_length=1)
    settings: dict[str, Any] = {}
    scales: dict[Scale, dict[str, Any]] = {}
    needs: dict[str, str] = Field({}, description="as the experiment's; of equal name, instead")


class Experiment(Settings):
    """One study: arms x seeds of one program."""

    title: str = Field(min_length=1)
    source: str = Field(min_length=1, description="where the paper describes it")
    program: str = Field(pattern=NAME)
    seeds: dict[Scale, list[int]]
    settings: dict[str, Any] = {}
    scales: dict[Scale, dict[str, Any]] = {}
    arms: dict[str, Arm] = Field(min_length=1)
    arms_at: dict[Scale, list[str]] = Field(
        {}, description="subset of arms at a scale; all where absent"
    )
    resources: dict[Scale, Resources] = {}
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
    experiments: dict[str, Experiment] = Field(min_length=1)
    targets: dict[str, Target] = Field(min_length=1)
    not_rebuilt: list[NotRebuilt] = []
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


def merge_into(base: dict[str, Any], layer: Mapping[str, Any]) -> None:
    """Merge ``layer`` into ``base`` in place; nested mappings merge, all else is replaced."""
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict):
            merge_into(base[key], value)
        else:
            base[key] = copy.deepcopy(value)


Model = TypeVar("Model", bound=BaseModel)


def validated(
    model: type[Model], data: Any, where: str, options: Mapping[str, str] | None = None
) -> Model:
    """``model`` from ``data``; InputError names ``where``, key, value and what is allowed.

    Args:
        options: the command-line option that gave a key, for the message.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(detail, model, options or {}) for detail in error.errors()]
        raise InputError(f"{where}: " + "; ".join(lines)) from None


def _explain(detail: Any, model: type[BaseModel], options: Mapping[str, str]) -> str:
    key = ".".join(str(part) for part in detail["loc"]) or "(top level)"
    name = options.get(key, f"key '{key}'")
    shown = _shown(detail["input"])
    if detail["type"] == "extra_forbidden":
        allowed = ", ".join(sorted(_fields_at(model, detail["loc"][:-1]))) or "no keys"
        found = f" (value {shown})" if shown else ""
        return f"unknown key '{key}'{found}; allowed: {allowed}"
    if detail["type"] == "missing":
        return f"{name} is missing"
    message = detail["msg"].removeprefix("Value error, ")
    return f"{name}: {message}" + (f", got {shown}" if shown else "")


def _shown(value: Any) -> str:
    """``value`` for a message; empty where it is too long for one."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        return ""
    return text if len(text) <= 80 else ""


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """Field names of the model at ``location``, found by walking the JSON schema."""
    schema = model.model_json_schema()
    node: Any = schema
    for part in location:
        node = _resolve(schema, node)
        if part in node.get("properties", {}):
            node = node["properties"][part]
        else:
            node = node.get("additionalProperties") or node.get("items") or {}
    return set(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: Any) -> Any:
    for option in node.get("anyOf", []):
        if "$ref" in option:
            node = option
    if "$ref" in node:
        return schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


class _StrictLoader(yaml.SafeLoader):
    """safe_load of what JSON can say too; what is wrong with a value is a yaml.YAMLError.

    It refuses a key written twice (YAML keeps the last one silently), dates, sets and bytes, a list
    that holds itself, and text that a tag or its look calls a number and that is none (PyYAML lets
    through whatever Python raises then).
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError):
            raise _bad_value(node) from None


def _bad_value(node: yaml.Node) -> yaml.YAMLError:
    kind, shown = node.tag.rpartition(":")[2], _shown(node.value) or "the value"
    return yaml.YAMLError(f"{shown} is not a valid {kind} (line {node.start_mark.line + 1})")


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    merge = "tag:yaml.org,2002:merge"  # `<<: *anchor`; keys beside it may override what it brings
    own = (key for key, _ in node.value if key.tag != merge)
    keys = [loader.construct_object(key, deep=True) for key in own]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.YAMLError(f"key {twice[0]!r} is given twice (line {node.start_mark.line + 1})")
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


def _sequence(loader: _StrictLoader, node: yaml.SequenceNode) -> list[Any]:
    return loader.construct_sequence(node, deep=True)


def _no_json(loader: _StrictLoader, node: yaml.Node) -> Any:
    kind, line = node.tag.rpartition(":")[2], node.start_mark.line + 1
    raise yaml.YAMLError(f"a {kind} is not allowed (line {line}); in quotes it is text")


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_SEQUENCE_TAG, _sequence)
for _kind in ("timestamp", "binary", "set", "omap", "pairs"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _no_json)


def _parsed(text: str) -> Any:
    """Value of a YAML text. Raises yaml.YAMLError, whatever is wrong with it."""
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None


def read_yaml(path: Path) -> Any:
    """Contents of a YAML file. Raises InputError if it is absent, malformed or repeats a key."""
    try:
        return _parsed(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: " + " ".join(str(error).split())) from None


def read_json(path: Path, what: str) -> Any:
    """Contents of a JSON file. Raises InputError if it is absent, or not ``what`` it should be."""
    try:
        return parse_json(path.read_text(encoding="utf8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise InputError(f"{path}: not {what} ({error})") from None


def parse_json(text: str) -> Any:
    """The value that a JSON text stands for.

    Raises:
        ValueError: it is malformed or nested too deeply, repeats a key (the last would win), or has
            a number that is none: NaN and infinities, which Python writes and reads, and 1e999.
    """
    try:
        return json.loads(
            text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_unrepeated
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {twice!r} is given twice")
    return value


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


def user_path(text: str) -> Path:
    """The path that a user means; ``~`` is a home. Raises InputError for none, or nobody's home."""
    if not text:
        raise InputError("a path is needed, not '' ('.' is the current folder)")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(f"{text}: there is no such home") from None


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """``["search.generations=5"]`` -> ``{"search": {"generations": 5}}``; values are YAML."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise InputError(f"--set {pair!r}: must be key=value, e.g. --set interval_s=120")
        try:
            value: Any = _parsed(text)
        except yaml.YAMLError as error:
            given, reason = _shown(pair) or f"'{key}=...'", " ".join(str(error).split())
            raise InputError(f"--set {given}: the value is not valid YAML: {reason}") from None
        for part in reversed(key.split(".")):
            value = {part: value}
        merge_into(result, value)
    return result


def write_schemas(folder: Path = ROOT / "workflow" / "schema") -> list[Path]:
    """Write the JSON schemas of experiment files and of records; returns their paths."""
    from common.run import Record

    written = []
    for name, model in (("experiments", Paper), ("record", Record)):
        path = folder / f"{name}.schema.json"
        path.write_text(schema_text(model), encoding="utf8")
        written.append(path)
    return written


def schema_text(model: type[BaseModel]) -> str:
    """JSON schema (draft 2020-12) of ``model`` as it stands in ``workflow/schema``."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return json.dumps(schema | model.model_json_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    for written in write_schemas():
        print(written)
