"""Betty: automatic differentiation for multilevel optimisation (Choe et al., ICLR 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

from papers.betty.configs import Config, EngineConfig
from papers.betty.engine import Engine
from papers.betty.problems import ImplicitProblem, Problem

if TYPE_CHECKING:
    from papers.betty.envs import Env
    from papers.betty.problems import HigherIterativeProblem, IterativeProblem

# What only some programs use, so that a run loads, and its record names, no more than it needs.
__getattr__, _, _ = lazy.attach(
    __name__,
    submod_attrs={"envs": ["Env"], "problems": ["HigherIterativeProblem", "IterativeProblem"]},
)

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
