"""Regret of an online classifier: what it lost more than the best fixed function of its norm."""

from __future__ import annotations

import torch
from torch import Tensor

from papers.okgan.kernels import Kernel
from papers.okgan.losses import LossName, loss, pull


def regret_bound(radius: float, lr: float, gradient_norms: Tensor) -> float:
    """``U^2 / (2 lr) + lr sum_t |g_t|^2 / 2`` of online gradient descent (Zinkevich 2003).

    Args:
        radius: U, the largest norm of what it is compared with.
        lr: its constant step.
        gradient_norms: (T,) norms of the functional gradients, in the kernel's space.
    """
    return radius**2 / (2 * lr) + lr * float(gradient_norms.square().sum()) / 2


def best_fixed_loss(
    kernel: Kernel, x: Tensor, labels: Tensor, loss_name: LossName, radius: float, steps: int = 2000
) -> float:
    """Least total loss of any function ``sum_i c_i k(x_i, .)`` of norm up to ``radius``, no offset.

    By projected gradient descent, so the value is one that such a function reaches: the regret that
    is computed with it is a lower bound.

    Args:
        x: (n, d) all points of the stream; n^2 kernel values are held.
        labels: (n,) +1 and -1.
    """
    gram = kernel.gram(x, x)
    step = 1.0 / float(torch.linalg.eigvalsh(gram)[-1])
    c = torch.zeros_like(labels)
    least = float("inf")
    for _ in range(steps):
        margins = labels * (gram @ c)
        least = min(least, float(loss(loss_name, margins).sum()))
        # The functional gradient's coefficients.
        c = c + step * labels * pull(loss_name, margins)
        length = float((c @ gram @ c).clamp_min(0).sqrt())
        c = c * min(1.0, radius / max(length, 1e-30))
    return least
