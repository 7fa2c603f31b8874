"""The six applications of the evaluation, and what a simulator may ask about one.

An :class:`Application` is the ground truth of a simulated job: how long an iteration takes on a
placement, how noisy the gradient is at a batch size and epoch, how much progress an epoch needs.
Two kinds answer: measured traces (:mod:`papers.pollux_sim.applications.traces`) and fitted formulas
(:mod:`papers.pollux_sim.applications.parametric`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from common.errors import InputError

#: GPUs on each node of a job, in the order in which the nodes were allocated.
Placement = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a scheduler is told of an application: batch sizes it may try, and its length.

    Attributes:
        init_batch_size: M0, the total batch size that progress is counted in.
        max_batch_size: largest total batch size.
        min_local_bsz, max_local_bsz: range of m, samples per GPU.
        max_epochs: epochs after which a job is finished.
    """

    name: str
    init_batch_size: int
    max_batch_size: int
    min_local_bsz: int
    max_local_bsz: int
    max_epochs: int

    def __post_init__(self) -> None:
        if not 1 <= self.init_batch_size <= self.max_batch_size:
            raise ValueError(
                f"{self.name}: init_batch_size {self.init_batch_size}; allowed: 1 to"
                f" max_batch_size ({self.max_batch_size})"
            )
        if not 1 <= self.min_local_bsz <= self.max_local_bsz:
            raise ValueError(
                f"{self.name}: min_local_bsz {self.min_local_bsz}; allowed: 1 to max_local_bsz"
                f" ({self.max_local_bsz})"
            )
        if self.max_epochs < 1:
            raise ValueError(f"{self.name}: max_epochs {self.max_epochs}; allowed: at least 1")

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Total batch sizes M0, 2 M0, 4 M0, ... up to the largest."""
        doublings = (self.max_batch_size // self.init_batch_size).bit_length()
        return tuple(self.init_batch_size << k for k in range(doublings))


@dataclass(frozen=True, kw_only=True)
class Constants(Limits):
    """One row of Table 1; the limits are those under which the model was measured."""

    model: str
    dataset: str
    task: str
    optimizer: str
    lr_rule: str
    target: str
    size: str
    job_share: float


#: Batch limits are the measured ranges; YOLOv3's m stops at 8 though it was timed up to 16.
APPLICATIONS: Final = {
    row.name: row
    for row in (
        Constants(
            name="imagenet",
            model="ResNet-50",
            dataset="ImageNet",
            task="image classification",
            optimizer="SGD",
            lr_rule="AdaScale",
            target="75 % top-1 accuracy",
            size="XL",
            job_share=0.02,
            init_batch_size=200,
            max_batch_size=12800,
            min_local_bsz=20,
            max_local_bsz=200,
            max_epochs=90,
        ),
        Constants(
            name="yolov3",
            model="YOLOv3",
            dataset="PASCAL-VOC",
            task="object detection",
            optimizer="SGD",
            lr_rule="AdaScale",
            target="84 % mAP",
            size="L",
            job_share=0.06,
            init_batch_size=8,
            max_batch_size=512,
            min_local_bsz=4,
            max_local_bsz=8,
            max_epochs=50,
        ),
        Constants(
            name="deepspeech2",
            model="DeepSpeech2",
            dataset="CMU-ARCTIC",
            task="speech recognition",
            optimizer="SGD",
            lr_rule="AdaScale",
            target="25 % word error",
            size="M",
            job_share=0.10,
            init_batch_size=20,
            max_batch_size=640,
            min_local_bsz=10,
            max_local_bsz=80,
            max_epochs=80,
        ),
        Constants(
            name="bert",
            model="BERT",
            dataset="SQuAD",
            task="question answering",
            optimizer="AdamW",
            lr_rule="square root",
            target="88 % F1",
            size="M",
            job_share=0.10,
            init_batch_size=12,
            max_batch_size=384,
            min_local_bsz=4,
            max_local_bsz=12,
            max_epochs=2,
        ),
        Constants(
            name="cifar10",
            model="ResNet18",
            dataset="CIFAR-10",
            task="image classification",
            optimizer="SGD",
            lr_rule="AdaScale",
            target="94 % top-1 accuracy",
            size="S",
            job_share=0.36,
            init_batch_size=128,
            max_batch_size=4096,
            min_local_bsz=32,
            max_local_bsz=1024,
            max_epochs=100,
        ),
        Constants(
            name="ncf",
            model="NeuMF",
            dataset="MovieLens",
            task="recommendation",
            optimizer="Adam",
            lr_rule="square root",
            target="69 % hit rate",
            size="S",
            job_share=0.36,
            init_batch_size=256,
            max_batch_size=32768,
            min_local_bsz=32,
            max_local_bsz=32768,
            max_epochs=10,
        ),
    )
}


def find_constants(name: str) -> Constants:
    """Constants of one application. Raises InputError if it is not one of the six."""
    try:
        return APPLICATIONS[name]
    except KeyError:
        allowed = ", ".join(APPLICATIONS)
        raise InputError(f"application {name!r} is unknown; allowed: {allowed}") from None


def canonical_placement(placement: Placement) -> Placement:
    """Lexicographically smallest rotation: all-reduce rings that differ by it are the same."""
    return min(placement[start:] + placement[:start] for start in range(len(placement)))


class Application(ABC):
    """Ground truth of one application: four methods to fill in, whose answers are memoised.

    Args:
        constants: what a scheduler is told of it.
    """

    def __init__(self, constants: Limits) -> None:
        self.constants = constants
        self.name = constants.name
        self.init_batch_size = constants.init_batch_size
        self.max_batch_size = constants.max_batch_size
        self.min_local_bsz = constants.min_local_bsz
        self.max_local_bsz = constants.max_local_bsz
        self.max_epochs = constants.max_epochs
        self._timings: dict[tuple[Placement, int], tuple[float, float]] = {}
        self._statistics: dict[tuple[float, int], tuple[float, float]] = {}

    def timing(self, placement: Placement, local_bsz: int) -> tuple[float, float]:
        """(step, sync): seconds of one iteration without accumulation, and those spent waiting.

        Args:
            placement: GPUs on each node, all >= 1; a job's rotation does not matter.
            local_bsz: m, samples per GPU.

        Raises:
            ValueError: m lies outside what is known for this placement.
        """
        known = self._timings.get((placement, local_bsz))
        if known is None:
            canonical = canonical_placement(placement)
            known = self._timings.get((canonical, local_bsz))
            if known is None:
                known = self.compute_timing(canonical, local_bsz)
                self._timings[canonical, local_bsz] = known
            self._timings[placement, local_bsz] = known
        return known

    def statistics(self, batch_size: float, epoch: int) -> tuple[float, float]:
        """(sqr, var) while running 0-based ``epoch`` at total batch M.

        sqr: squared norm of the gradient; var: trace of its covariance at batch M0. The noise
        scale is M0 var / sqr.

        Raises:
            ValueError: the batch size lies outside what is known.
        """
        known = self._statistics.get((batch_size, epoch))
        if known is None:
            known = self.compute_statistics(batch_size, epoch)
            self._statistics[batch_size, epoch] = known
        return known

    @abstractmethod
    def progress_target(self, epoch: int) -> float:
        """Progress, in iterations at M0, that completes the first ``epoch`` epochs."""

    @abstractmethod
    def iterations(self, batch_size: float, epochs: int) -> float:
        """Real iterations at total batch M that complete the first ``epochs`` epochs."""

    @abstractmethod
    def compute_timing(self, placement: Placement, local_bsz: int) -> tuple[float, float]:
        """:meth:`timing` of a canonical placement."""

    @abstractmethod
    def compute_statistics(self, batch_size: float, epoch: int) -> tuple[float, float]:
        """:meth:`statistics`, computed."""
