"""The methods by which a problem's optimum is differentiated, loaded when one is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Final

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper
from papers.betty.hypergradient.vectors import Partial, Vector

JacobianProduct = Callable[[Vector, Lower, Sequence[Differentiable], Upper], list[Partial]]


class Methods(Mapping[str, JacobianProduct]):
    """Functions by their names, each in a module of this package that is imported when asked for.

    So a run loads, and its record names, only the methods that it uses.
    """

    def __init__(self, **modules: str) -> None:
        self._modules = modules
        self._loaded: dict[str, JacobianProduct] = {}

    def __getitem__(self, name: str) -> JacobianProduct:
        if name not in self._loaded:
            assert __package__ is not None
            module = import_module(f"{__package__}.{self._modules[name]}")
            self._loaded[name] = getattr(module, name)
            # Importing a module makes it an attribute of the package; some are named as a method.
            setattr(sys.modules[__package__], name, self._loaded[name])
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


METHODS: Final = Methods(
    darts="finite_difference",
    neumann="neumann",
    cg="conjugate_gradient",
    itd="unrolled",
    reinforce="reinforce",
    sama="sama",
)
