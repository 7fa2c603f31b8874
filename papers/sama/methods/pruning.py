"""Scores of training samples: those with the lowest are left out.

Each function takes what a proxy network makes of samples. Forgetting events are counted over its
training instead (:class:`ForgettingEvents`), and SAMA's scores are learned (:mod:`.weighting` and
:class:`GumbelWeights`).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy, one_hot


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) length of chances less the label. Source: Paul, Ganguli, Dziugaite 2021."""
    apart = logits.softmax(1) - one_hot(labels, logits.shape[1])
    return apart.square().sum(1).sqrt()


def grand_last_layer(features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) norm of each sample's gradient of the last layer, weight and bias; exact.

    That gradient is the outer product of ``chances - label`` and ``(features, 1)``.
    """
    return el2n(logits, labels) * (features.square().sum(1) + 1).sqrt()


def grand(network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """(n,) norm of each sample's gradient of all weights; exact. Source: as :func:`el2n`."""
    params: dict[str, Tensor] = dict(network.named_parameters())
    buffers = dict(network.named_buffers())

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, (weights, buffers), x[None]), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(params, inputs, labels)
    return torch.stack([part.flatten(1).square().sum(1) for part in each.values()]).sum(0).sqrt()


def margin(logits: Tensor) -> Tensor:
    """(n,) minus the difference of the two largest chances: undecided samples score highest.

    Source: least margin, as in selection by proxy (Coleman et al. 2020); labels are not read.
    """
    first, second = logits.softmax(1).topk(2, dim=1).values.unbind(1)
    return second - first


class ForgettingEvents:
    """How often each sample was right in one batch and wrong in its next one.

    Those that never were right count as forgotten more often than any other. Source: Toneva et al.
    2019. Part of the resume state.
    """

    def __init__(self, samples: int) -> None:
        self._right = torch.zeros(samples, dtype=torch.bool)
        self._ever = torch.zeros(samples, dtype=torch.bool)
        self._events = torch.zeros(samples)

    def see(self, rows: Tensor, right: Tensor) -> None:
        """Count a batch of which ``right`` says whether each prediction is the label."""
        rows, right = rows.cpu(), right.cpu()
        self._events[rows] += (self._right[rows] & ~right).float()
        self._right[rows] = right
        self._ever[rows] |= right

    @property
    def scores(self) -> Tensor:
        """(n,) events."""
        return torch.where(self._ever, self._events, self._events.max() + 1)

    def state_dict(self) -> dict[str, Tensor]:
        """Counts."""
        return {"right": self._right, "ever": self._ever, "events": self._events}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._right, self._ever, self._events = (
            state[name].clone() for name in ("right", "ever", "events")
        )


class SlowHead:
    """A last layer that follows the live one: ``slow <- decay slow + (1 - decay) live``.

    The published script mixes the live head with itself, so that its uncertainty is the entropy of
    the prediction; here the slow one is a running mean.
    """

    def __init__(self, head: nn.Module, decay: float) -> None:
        self._live, self.decay = head, decay
        self.module = copy.deepcopy(head).requires_grad_(False)

    @torch.no_grad()
    def follow(self) -> None:
        """After a step of the live head."""
        for slow, live in zip(self.module.parameters(), self._live.parameters(), strict=True):
            slow.lerp_(live, 1 - self.decay)

    @torch.no_grad()
    def uncertainty(self, features: Tensor, logits: Tensor) -> Tensor:
        """(n,) cross-entropy of the live chances to the slow head's."""
        return cross_entropy(logits, self.module(features).softmax(1), reduction="none")

    def state_dict(self) -> dict[str, Any]:
        """Weights."""
        return self.module.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.module.load_state_dict(state)


class GumbelWeights(nn.Module):
    """Weights that are 0 or 1, drawn; derivatives are those of the soft ones (straight-through).

    An MLP inputs-hidden-2 with ReLU; the weight is the first of two components. Without noise it is
    the chance of a 1. Source: the published pruning script (2-100-2, temperature 0.5).

    Args:
        inputs: numbers known of a sample.
        hidden: width.
        temperature: of the soft weights.
    """

    def __init__(self, inputs: int = 2, hidden: int = 100, temperature: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        self.temperature = temperature

    def forward(self, seen: Tensor, noise: Tensor | None = None) -> Tensor:
        """(n, inputs) numbers -> (n,) weights; ``noise`` (n, 2) is :meth:`draw`'s, in training."""
        logits = self.layers(seen)
        if noise is None:
            chances: Tensor = logits.softmax(1)[:, 0]
            return chances
        soft = ((logits + noise) / self.temperature).softmax(1)[:, 0]
        drawn: Tensor = (soft > 0.5).float() - soft.detach() + soft
        return drawn

    @staticmethod
    def draw(count: int, device: torch.device) -> Tensor:
        """(count, 2) of the standard Gumbel distribution."""
        exponential: Tensor = torch.empty(count, 2, device=device).exponential_()
        return -exponential.log()


def kept_rows(scores: Tensor, pruned_pct: float, generator: torch.Generator) -> Tensor:
    """Rows (m,), ascending, that stay when ``pruned_pct`` per cent with the lowest scores go.

    Ties are drawn.
    """
    drawn = torch.randperm(len(scores), generator=generator)
    order = drawn[scores[drawn].argsort(descending=True, stable=True)]
    return order[: len(scores) - round(len(scores) * pruned_pct / 100)].sort().values
