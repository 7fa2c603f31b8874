"""LoGra: which training samples a model's outputs owe most to (Choe et al. 2024).

Answers to the calls of LogIX 0.1.1: a program written for it runs with ``from papers import logra
as logix``. Twenty lines value the training data of a classifier::

    import torch
    from torch.nn.functional import cross_entropy
    from papers import logra

    run = logra.init(project="digits")
    run.watch(model)
    for _ in logra.LogIXScheduler(run, lora="random", hessian="empirical_fisher", save="grad"):
        for index, inputs, targets in train_loader:
            with run(data_id=index):
                cross_entropy(model(inputs), targets, reduction="sum").backward()
    run.finalize()

    with run(data_id=["first query", "second query"]):
        cross_entropy(model(queries), labels, reduction="sum").backward()
    result = run.compute_influence_all(run.get_log(), run.build_log_dataloader())
    for query, scores in zip(result["src_ids"], result["influence"]):
        best = scores.argmax()
        print(query, "owes most to", result["tgt_ids"][best], float(scores[best]))

A score is positive where removing the training sample is predicted to raise the query's loss, and
is not divided by the number of training samples. Losses are sums over samples and tokens. In a
``with`` block parameters get no gradient: it takes a pass of its own, not one that trains.

``run.coverage()`` says which share of the trained parameters that is of, and why not of the rest;
``watch(model, bias=True)`` counts biases. ``run.check((inputs, targets), loss_of_batch)`` compares
a few samples' gradients with autograd's, one sample at a time, and names what makes them differ.

A program that may be killed says ``logra.init(project="digits", resume=True)``, and ``if
run.has_logged(index): continue`` before each batch; started again it goes on where it was.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy

from common.errors import InputError

if TYPE_CHECKING:
    from papers.logra.scoring.influence import Influence, merge_logs
    from papers.logra.session.configs import Config, LoggingConfig, LoRAConfig
    from papers.logra.session.data_ids import DataIDGenerator
    from papers.logra.session.scheduler import LogIXScheduler
    from papers.logra.session.session import LogIX

__all__ = [
    "Config",
    "DataIDGenerator",
    "Influence",
    "LoRAConfig",
    "LogIX",
    "LogIXScheduler",
    "LoggingConfig",
    "init",
    "merge_logs",
]

_public, _, _ = lazy.attach(
    __name__,
    submod_attrs={
        "scoring.influence": ["Influence", "merge_logs"],
        "session.configs": ["Config", "LoRAConfig", "LoggingConfig"],
        "session.data_ids": ["DataIDGenerator"],
        "session.scheduler": ["LogIXScheduler"],
        "session.session": ["LogIX"],
    },
)

_run: LogIX | None = None

#: Methods of the run that :func:`init` made last, for ``logra.watch(model)`` and the like.
_OF_THE_RUN = frozenset(
    {
        "add_lora",
        "build_log_dataloader",
        "build_log_dataset",
        "check",
        "clear",
        "compute_influence",
        "compute_influence_all",
        "compute_self_influence",
        "coverage",
        "end",
        "eval",
        "finalize",
        "get_log",
        "has_logged",
        "initialize_from_log",
        "save",
        "setup",
        "start",
        "watch",
        "watch_activation",
    }
)


def init(project: str, config: Path | str = "./config.yaml", resume: bool = False) -> LogIX:
    """A run, which is from now on the one that ``logra.watch`` and other functions speak of.

    Args:
        project: name of its folder.
        config: YAML file; the default one need not be there.
        resume: go on where the same program was killed, see :class:`LogIX`.

    Raises:
        InputError: another file is missing, or a key or value is not allowed.
    """
    from papers.logra.session.session import LogIX

    global _run
    _run = LogIX(project, config, resume=resume)
    return _run


def __getattr__(name: str) -> Any:
    if name not in _OF_THE_RUN:
        return _public(name)
    if _run is None:
        raise InputError(f"logra.{name} without a run; allowed: after logra.init(project)")
    return getattr(_run, name)


#: What programs import from ``logix.utils``, and so from ``papers.logra.utils``.
_OF_UTILS = frozenset({"DataIDGenerator", "get_logger", "get_rank", "get_world_size", "merge_logs"})


class _Utils(ModuleType):
    """No module of its own: each name is where it is here."""

    def __getattr__(self, name: str) -> Any:
        if name not in _OF_UTILS:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(import_module("papers.logra.names_of_logix"), name)


utils = sys.modules[f"{__name__}.utils"] = _Utils(f"{__name__}.utils")
