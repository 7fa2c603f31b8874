"""Pairs of domains to adapt from and to, and the networks that read them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.batches import Split, per_class
from common.tasks.networks import mlp
from common.training import CoreSettings

if TYPE_CHECKING:
    from papers.betty.tasks.image_batches import Crops

Domain = Literal["amazon", "Caltech10", "dslr", "webcam", "Art", "Clipart", "Product", "Real World"]
Name = Literal["digits", "office_caltech10_surf", "office_home"]
#: Domains that ``source`` and ``target`` choose from; digits have none.
DOMAINS: Final[dict[Name, tuple[Domain, ...]]] = {
    "office_caltech10_surf": ("amazon", "Caltech10", "dslr", "webcam"),
    "office_home": ("Art", "Clipart", "Product", "Real World"),
}


class DomainSettings(Settings):
    """Which domains, how they are split, and what reads them.

    Office-Home is the paper's set, read by ResNets. Office-Caltech-10 poses the same task, objects
    in four domains, as histograms of visual words, and digits a smaller one; perceptrons read
    both.
    """

    core: CoreSettings = CoreSettings(global_batch_size=64)
    data: Name
    data_root: str | None = None
    source: Domain = "Caltech10"
    target: Domain = "amazon"
    source_size: int = Field(800, gt=0, description="digits only")
    corrupted: float = Field(
        0.9, ge=0, le=1, description="digits only: share of source images inverted, label drawn"
    )
    target_per_class: int = Field(
        gt=0, description="samples to finetune and to reweight on; not of office_home"
    )
    # The published script reads lists of each domain's training and test pictures, which come with
    # "Learning by Ignoring" (Zhao et al. 2020) and are not public: how they split is our choice.
    train_share: float = Field(
        0.5, gt=0, lt=1, description="office_home only: of each class, to train on"
    )
    hidden: int = Field(64, gt=0, description="width of perceptrons")
    resize: int = Field(256, gt=0, description="office_home only: pixels of the shorter side")
    crop: int = Field(224, gt=0, description="office_home only: side of what the networks see")
    pretrained: bool = Field(True, description="office_home only: start from ImageNet's weights")

    @model_validator(mode="after")
    def _check_domains(self) -> DomainSettings:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source!r}; they must differ")
        allowed = DOMAINS.get(self.data, (self.source, self.target))
        for domain in (self.source, self.target):
            if domain not in allowed:
                raise ValueError(
                    f"{self.data} has no domain {domain!r}; allowed: {', '.join(allowed)}"
                )
        if self.crop > self.resize:
            raise ValueError(f"crop: {self.crop} must be at most resize, {self.resize}")
        return self


class DomainData(NamedTuple):
    """Sets of both domains and what reads them.

    Attributes:
        source, target: to pretrain and to finetune on.
        again: the target's once more, as they are tested: to reweight on.
        test: other samples of the target.
        classes: of both.
        network: outputs -> a new network.
        prepared: (n, ...) samples of ``again`` and ``test`` -> what a network reads.
        corrupted (n,): which source samples are; None where nobody knows.
    """

    source: Split | Crops
    target: Split | Crops
    again: Split
    test: Split
    classes: int
    network: Callable[[int], nn.Module]
    prepared: Callable[[Tensor], Tensor] = nn.Identity()
    corrupted: Tensor | None = None


def load_domains(settings: DomainSettings, run: Run) -> DomainData:
    """Draw or split the sets and note what was read."""
    loaders = {
        "digits": _load_digits,
        "office_caltech10_surf": _load_office_caltech,
        "office_home": _load_office_home,
    }
    return loaders[settings.data](settings, run)


def _load_digits(settings: DomainSettings, run: Run) -> DomainData:
    from common.data.images import digits

    images = digits()
    run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
    x, y = images.pixels.reshape(len(images), -1) / 16, np.array(images.labels)
    rng = np.random.default_rng(run.seed)
    target, rest = per_class(y, settings.target_per_class, rng)
    if settings.source_size >= len(rest):
        raise InputError(
            f"source_size {settings.source_size}: allowed below {len(rest)}, so that some are left"
            " to test on"
        )
    source, test = np.split(rng.permutation(rest), [settings.source_size])
    corrupted = np.zeros(len(source), dtype=bool)
    corrupted[: round(settings.corrupted * len(source))] = True
    source_x = np.where(corrupted[:, None], 1 - x[source], x[source])
    source_y = np.where(corrupted, rng.integers(0, 10, len(source)), y[source])
    splits = _split(source_x, source_y), _split(x[target], y[target]), _split(x[test], y[test])
    data = for_perceptrons(*splits, classes=10, hidden=settings.hidden)
    return data._replace(corrupted=torch.from_numpy(corrupted))


def _load_office_caltech(settings: DomainSettings, run: Run) -> DomainData:
    from common.data.office_caltech import CLASS_NAMES, office_caltech10_surf
    from common.data.registry import identity

    root = Path(settings.data_root) if settings.data_root else None
    files = [f"{domain}_SURF_L10.mat" for domain in (settings.source, settings.target)]
    run.uses(identity("office_caltech10_surf", files, root))
    source = office_caltech10_surf(settings.source, root)
    target = office_caltech10_surf(settings.target, root)
    x, y = target.features(), target.labels
    rng = np.random.default_rng(run.seed)
    chosen, test = per_class(y, settings.target_per_class, rng)
    splits = (
        _split(source.features(), source.labels),
        _split(x[chosen], y[chosen]),
        _split(x[test], y[test]),
    )
    return for_perceptrons(*splits, classes=len(CLASS_NAMES), hidden=settings.hidden)


def _load_office_home(settings: DomainSettings, run: Run) -> DomainData:
    from common.data.office_home import office_home
    from common.data.registry import identity
    from papers.betty.tasks.image_batches import Crops, normalised
    from papers.betty.tasks.imagenet_resnet import imagenet_weights, resnet18

    weights = None
    if settings.pretrained:
        weights, origin = imagenet_weights()
        run.uses(origin)
    root = Path(settings.data_root) if settings.data_root else None
    domains = office_home(root)
    source, target = domains[settings.source], domains[settings.target]
    checksums = {settings.source: source.sha256(), settings.target: target.sha256()}
    run.uses(identity("office_home", root=root).model_copy(update={"sha256": checksums}))
    source_rows, _ = share_of_each_class(source.labels, settings.train_share)
    rows, test_rows = share_of_each_class(target.labels, settings.train_share)
    size, workers = (settings.resize, settings.crop), settings.core.num_workers
    return DomainData(
        Crops(source, source_rows, *size, augment=True),
        Crops(target, rows, *size, augment=True),
        Crops(target, rows, *size, augment=False).decoded(workers),
        Crops(target, test_rows, *size, augment=False).decoded(workers),
        len(target.class_names),
        partial(resnet18, weights=weights),
        normalised,
    )


def for_perceptrons(
    source: Split, target: Split, test: Split, *, classes: int, hidden: int
) -> DomainData:
    """Sets of (n, features) samples, read by networks with one hidden layer."""
    features = source.x.shape[1]
    return DomainData(source, target, target, test, classes, partial(mlp, features, hidden))


def share_of_each_class(
    labels: npt.NDArray[np.int64], share: float
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(random indices of ``share`` of each class, the others), the same for every seed of a run.

    Published lists are the same for every seed, too. Both parts have a sample of each class.

    Raises: InputError if a class has a single one.
    """
    rng = np.random.default_rng(0)
    parts: tuple[list[npt.NDArray[np.int64]], ...] = ([], [])
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        if len(rows) < 2:
            raise InputError(f"class {label} has one sample; two are needed, to train and to test")
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        parts[0].append(rows[:count])
        parts[1].append(rows[count:])
    chosen, others = (np.sort(np.concatenate(part)) for part in parts)
    return chosen, others


def _split(x: npt.NDArray[np.float64], y: npt.NDArray[np.int64]) -> Split:
    return Split(torch.from_numpy(x).float(), torch.from_numpy(np.array(y)))
