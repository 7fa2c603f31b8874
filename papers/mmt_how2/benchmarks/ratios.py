"""Training, translating and memory beside fairseq's own models, and what pictures cost.

All models do the same work in the same process: fairseq's trainer updates them on the same batch of
made-up text, and its beam search translates the same lines. A fusion is compared with the same
model on text alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from common.results.benchmarks import BenchmarkRow, compare, memory_row, one_thread
from common.training.peak_memory import peak_tensor_bytes
from papers.mmt_how2.translation.binarised_text import SentencePairs, binarise
from papers.mmt_how2.translation.configuration import configuration
from papers.mmt_how2.translation.fairseq_start import old_calls
from papers.mmt_how2.translation.generation import Search, Translator
from papers.mmt_how2.translation.training import make_trainer
from papers.mmt_how2.translation.training_settings import Schedule, TranslationModel

PAPER: Final = "mmt_how2"
FEATURES: Final = 2048
SCHEDULE: Final = Schedule(epochs=1, batch_size=1000, learning_rate=0.001, decay="fixed")


class Shape(NamedTuple):
    """Of a text and of the networks on it.

    Attributes:
        words: of a sentence, on each side.
        width: of the decoder; words have half of it, the encoder has half of it a direction.
    """

    sentences: int
    words: int
    types: int
    width: int

    def __str__(self) -> str:
        return (
            f"{self.sentences} sentences of {self.words} words, {self.types:,} types,"
            f" width {self.width}"
        )


SHAPES: Final = {
    "smoke": Shape(4, 5, 50, 16),
    "laptop": Shape(32, 15, 5000, 256),
    "paper": Shape(96, 18, 20_000, 512),
}
#: What grows while the rest stays as it is.
GROWTH: Final[dict[str, dict[str, tuple[int, ...]]]] = {
    "smoke": {"words": (5, 10)},
    "laptop": {"words": (8, 15, 30, 60), "sentences": (8, 32, 128), "types": (1000, 5000, 20_000)},
    "paper": {
        "words": (9, 18, 36, 72),
        "sentences": (24, 96, 384),
        "types": (5000, 20_000, 80_000),
    },
}
WAYS: Final = {
    "step_wise_decoder": TranslationModel(fusion="step_wise_decoder"),
    "attention_modulation": TranslationModel(fusion="attention_modulation"),
    "output": TranslationModel(fusion="output"),
    "visual-semantic regulariser": TranslationModel(regularizer_gamma=0.1),
}


def sized(model: TranslationModel, shape: Shape) -> TranslationModel:
    """A recurrent model of the shape's width."""
    half = shape.width // 2
    sizes = {
        "encoder_embed_dim": half,
        "decoder_embed_dim": half,
        "encoder_hidden_size": half,
        "decoder_hidden_size": shape.width,
        "decoder_out_embed_dim": shape.width,
    }
    if model.architecture == "lstm":
        sizes["encoder_bidirectional"] = True
    return model.model_copy(update={"options": sizes})


def transformer(shape: Shape) -> TranslationModel:
    """fairseq's Transformer with three layers of half the width: about as many weights."""
    half = shape.width // 2
    sizes = {f"{side}_embed_dim": half for side in ("encoder", "decoder")}
    sizes |= {f"{side}_ffn_embed_dim": shape.width for side in ("encoder", "decoder")}
    sizes |= {f"{side}_layers": 3 for side in ("encoder", "decoder")}
    sizes |= {f"{side}_attention_heads": 4 for side in ("encoder", "decoder")}
    return TranslationModel(architecture="transformer", options=sizes)


class BenchmarkText:
    """A made-up text of a shape, as fairseq's data folder, with a picture a line."""

    def __init__(self, shape: Shape, folder: Path) -> None:
        rng = np.random.default_rng(0)
        # All types are in the dictionary, whatever the few lines of the batch hold.
        every = [f"w{word}" for word in range(shape.types)]

        def lines() -> list[str]:
            drawn = rng.integers(shape.types, size=(shape.sentences, shape.words))
            return [" ".join(every[word] for word in row) for row in drawn]

        words = [" ".join(every[start : start + 100]) for start in range(0, shape.types, 100)]
        splits = {
            "train": SentencePairs(words, words),
            "test": SentencePairs(lines(), lines()),
        }
        self.data = binarise(splits, folder / "data")
        self.visual = folder / "pictures"
        self.visual.mkdir()
        for split, pairs in splits.items():
            rows = rng.standard_normal((len(pairs.source), FEATURES)).astype(np.float32)
            np.save(self.visual / f"{split}.npy", rows)
        self.folder = folder


class SameLength(Translator):
    """A translator whose hypotheses are as long as the search allows, so that all do one work."""

    def _generator(self, search: Search) -> Any:
        generator = super()._generator(search)
        generator.min_len = search.max_len_b
        return generator


