"""Entropic optimal transport between bags of word vectors, in the log domain and in batches.

The loss is the paper's ``min <plan, cost> - epsilon H(plan)`` with
``H = -sum plan (log plan - 1)`` (Raunak et al. 2019, section 2.4); it is not debiased.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


def cosine_distance(left: Tensor, right: Tensor) -> Tensor:
    """1 - cosine of every pair: (B, n, e) and (B, m, e) give (B, n, m)."""
    return 1 - normalize(left, dim=-1) @ normalize(right, dim=-1).transpose(1, 2)


def uniform_mass(present: Tensor) -> Tensor:
    """Equal mass on the atoms that are present, none on pads: (B, n) booleans to float32."""
    mass = present.float()
    return mass / mass.sum(dim=1, keepdim=True).clamp(min=1)


@torch.no_grad()
def log_plan(
    cost: Tensor, left: Tensor, right: Tensor, epsilon: float, iterations: int
) -> tuple[Tensor, Tensor]:
    """Logarithm of the transport plan by Sinkhorn's iterations, and where it carries mass.

    Each iteration makes the left marginal exact, then the right one.

    Args:
        cost: (B, n, m).
        left, right: masses (B, n) and (B, m), each row of sum 1; zero where there is no atom.
    """
    scaled = -cost.float() / epsilon
    log_left, log_right = left.log(), right.log()  # It is -inf where there is no atom.
    carries = (left > 0).unsqueeze(2) & (right > 0).unsqueeze(1)
    f, g = torch.zeros_like(log_left), torch.zeros_like(log_right)
    for _ in range(iterations):
        f = -torch.logsumexp(scaled + (log_right + g).unsqueeze(1), dim=2)
        g = -torch.logsumexp(scaled + (log_left + f).unsqueeze(2), dim=1)
    plan = scaled + (log_left + f).unsqueeze(2) + (log_right + g).unsqueeze(1)
    return plan.masked_fill(~carries, float("-inf")), carries


def transport_plan(
    cost: Tensor, left: Tensor, right: Tensor, epsilon: float, iterations: int
) -> Tensor:
    """The plan itself, (B, n, m): rows sum to ``left`` in the limit, columns to ``right``."""
    return log_plan(cost, left, right, epsilon, iterations)[0].exp()


def transport_loss(
    cost: Tensor, left: Tensor, right: Tensor, epsilon: float, iterations: int
) -> Tensor:
    """``<plan, cost> - epsilon H(plan)`` of each pair of bags, (B,), in float32.

    The gradient is the plan's, as the envelope theorem has it at the optimum, so that no graph of
    the iterations is kept.
    """
    logs, carries = log_plan(cost.detach(), left, right, epsilon, iterations)
    plan = logs.exp()
    entropy = -(plan * (logs.masked_fill(~carries, 0.0) - 1)).sum(dim=(1, 2))
    return (plan * cost.float()).sum(dim=(1, 2)) - epsilon * entropy


def single_atom_loss(words: Tensor, mass: Tensor, atom: Tensor) -> Tensor:
    """Transport of a bag of words to one atom: the mean cosine distance, (B,).

    The plan is forced, whatever epsilon is; of :func:`transport_loss` it lacks the entropy, which
    does not depend on the vectors.

    Args:
        words: (B, n, e); mass: (B, n); atom: (B, e).
    """
    return (cosine_distance(words, atom.unsqueeze(1)).squeeze(2) * mass).sum(dim=1)
