"""Wrong labels treated while a classifier is trained on them: reweighted, corrected, or both.

Source: Choe et al. 2023, Table 1 (R and C&R). The networks are not stated: the weight network is
that of :mod:`papers.sama.methods.weighting`, the correction that of Betty's program for these sets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from papers.sama.methods.bilevel import Constant
from papers.sama.tasks.text_classifiers import Classifier
from papers.sama.three_passes import Cost


class LabelTreatment:
    """Costs of a classifier and of what treats its labels.

    Args:
        classifier: what is trained.
        meta: ``weigher`` (losses to weights), ``correction`` (features and labels to chances), or
            both; empty for plain training.
        own_weight: of the correction's own loss in the meta cost.
    """

    def __init__(
        self, classifier: Classifier, meta: nn.ModuleDict, own_weight: float = 1.0
    ) -> None:
        self.classifier, self.meta, self.own_weight = classifier, meta, own_weight

    def base_cost(self, x: Tensor, given: Tensor) -> Cost:
        """The classifier's cost on one batch; losses and features are read as constants."""
        seen, read = Constant(), Constant()

        def cost() -> Tensor:
            features = self.classifier.encoder(x)
            losses = self._losses(features, read(features), given)
            if "weigher" not in self.meta:
                return losses.mean()
            weighted: Tensor = self.meta["weigher"](seen(losses)) * losses
            return weighted.mean()

        return cost

    def meta_cost(self, x: Tensor, y: Tensor) -> Cost:
        """The classifier's mean loss on clean samples, and that of the correction's own guess."""

        def cost() -> Tensor:
            features = self.classifier.encoder(x)
            loss = cross_entropy(self.classifier.head(features), y)
            if "correction" not in self.meta:
                return loss
            own: Tensor = self.meta["correction"].predict(features.detach())  # type: ignore[operator]
            return loss + self.own_weight * cross_entropy(own, y)

        return cost

    def _losses(self, features: Tensor, read: Tensor, given: Tensor) -> Tensor:
        targets = self.meta["correction"](read, given) if "correction" in self.meta else given
        return cross_entropy(self.classifier.head(features), targets, reduction="none")

    @torch.no_grad()
    def treated(
        self, x: Tensor, given: Tensor, at_once: int
    ) -> tuple[Tensor | None, Tensor | None]:
        """((n,) weights, (n, classes) corrected labels) of all samples; None of what is not done.

        Weights have mean 1 over all of them where the network divides by the mean.
        """
        losses, corrected = [], []
        for start in range(0, len(x), at_once):
            inputs, labels = x[start : start + at_once], given[start : start + at_once]
            features = self.classifier.encoder(inputs)
            losses.append(self._losses(features, features, labels))
            if "correction" in self.meta:
                corrected.append(self.meta["correction"](features, labels))
        weights = self.meta["weigher"](torch.cat(losses)) if "weigher" in self.meta else None
        return weights, torch.cat(corrected) if corrected else None