class TimedModel:
    """One model on a text: an update on its lines, and their translation."""

    def __init__(self, text: BenchmarkText, model: TranslationModel, name: str) -> None:
        visual = text.visual if model.reads_pictures else None
        work = text.folder / name
        with old_calls():
            self.trainer = make_trainer(configuration(text.data, work, model, SCHEDULE, 1, visual))
            task = self.trainer.task
            task.load_dataset("test")
            data = task.dataset("test")
            self.batch: Any = data.collater([data[place] for place in range(len(data))])
            self.trainer.lr_step(0)
            self.trainer.get_train_iterator(1)
            self.trainer.begin_epoch(1)
            self.update()
            work.mkdir()
            self.trainer.consolidate_optimizer()
            self.trainer.save_checkpoint(str(work / "model.pt"), {"val_loss": 0.0})
        self.translator = SameLength(work / "model.pt", text.data, visual)
        self.translator.translate("test", Search(beam=1))

    @property
    def parameters(self) -> int:
        """Numbers that are trained."""
        return sum(p.numel() for p in self.trainer.model.parameters())

    def update(self) -> None:
        """Forward, backward and optimiser on all lines."""
        with old_calls():
            self.trainer.train_step([self.batch])

    def translate(self) -> None:
        """Beam search of five over all lines, to the length of those of the text."""
        words = self.batch["target"].size(1)
        self.translator.translate("test", Search(beam=5, max_len_a=0, max_len_b=words))


@contextmanager
def timed_models(
    shape: Shape, models: dict[str, TranslationModel]
) -> Iterator[dict[str, TimedModel]]:
    """Models on one text, on one thread."""
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        text = BenchmarkText(shape, Path(folder))
        yield {
            name: TimedModel(text, model, f"model{number}")
            for number, (name, model) in enumerate(models.items())
        }


def all_models(shape: Shape) -> dict[str, TranslationModel]:
    """Ours on text, fairseq's own, and each way in of the picture."""
    return {
        "text": sized(TranslationModel(), shape),
        "fairseq's LSTM": sized(TranslationModel(architecture="lstm"), shape),
        "fairseq's Transformer": transformer(shape),
        **{name: sized(model, shape) for name, model in WAYS.items()},
    }


def speed(scale: str) -> list[BenchmarkRow]:
    """Time of an update and of beam search, beside fairseq's models and beside text alone."""
    shape = SHAPES[scale]
    repeats = 3 if scale == "smoke" else 15
    rows = []
    with timed_models(shape, all_models(shape)) as made:
        for what, work in (("an update", TimedModel.update), ("beam search", TimedModel.translate)):
            for ours, peer in list_comparisons():
                timed = compare(partial(work, made[ours]), partial(work, made[peer]), repeats)
                row = timed.row(
                    PAPER, f"{what}, {ours}: {shape}", peer_name(peer), note(made, peer)
                )
                rows.append(row)
    return rows


def memory(scale: str) -> list[BenchmarkRow]:
    """Most memory of an update, beside fairseq's models and beside text alone."""
    shape = SHAPES[scale]
    with timed_models(shape, all_models(shape)) as made:
        peaks = {name: max(peak_tensor_bytes(job.update), 1) for name, job in made.items()}
        return [
            memory_row(
                PAPER,
                f"memory of an update, {ours}: {shape}",
                peer_name(peer),
                peaks[ours],
                peaks[peer],
                note(made, peer),
            )
            for ours, peer in list_comparisons()
        ]


def growth(scale: str) -> list[BenchmarkRow]:
    """Updates beside fairseq's LSTM, and pictures beside text, as the text grows."""
    rows = []
    for name, sizes in GROWTH[scale].items():
        for size in sizes:
            shape = SHAPES[scale]._replace(**{name: size})
            models = all_models(shape)
            del models["fairseq's Transformer"], models["output"]
            with timed_models(shape, models) as made:
                for ours, peer in list_comparisons(models):
                    timed = compare(made[ours].update, made[peer].update, 5)
                    rows.append(timed.row(PAPER, f"an update, {ours}: {shape}", peer_name(peer)))
    return rows


def list_comparisons(models: Sequence[str] | dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """What is compared with what: text alone with fairseq's models, pictures with text alone."""
    peers = [("text", "fairseq's LSTM"), ("text", "fairseq's Transformer")]
    found = [*peers, *((way, "text") for way in WAYS)]
    return [pair for pair in found if models is None or all(name in models for name in pair)]


def peer_name(peer: str) -> str:
    """The peer's name in the report."""
    return "the same model on text alone" if peer == "text" else peer


def note(made: dict[str, TimedModel], peer: str) -> str:
    """Sizes of both models."""
    return f"{made['text'].parameters:,} weights on text alone, {made[peer].parameters:,} there"


BENCHMARKS: Final = {"speed": speed, "memory": memory, "growth": growth}
