"""Betty: automatic differentiation for multilevel optimisation (Choe et al., ICLR 2023)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from papers.betty.configs import Config, EngineConfig
from papers.betty.engine import Engine
from papers.betty.problems import ImplicitProblem, Problem

if TYPE_CHECKING:
    from papers.betty.envs import Env
    from papers.betty.problems import HigherIterativeProblem, IterativeProblem

#: What only some programs use, so that a run loads, and its record names, no more than it needs.
_SELDOM = {
    "Env": "papers.betty.envs",
    "HigherIterativeProblem": "papers.betty.problems",
    "IterativeProblem": "papers.betty.problems",
}


def __getattr__(name: str) -> Any:
    if name in _SELDOM:
        return getattr(import_module(_SELDOM[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "Config",
    "Engine",
    "EngineConfig",
    "Env",
    "HigherIterativeProblem",
    "ImplicitProblem",
    "IterativeProblem",
    "Problem",
]
