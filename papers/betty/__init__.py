"""Betty: automatic differentiation for multilevel optimisation (Choe et al., ICLR 2023)."""

from papers.betty.configs import Config, EngineConfig
from papers.betty.engine import Engine
from papers.betty.envs import Env
from papers.betty.problems import (
    HigherIterativeProblem,
    ImplicitProblem,
    IterativeProblem,
    Problem,
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
