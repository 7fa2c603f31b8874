"""Settings of a run: the keys of LogIX's YAML files, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
import yaml
from pydantic import Field, model_validator

from common.errors import InputError
from common.experiments.settings import Settings, validated
from papers.logra.curvature.moments import Kind
from papers.logra.log_store.manifest import DtypeName

#: Read where no other file is named, if it is there.
DEFAULT_PATH = Path("config.yaml")


class LoggingConfig(Settings):
    """How gradients and statistics are written."""

    flush_threshold: float | None = Field(
        None, gt=0, description="most numbers that wait in memory; by default chunks of 64 MiB"
    )
    num_workers: int = Field(1, ge=0, description="read from LogIX's files; one thread writes")
    cpu_offload: bool = Field(False, description="keep statistics in the CPU's memory")
    log_dtype: Literal["none", "float64", "float32", "float16", "bfloat16", "int8"] = Field(
        "none", description="of the log; float32"
    )

    statistics_dtype: Literal["float64", "float32"] = Field(
        "float64", description="of the sums that H is made of; float32 takes half the memory"
    )
    digest_weights: bool = Field(
        True,
        description="rows are logged and scored with a digest of the model's weights, which tells "
        "whether these have changed; False saves reading them, billions of them take a minute",
    )
    checkpoint_seconds: float = Field(
        300, ge=0, description="of a run with resume=True, between two files of its statistics"
    )

    @property
    def stored(self) -> DtypeName:
        """What rows are stored as."""
        return "float32" if self.log_dtype == "none" else self.log_dtype

    @property
    def computed(self) -> torch.dtype | None:
        """What gradients are computed in, None for the model's type, at least float32."""
        return torch.float64 if self.log_dtype == "float64" else None

    @property
    def statistics_device(self) -> str | None:
        """Where statistics are kept, None for where they are gathered."""
        return "cpu" if self.cpu_offload else None


class LoRAConfig(Settings):
    """How gradients are projected."""

    init: Literal["random", "orthonormal", "pca"] = "random"
    rank: int = Field(64, ge=1, description="of both sides, where a layer is that wide")
    seed: int = Field(0, description="of random projections; the same in every process")
    parameter_sharing: bool = Field(
        False, description="projected gradients of several layers add up in one block"
    )
    parameter_sharing_groups: list[str] | None = Field(
        None,
        min_length=1,
        description="parts of names, each layer having one: those of a part share; None: all do",
    )

    @model_validator(mode="after")
    def _groups_are_for_sharing(self) -> LoRAConfig:
        if self.parameter_sharing_groups is not None and not self.parameter_sharing:
            raise ValueError("parameter_sharing_groups without sharing; allowed: sharing true")
        return self


class Config(Settings):
    """All of a run."""

    root_dir: Path = Path("logix")
    bias: bool = Field(
        False, description="biases count, as one more input that is 1; LogIX knows weights alone"
    )
    logging: LoggingConfig = LoggingConfig()
    lora: LoRAConfig = LoRAConfig()

    def to_yaml(self) -> str:
        """What :func:`read_config` reads."""
        return yaml.safe_dump(self.model_dump(mode="json"))


def read_config(path: Path | str | None = None) -> Config:
    """The settings in a YAML file.

    Args:
        path: by default ``config.yaml`` of the working folder, or defaults where there is none.

    Raises:
        InputError: no such file, not YAML, or a key or value that is not allowed.
    """
    if path is None or Path(path) == DEFAULT_PATH:
        path = DEFAULT_PATH
        if not path.exists():
            return Config()
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf8"))
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not a configuration ({error})".replace("\n", " ")) from None
    return validated(Config, {} if found is None else found, str(path))


def split_plugins(
    options: Mapping[str, Sequence[str]],
) -> tuple[dict[str, list[str]], frozenset[str]]:
    """Moments to gather of ``forward``, ``backward`` and ``grad``, and which of these to log.

    Args:
        options: a list for each, of ``log`` and moments.

    Raises:
        InputError: another key, or no list; moments are checked where they are gathered.
    """
    for kind, plugins in options.items():
        if kind not in get_args(Kind) or isinstance(plugins, str):
            allowed = ", ".join(get_args(Kind))
            raise InputError(f"setup: {kind!r}: {plugins!r}; allowed: lists for {allowed}")
    moments = {kind: [name for name in options[kind] if name != "log"] for kind in options}
    return moments, frozenset(kind for kind in options if "log" in options[kind])
