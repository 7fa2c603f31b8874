"""Task: translation of sentences that each have a picture vector, or none."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import models, utils
from fairseq.data import BaseWrapperDataset, LanguagePairDataset, indexed_dataset
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.tasks import register_task
from fairseq.tasks.translation import TranslationTask
from numpy.typing import NDArray

from common.errors import InputError

from .attention_maps import sentence_attention
from .length_penalty import WuLengthPenaltyGenerator
from .multimodal_lstm import MultimodalLSTMModel
from .options import MultimodalTranslationConfig
from .sentence_pairs import check_pair, pair_prefix
from .visual_features import VisualFeatures, folder_width

logger = logging.getLogger(__name__)


class PicturedPairs(BaseWrapperDataset):  # type: ignore[misc]
    """Sentence pairs whose batches also hold ``net_input["visual"]``.

    Rows are taken by ``batch["id"]``: collating sorts a batch by length.
    """

    def __init__(self, pairs: Any, features: VisualFeatures) -> None:
        super().__init__(pairs)
        self.features = features

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def collater(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch; {} of no samples, as fairseq's dummy batches are."""
        batch: dict[str, Any] = self.dataset.collater(samples)
        if batch:
            batch["net_input"]["visual"] = self.features.rows(batch["id"].numpy())
        return batch


def hash_dictionary(dictionary: Any) -> str:
    """SHA-256 of a dictionary's types in their order."""
    return hashlib.sha256("\n".join(dictionary.symbols).encode()).hexdigest()


def no_words(dictionary: Any) -> dict[str, Any]:
    """A hypothesis, as fairseq's search gives them, of the end of sentence alone."""
    return {
        "tokens": torch.tensor([dictionary.eos()]),
        "score": torch.zeros(()),
        "attention": None,
        "alignment": torch.empty(0),
        "positional_scores": torch.zeros(1),
    }


