"""Training on labels that are often wrong, with a small clean set as meta set: Table 1.

Labels are reweighted (R), or corrected and reweighted (C&R), by networks that are learned for a low
loss on the clean set. Beside them: the weak labels alone, the clean set alone, and one after the
other. Source: Choe et al. 2023, Table 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.batches import Batches, Split
from common.tasks.networks import Correction, mlp
from common.tasks.scores import accuracy
from common.tasks.weak_supervision import WeakData, WeakSettings, load_weak
from common.training import Core, CoreSettings
from papers.sama.methods.bilevel import BaseOptimizer, Bilevel, MetaSettings
from papers.sama.methods.label_noise import LabelTreatment
from papers.sama.methods.weighting import LossWeights
from papers.sama.tasks.text_classifiers import Classifier, PooledBert, WordTransformer
from papers.sama.tasks.weak_texts import Vocabulary, WordSettings, load_texts


class NoisyFinetuning(WeakSettings):
    """Labels, classifier, and how both levels are learned."""

    core: CoreSettings = CoreSettings(global_batch_size=64)
    method: Literal["weak", "clean", "two_stage", "r", "cr"]
    reads: Literal["features", "words", "bert"] = Field(
        "features",
        description="a perceptron on fixed features, a transformer on words, or all of BERT",
    )
    feature_scales: tuple[float, float] | None = Field(
        None, description="decades: each feature is scaled by 10^U(from, to)"
    )
    words: WordSettings = WordSettings()
    hidden: int = Field(128, gt=0, description="width of the perceptron, and of the correction")
    steps: int = Field(ge=4, description="of the classifier")
    clean_share: float = Field(
        0.5, gt=0, lt=1, description="of the steps, of two_stage: those on the clean set, the last"
    )
    batch_size: int = Field(64, gt=0)
    meta_batch_size: int = Field(64, gt=0)
    base: BaseOptimizer
    meta: MetaSettings
    weight_hidden: int = Field(100, gt=0)
    # A hypergradient grows with the base learning rate (SAMA's D does; SAMA-NA leaves it out), the
    # own loss does not: which of both leads the correction is a matter of this weight.
    own_weight: float = Field(
        1.0, gt=0, description="of the correction's own loss on clean samples"
    )
    evaluate_every: int | None = Field(None, gt=0, description="steps; without: at the end alone")
    evaluated_at_once: int = Field(512, gt=0)
    held_out_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="of the clean set: tested on in the place of the test set, to choose settings",
    )

    @model_validator(mode="after")
    def _check(self) -> NoisyFinetuning:
        if self.data == "digits" and self.reads != "features":
            raise ValueError(f"reads: {self.reads} needs texts; digits have features alone")
        if self.method == "two_stage" and not 0 < self.clean_steps < self.steps:
            raise ValueError(
                f"clean_share: {self.clean_share} of {self.steps} steps leaves a stage without any"
            )
        return self

    @property
    def clean_steps(self) -> int:
        return round(self.clean_share * self.steps)


class Stage(NamedTuple):
    """Steps of training on one set."""

    bilevel: Bilevel
    batches: Batches
    steps: int


def run_noisy_finetuning(settings: NoisyFinetuning, run: Run) -> dict[str, float]:
    """Train, and return accuracies (%) on test set and labels, and mean weights."""
    core = Core(settings.core, run)
    data, classifier = load(settings, run)
    data = WeakData(*(on_device(part, core.device) for part in data))
    meta = meta_modules(settings, classifier, data.classes)
    classifier.to(core.device)
    meta.to(core.device)
    treatment = LabelTreatment(classifier, meta, settings.own_weight)
    stages = plan(settings, classifier, meta, data, run.seed)
    clean = Batches(*data.meta, size=settings.meta_batch_size, seed=run.seed + 1)
    core.track(clean=clean)
    for place, stage in enumerate(stages):
        core.track(**{f"bilevel{place}": stage.bilevel, f"batches{place}": stage.batches})
    core.restore()
    clean_batches, start = forever(clean), 0

    def evaluate() -> dict[str, float]:
        classifier.eval()
        found = evaluated(treatment, data, settings.evaluated_at_once)
        classifier.train()
        return found

    for stage in stages:
        batches = forever(stage.batches)
        for step in range(max(start, core.step_count), start + stage.steps):
            stage.bilevel.step(
                treatment.base_cost(*next(batches)),
                lambda: treatment.meta_cost(*next(clean_batches))(),
            )
            if settings.evaluate_every and (step + 1) % settings.evaluate_every == 0:
                core.log_metrics(step=step + 1, **evaluate())
            core.completed_step()
        start += stage.steps
    core.finish()
    if core.history:
        run.write_rows("history.csv", core.history)
    metrics = evaluate()
    right = data.train.y == data.truth
    metrics["label_accuracy_pct"] = 100 * float(right.float().mean())
    if data.vote_pct is not None:
        metrics["vote_accuracy_pct"] = data.vote_pct
    return metrics


def on_device(part: Any, device: torch.device) -> Any:
    """A tensor or a split of tensors there; all else as it is."""
    if isinstance(part, Split):
        return Split(*(tensor.to(device) for tensor in part))
    return part.to(device) if isinstance(part, Tensor) else part


def forever(batches: Batches) -> Iterator[tuple[Tensor, ...]]:
    """Batches of one epoch after another."""
    return chain.from_iterable(repeat(batches))


def load(settings: NoisyFinetuning, run: Run) -> tuple[WeakData, Classifier]:
    """The sets as the classifier reads them, and the classifier, untrained.

    Raises: InputError if a registered file is absent.
    """
    root = Path(settings.data_root) if settings.data_root else None
    if settings.reads == "features":
        data = load_weak(settings, run)
        features = data.train.x.shape[1]
        if settings.feature_scales:
            data = rescaled(data, settings.feature_scales, run.seed)
        head: nn.Module = mlp(features, settings.hidden, data.classes)
        classifier = Classifier(nn.Identity(), head, features)
    else:
        assert settings.data != "digits"
        if settings.reads == "words":
            data, encoder, width, dropout = read_words(settings, run, root)
        else:
            data, encoder, width, dropout = read_pieces(settings, run, root)
        head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width, data.classes))
        classifier = Classifier(encoder, head, width)
    return held_out(data, settings.held_out_share, run.seed), classifier


def read_words(
    settings: NoisyFinetuning, run: Run, root: Path | None
) -> tuple[WeakData, nn.Module, int, float]:
    """Words of the set's own vocabulary, and a transformer of random weights."""
    words, sizes = settings.words, []

    def numbered(splits: Any) -> list[Tensor]:
        vocabulary = Vocabulary(splits[0], words.least_count)
        sizes.append(len(vocabulary))
        return [vocabulary.rows(split, words.max_length) for split in splits]

    data = load_texts(settings.data, run, numbered, root)  # type: ignore[arg-type]
    return data, WordTransformer(sizes[0], words), words.width, words.dropout


