"""SAMA: finite differences along the vector as the lower optimiser would scale it.

Source: Choe et al. 2023 (NeurIPS), algorithmic adaptation.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InputError
from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper
from papers.betty.hypergradient.finite_difference import central_difference
from papers.betty.hypergradient.vectors import Partial, Vector


def sama(
    vector: Vector, curr: Lower, prevs: Sequence[Differentiable], upper: Upper
) -> list[Partial]:
    """``darts`` with ``v`` replaced by ``D v``, ``D = du/dg`` of the lower optimiser's last step.

    Raises:
        InputError: that was its first, and its length does not depend on the gradient's (Adam).
    """
    config, adaptation = curr.config, curr.adaptation
    assert adaptation is not None  # of every problem that an upper one differentiates so
    if adaptation.flat:
        raise InputError(
            f"problem {curr.name!r}, type 'sama': its optimizer has taken one step, whose length"
            " does not depend on the gradient's, so that the hypergradient is 0; allowed:"
            " unroll_steps or warmup_steps of 2 or more, or a stateless optimizer (SGD)"
        )
    return central_difference(
        adaptation(vector), curr, prevs, upper, config.sama_adam_alpha, nudge=config.sama_multitask
    )
