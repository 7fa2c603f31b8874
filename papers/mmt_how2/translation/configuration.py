"""fairseq's configuration of a training, from plain settings.

fairseq takes its options from a command line and turns them into a tree of settings by hydra, which
writes each of 260 values as text and parses it again: 0.3 to 0.5 CPU seconds, more than a small
training. :func:`compose` makes the same tree without that.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel


def configuration(
    data: Path,
    work: Path,
    model: TranslationModel,
    schedule: Schedule,
    seed: int,
    visual: Path | None,
) -> Any:
    """fairseq's configuration of a training.

    Raises:
        InputError: fairseq has no such architecture or option, or settings do not go together.
    """
    from fairseq import options
    from omegaconf.errors import OmegaConfBaseException

    if (schedule.batch_size is None) == (schedule.max_tokens is None):
        raise InputError(
            f"batch_size {schedule.batch_size}, max_tokens {schedule.max_tokens}; give one of them"
        )
    if model.reads_pictures and visual is None:
        raise InputError(f"fusion {model.fusion}: reads pictures; a folder of features is needed")
    given: dict[str, Any] = {
        "task": "multimodal_translation",
        "arch": model.architecture,
        "save-dir": work,
        "seed": seed,
        "dropout": model.dropout,
        "optimizer": "adam",
        "lr": schedule.learning_rate,
        "clip-norm": schedule.clip_norm,
        "weight-decay": schedule.weight_decay,
        "batch-size": schedule.batch_size,
        "max-tokens": schedule.max_tokens,
        "max-epoch": schedule.epochs,
        "visual-dir": visual if model.reads_pictures else None,
        "num-workers": 0,
        # A thread that makes batches ready pays where another device computes meanwhile.
        "data-buffer-size": 10 if schedule.gpu else 0,
        "required-batch-size-multiple": 1,
        "no-progress-bar": True,
        "fp16": schedule.fp16,
        "cpu": not schedule.gpu,
        "distributed-world-size": 1,
        **decay_options(schedule),
        **criterion_options(model, schedule),
    }
    if model.architecture.startswith("multimodal_lstm"):
        given |= {"fusion": model.fusion, "visual-gamma": model.visual_gamma}
    given |= {name.replace("_", "-"): value for name, value in model.options.items()}
    arguments = parse_options(options.get_training_parser(), [str(data), *write_options(given)])
    try:
        return compose(arguments)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"architecture {model.architecture}: {reason}") from None


def decay_options(schedule: Schedule) -> dict[str, Any]:
    """fairseq's options of a learning rate schedule."""
    if schedule.decay == "plateau":
        return {"lr-scheduler": "reduce_lr_on_plateau", "lr-shrink": 0.5, "lr-patience": 0}
    if schedule.decay == "inverse_sqrt":
        return {"lr-scheduler": "inverse_sqrt", "warmup-updates": schedule.warmup_updates}
    return {"lr-scheduler": "fixed"}


def criterion_options(model: TranslationModel, schedule: Schedule) -> dict[str, Any]:
    """fairseq's options of the loss.

    Raises:
        InputError: both label smoothing and the regulariser.
    """
    if model.regularizer_gamma is not None:
        if schedule.label_smoothing:
            raise InputError(
                f"label_smoothing {schedule.label_smoothing}; allowed: 0 with a regulariser"
            )
        return {
            "criterion": "visual_semantic_regularizer",
            "regularizer-gamma": model.regularizer_gamma,
        }
    if schedule.label_smoothing:
        return {
            "criterion": "label_smoothed_cross_entropy",
            "label-smoothing": schedule.label_smoothing,
        }
    return {"criterion": "cross_entropy"}


def write_options(given: dict[str, Any]) -> list[str]:
    """A command line of options: None and False are left out, True is the bare option."""
    line: list[str] = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        line += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return line


def parse_options(parser: Any, line: list[str]) -> Any:
    """fairseq's parse of a command line.

    Raises:
        InputError: it refuses the line, with its reason.
    """
    import contextlib
    import io

    from fairseq import options

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return options.parse_args_and_arch(parser, line)
    except SystemExit:
        reason = said.getvalue().strip().splitlines()[-1:] or [" ".join(line)]
        raise InputError(f"fairseq: {reason[0]}") from None


def compose(arguments: Namespace) -> Any:
    """What fairseq's ``convert_namespace_to_omegaconf`` makes of a parsed command line.

    fairseq's own settings stand in groups, as do those of the task, the loss, the optimiser and the
    like that are chosen by name. A model of the old kind, whose settings are of no group, is given
    all arguments. Of other parts of the old kind, and models of the new one, fairseq makes it.
    """
    from fairseq.dataclass.configs import FairseqConfig
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf, omegaconf_no_object_check
    from fairseq.models import ARCH_MODEL_REGISTRY
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY
    from omegaconf import OmegaConf

    registries = {name: item["dataclass_registry"] for name, item in REGISTRIES.items()}
    registries["task"] = TASK_DATACLASS_REGISTRY
    groups: dict[str, Any] = {}
    for field in fields(FairseqConfig):
        if is_dataclass(field.type):
            groups[field.name] = read_group(field.type, arguments)
        elif field.name in registries:
            name = getattr(arguments, field.name, None)
            kind = registries[field.name].get(name)
            groups[field.name] = read_group(kind, arguments, name) if kind else name
        else:
            groups[field.name] = None
    old = isinstance(groups["task"], str) or any(
        isinstance(groups[name], str) for name in ("criterion", "optimizer", "lr_scheduler")
    )
    if old or getattr(ARCH_MODEL_REGISTRY[arguments.arch], "__dataclass", None):
        return convert_namespace_to_omegaconf(arguments)
    # Some values are references to those of other groups.
    config = OmegaConf.create(
        OmegaConf.to_container(OmegaConf.create(groups), resolve=True, enum_to_str=True)
    )
    with omegaconf_no_object_check():
        config.model = Namespace(**vars(arguments), _name=arguments.arch)
    OmegaConf.set_struct(config, True)
    return config


def read_group(kind: Any, arguments: Namespace, name: str | None = None) -> Any:
    """Settings of one kind: their defaults, and what the arguments say."""
    from omegaconf import OmegaConf

    group = OmegaConf.structured(kind)
    for field in fields(kind):
        if field.name.startswith("_") or not hasattr(arguments, field.name):
            continue
        value = getattr(arguments, field.name)
        group[field.name] = list(value) if isinstance(value, tuple) else value
    group["_name"] = name
    return group