@register_task("multimodal_translation", dataclass=MultimodalTranslationConfig)
class MultimodalTranslationTask(TranslationTask):  # type: ignore[misc]
    """fairseq's translation task with pictures, which loses no sentence.

    Attributes:
        visual_width: D of the features; None without ``--visual-dir``, but for
            :meth:`lines_dataset`.
    """

    def __init__(self, cfg: Any, src_dict: Any, tgt_dict: Any, visual_width: int | None) -> None:
        super().__init__(cfg, src_dict, tgt_dict)
        self.visual_width = visual_width
        self.state.merge_state_dict(
            {"dictionaries": [hash_dictionary(src_dict), hash_dictionary(tgt_dict)]}
        )
        self._told = False
        if cfg.attention_file:
            Path(cfg.attention_file).unlink(missing_ok=True)

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> MultimodalTranslationTask:
        """The task, its dictionaries and the features' width.

        Raises:
            InputError: a folder or dictionary is absent, or options that do not go together.
        """
        shards = utils.split_paths(cfg.data or "")
        if not shards or not Path(shards[0]).is_dir():
            raise InputError(f"data {cfg.data}: no such folder; allowed: fairseq-preprocess's")
        if cfg.num_batch_buckets:
            raise InputError(f"--num-batch-buckets {cfg.num_batch_buckets}; allowed: 0")
        width = None
        if cfg.visual_dir:
            if len(shards) > 1:
                raise InputError(f"data {cfg.data}: shards; with --visual-dir allowed: one folder")
            subset = cfg.train_subset if "train_subset" in cfg else "train"
            width = folder_width(Path(cfg.visual_dir), subset)
        elif cfg.visual_shuffle is not None:
            raise InputError(f"--visual-shuffle {cfg.visual_shuffle}: needs --visual-dir")
        for language in filter(None, (cfg.source_lang, cfg.target_lang)):
            path = Path(shards[0]) / f"dict.{language}.txt"
            if not path.is_file():
                raise InputError(f"{path}: no such dictionary")
        text = TranslationTask.setup_task(cfg)
        return cls(text.cfg, text.src_dict, text.tgt_dict, width)

    def load_dataset(
        self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any
    ) -> None:
        """Load a split, with its pictures where there is a ``--visual-dir``.

        Raises:
            InputError: the two languages, the dictionaries or the pictures do not fit, naming the
                file and the line.
        """
        shards = utils.split_paths(self.cfg.data)
        data = Path(
            shards[(epoch - 1) % len(shards)] if split == self.cfg.train_subset else shards[0]
        )
        languages = (self.cfg.source_lang, self.cfg.target_lang)
        impl = self.cfg.dataset_impl
        prefix = pair_prefix(data, split, *languages, impl)
        pairs = check_pair(prefix, languages, (self.src_dict, self.tgt_dict), impl)
        for k in count(1) if combine else ():
            more = Path(f"{data}/{split}{k}{prefix.name.removeprefix(split)}")
            if not indexed_dataset.dataset_exists(f"{more}.{languages[0]}", impl=impl):
                break
            if self.visual_width is not None:
                raise InputError(
                    f"{more}: a second part of {split}; with --visual-dir allowed: one"
                )
            check_pair(more, languages, (self.src_dict, self.tgt_dict), impl)
        super().load_dataset(split, epoch=epoch, combine=combine, **kwargs)
        if self.cfg.visual_dir and self.visual_width is not None:
            features = VisualFeatures(
                Path(self.cfg.visual_dir) / f"{split}.npy",
                pairs,
                self.visual_width,
                self.cfg.visual_shuffle,
            )
            self.datasets[split] = PicturedPairs(self.datasets[split], features)
            if split == self.cfg.train_subset:
                self.state.merge_state_dict({"pictures": features.fingerprint()})

    def lines_dataset(self, lines: Sequence[str], pictures: NDArray[Any] | None) -> Any:
        """Lines that are in no file, with a picture each: (n, D) or (n, t, D), or None.

        Raises:
            InputError: there is no line, one is empty or holds a symbol of fairseq's, or the
                pictures are unusable.
        """
        empty = [number for number, line in enumerate(lines, start=1) if not line.split()]
        if empty or not lines:
            raise InputError(f"lines: {f'line {empty[0]} is empty' if empty else 'there is none'}")
        tokens, lengths = self.get_interactive_tokens_and_lengths(list(lines), str)
        pairs = LanguagePairDataset(
            tokens,
            lengths,
            self.src_dict,
            tgt_dict=self.tgt_dict,
            left_pad_source=self.cfg.left_pad_source,
            left_pad_target=self.cfg.left_pad_target,
            shuffle=False,
        )
        if pictures is None or self.visual_width is None:
            return pairs
        features = VisualFeatures(
            Path("pictures"), len(lines), self.visual_width, array=np.asarray(pictures)
        )
        return PicturedPairs(pairs, features)

    def build_dataset_for_inference(self, *args: Any, **kwargs: Any) -> Any:
        """Lines typed in, which have no pictures.

        Raises:
            InputError: there is a ``--visual-dir``.
        """
        if self.visual_width is not None:
            raise InputError(
                "fairseq-interactive: lines that are typed in have no pictures; allowed:"
                " fairseq-generate, or a model without fusion and no --visual-dir"
            )
        return super().build_dataset_for_inference(*args, **kwargs)

    def get_interactive_tokens_and_lengths(self, lines: list[str], encode_fn: Any) -> Any:
        """Tokens of lines typed in.

        Raises:
            InputError: a line holds a symbol of fairseq's, which would be lost.
        """
        symbols = {self.src_dict[number] for number in range(self.src_dict.nspecial)}
        for line in lines:
            for word in symbols.intersection(encode_fn(line).split()) - {self.src_dict.unk_word}:
                raise InputError(
                    f"line {line!r}: holds the word {word}, a symbol of fairseq's, which would be"
                    " lost; allowed: any word but <s>, <pad>, </s>"
                )
        return super().get_interactive_tokens_and_lengths(lines, encode_fn)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """The model, if it translates and reads pictures where there are some.

        Raises:
            InputError: it does not.
        """
        name = getattr(cfg, "arch", None) or getattr(cfg, "_name", None)
        kind = models.ARCH_MODEL_REGISTRY.get(name) or models.MODEL_REGISTRY.get(name)
        if kind is not None and not issubclass(kind, FairseqEncoderDecoderModel):
            what = "the checkpoint's model" if from_checkpoint else "--arch"
            raise InputError(f"{what} {name}: does not translate; allowed: encoder-decoder models")
        if self.visual_width is not None and not issubclass(kind or object, MultimodalLSTMModel):
            raise InputError(
                f"--arch {name}: reads no pictures; allowed: multimodal_lstm*, or no --visual-dir"
            )
        return super().build_model(cfg, from_checkpoint)

    def build_generator(
        self, models: Any, args: Any, seq_gen_cls: Any = None, *rest: Any, **kwargs: Any
    ) -> Any:
        """fairseq's generator, or that of ``--wu-length-penalty``."""
        if self.cfg.wu_length_penalty and seq_gen_cls is None:
            seq_gen_cls = WuLengthPenaltyGenerator
        return super().build_generator(models, args, seq_gen_cls, *rest, **kwargs)

    def can_reuse_epoch_itr(self, dataset: Any) -> bool:
        """Not the training set's: fairseq composes batches by the epoch that it starts in.

        Made anew for every epoch, they are the same after a resume.
        """
        if dataset is self.datasets.get(self.cfg.train_subset):
            return False
        return bool(super().can_reuse_epoch_itr(dataset))

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Batches of all sentences.

        The installed fairseq throws the last batch away where its size is no multiple of
        ``--required-batch-size-multiple`` (8 unless given), and rounds batches down to one.
        """
        asked = kwargs.get("required_batch_size_multiple", 1)
        if asked != 1 and not self._told:
            logger.info("--required-batch-size-multiple %s: 1 is used, no sentence is lost", asked)
            self._told = True
        kwargs["required_batch_size_multiple"] = 1
        return super().get_batch_iterator(dataset, *args, **kwargs)

    def filter_indices_by_size(
        self,
        indices: Any,
        dataset: Any,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
    ) -> Any:
        """Sentences that are not too long; in training the others are left out with a warning.

        Raises:
            InputError: one is too long, and none may be left out.
        """
        if not ignore_invalid_inputs:
            too_long = dataset.filter_indices_by_size(indices, max_positions)[1]
            if len(too_long):
                names = [name for name, one in self.datasets.items() if one is dataset]
                split = names[0] if names else "lines typed in"
                sizes = tuple(int(size) for size in dataset.size(too_long[0]))
                raise InputError(
                    f"{split}: line {too_long[0] + 1} has {sizes} tokens (source, target); allowed:"
                    f" {tuple(max_positions)} (--max-source-positions, --max-target-positions)"
                )
        return super().filter_indices_by_size(
            indices, dataset, max_positions, ignore_invalid_inputs
        )

    def inference_step(
        self, generator: Any, models: Any, sample: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Translate a batch; with ``--attention-file`` also write what the best one attended to.

        The translation of a line without words, as may be typed in, has none either.
        """
        found = super().inference_step(generator, models, sample, *args, **kwargs)
        for place, length in enumerate(sample["net_input"]["src_lengths"].tolist()):
            if length <= 1:  # It has the end of sentence alone.
                found[place] = [no_words(self.tgt_dict)]
        if self.cfg.attention_file:
            self._write_attention(models[0], sample, [hypotheses[0] for hypotheses in found])
        return found

    def _write_attention(self, model: Any, sample: dict[str, Any], best: list[Any]) -> None:
        tokens = [hypothesis["tokens"] for hypothesis in best]
        found = sentence_attention(model, (self.src_dict, self.tgt_dict), sample, tokens)
        with Path(self.cfg.attention_file).open("a", encoding="utf8") as stream:
            for number, (source, target, attention) in found.items():
                line = {
                    "id": number,
                    "source": source,
                    "target": target,
                    "text": attention.text.tolist(),
                    "visual": None if attention.visual is None else attention.visual.tolist(),
                }
                stream.write(json.dumps(line) + "\n")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that a checkpoint was trained with these dictionaries.

        Raises:
            InputError: it was not.
        """
        trained = state_dict.get("dictionaries")
        if trained is None:
            return  # It is of fairseq's own translation task.
        ours = self.state.dictionaries
        languages = (self.cfg.source_lang, self.cfg.target_lang)
        for language, dictionary, was, is_ in zip(
            languages, (self.src_dict, self.tgt_dict), trained, ours, strict=True
        ):
            if was != is_:
                raise InputError(
                    f"{self.cfg.data}/dict.{language}.txt: {len(dictionary)} types that are not"
                    " those of the checkpoint; allowed: the dictionary that it was trained with"
                )

    def get_checkpoint_dict(self) -> dict[str, Any]:
        """What a checkpoint holds for :meth:`set_checkpoint_dict`."""
        return {type(self).__name__: self.state_dict()}

    def set_checkpoint_dict(self, state_dict: dict[str, Any]) -> None:
        """As :meth:`load_state_dict`; fairseq calls this one when training goes on.

        Raises:
            InputError: that, or it would go on with other pictures.
        """
        self.load_state_dict(state_dict)
        trained = state_dict.get("pictures")
        if trained is not None and trained != getattr(self.state, "pictures", None):
            raise InputError(
                f"--visual-dir {self.cfg.visual_dir}: {self.cfg.train_subset}.npy (or"
                " --visual-shuffle) is not what this training began with; allowed: the same,"
                " another --save-dir, or --finetune-from-model"
            )