def read_pieces(
    settings: NoisyFinetuning, run: Run, root: Path | None
) -> tuple[WeakData, nn.Module, int, float]:
    """BERT's pieces, and BERT."""
    from common.tasks.text_classifier import identify_files, piece_numbers, read_bert

    run.uses(identify_files(settings.bert, root))
    bert = read_bert(settings.bert, root)
    data = load_texts(
        settings.data,  # type: ignore[arg-type]
        run,
        lambda splits: [piece_numbers(split, settings.bert, root) for split in splits],
        root,
    )
    return data, PooledBert(bert), bert.config.hidden_size, bert.config.hidden_dropout_prob


def rescaled(data: WeakData, decades: tuple[float, float], seed: int) -> WeakData:
    """The same with each feature scaled by a power of ten, drawn evenly between ``decades``."""
    rng = np.random.default_rng([seed, 1])
    powers = rng.uniform(*decades, data.train.x.shape[1])
    scale = torch.from_numpy(10**powers).float()
    sets = (Split(part.x * scale, part.y) for part in (data.train, data.meta, data.test))
    return WeakData(next(sets), data.truth, next(sets), next(sets), data.classes, data.vote_pct)


def held_out(data: WeakData, share: float, seed: int) -> WeakData:
    """A random ``share`` of the clean set is tested on, and no longer in the meta set."""
    if not share:
        return data
    order = torch.from_numpy(np.random.default_rng([seed, 2]).permutation(len(data.meta.y)))
    count = round(share * len(order))
    test, meta = (
        Split(data.meta.x[rows], data.meta.y[rows]) for rows in order.tensor_split([count])
    )
    return data._replace(meta=meta, test=test)


def meta_modules(settings: NoisyFinetuning, classifier: Classifier, classes: int) -> nn.ModuleDict:
    """What the method learns beside the classifier."""
    modules: dict[str, nn.Module] = {}
    if settings.method in ("r", "cr"):
        modules["weigher"] = LossWeights(hidden=settings.weight_hidden, normalise=True)
    if settings.method == "cr":
        modules["correction"] = Correction(classifier.width, settings.hidden, classes)
    return nn.ModuleDict(modules)


def plan(
    settings: NoisyFinetuning,
    classifier: Classifier,
    meta: nn.ModuleDict,
    data: WeakData,
    seed: int,
) -> list[Stage]:
    """What is trained on what, in which order; each stage has a schedule of its own."""
    weak, clean = (
        Batches(*part, size=settings.batch_size, seed=seed) for part in (data.train, data.meta)
    )

    def plain(batches: Batches, steps: int) -> Stage:
        return Stage(Bilevel(classifier, settings.base, steps), batches, steps)

    if settings.method == "two_stage":
        last = settings.clean_steps
        return [plain(weak, settings.steps - last), plain(clean, last)]
    if not len(meta):
        return [plain(clean if settings.method == "clean" else weak, settings.steps)]
    bilevel = Bilevel(classifier, settings.base, settings.steps, meta, settings.meta)
    return [Stage(bilevel, weak, settings.steps)]


@torch.no_grad()
def evaluated(treatment: LabelTreatment, data: WeakData, at_once: int) -> dict[str, float]:
    """Test accuracy, and what is made of the training labels, right and wrong ones."""
    x, y = data.test
    starts = range(0, len(x), at_once)
    logits = torch.cat([treatment.classifier(x[start : start + at_once]) for start in starts])
    metrics = {"accuracy_pct": accuracy(logits, y)}
    if not len(treatment.meta):
        return metrics
    right = data.train.y == data.truth
    weights, corrected = treatment.treated(*data.train, at_once)
    if corrected is not None:
        metrics["corrected_label_accuracy_pct"] = accuracy(corrected, data.truth)
    if weights is not None:
        metrics["weight_right"] = float(weights[right].mean())
        metrics["weight_wrong"] = float(weights[~right].mean())
    return metrics


PROGRAM = Program(NoisyFinetuning, run_noisy_finetuning)
