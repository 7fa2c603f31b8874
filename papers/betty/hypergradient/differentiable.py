"""What hypergradients ask of the problems of a program; :class:`papers.betty.Problem` offers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from papers.betty.configs import Config
from papers.betty.hypergradient.vectors import Partial, Vector

if TYPE_CHECKING:  # loaded by programs that use ``sama``
    from papers.betty.hypergradient.adaptation import Adaptation


class Differentiable(Protocol):
    """A problem by whose parameters costs are differentiated."""

    @property
    def name(self) -> str:
        """Identifier in the program."""

    @property
    def config(self) -> Config:
        """How it is solved and differentiated."""

    def trainable_parameters(self) -> list[Tensor]:
        """Parameters that require a gradient."""

    def meta_trainable_parameters(self) -> list[Tensor]:
        """Parameters by which upper problems see its optimum."""

    def first_time(self, what: str) -> bool:
        """Whether ``what`` is asked for the first time."""

    def warn_once(self, message: str, about: str = "") -> None:
        """Log a warning that names the problem, once for each ``about`` (or message)."""


class Lower(Differentiable, Protocol):
    """A problem whose optimum is differentiated."""

    #: Watches its optimiser where ``sama`` asks for the derivative of the last step.
    adaptation: Adaptation | None

    @property
    def micro_batches(self) -> Sequence[Any]:
        """Micro-batches of the last optimiser step."""

    @property
    def resolution(self) -> float:
        """Relative distance of neighbouring numbers in the forward pass."""

    def jacobian_type(self, upper: Differentiable) -> str:
        """The method by which ``upper`` differentiates this problem's optimum."""

    def replayed_loss(self, batch: Any, sign: int = 1) -> Tensor:
        """The share of a micro-batch in the last step's cost again, or minus that."""

    def log_prob(self) -> Tensor:
        """Log-probability of a sampled solution."""


@runtime_checkable
class Unrolled(Protocol):
    """A lower problem that recorded the steps that led to its optimum."""

    def unrolled_product(self, vector: Vector, prevs: Sequence[Differentiable]) -> list[Partial]:
        """``vector`` times the Jacobian of its weights by what the steps read of ``prevs``."""


class Gradients(Protocol):
    """First derivatives as the processes of a program take them."""

    def gradients(self, loss: Tensor, tensors: Sequence[Tensor]) -> Partial:
        """Gradients of ``loss``; None where it does not depend on a tensor."""

    def average_values(self, tensors: Sequence[Tensor]) -> None:
        """Average tensors over processes, in place."""


class Upper(Differentiable, Protocol):
    """A problem whose cost is differentiated through the optima of lower ones."""

    last_loss: float
    #: Running mean of its cost.
    baseline: float | None

    @property
    def distribution(self) -> Gradients:
        """The program's processes."""

    @property
    def seeds(self) -> Sequence[Lower]:
        """Lower problems whose optimum enters its cost."""

    @property
    def factors(self) -> Sequence[tuple[Lower, Sequence[Differentiable]]]:
        """(problem, those by whose parameters its optimum is differentiated), from above down."""

    def check_unused(self, grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> None:
        """Refuse parameters that its cost does not touch, unless that is allowed."""


def select_tensors(prevs: Sequence[Differentiable], upper: Differentiable) -> list[list[Tensor]]:
    """Tensors of each of ``prevs`` by which a cost is differentiated.

    A lower problem's are those by which uppers read its optimum; the upper's are its parameters.
    """
    return [
        prev.trainable_parameters() if prev is upper else prev.meta_trainable_parameters()
        for prev in prevs
    ]
