"""Translations of a split by beam search, as plain Python data in the order of the file."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings
from papers.mmt_how2.translation.fairseq_start import old_calls, start_fairseq

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from papers.mmt_how2.fairseq_plugin.attention_maps import SentenceAttention


class Search(Settings):
    """Beam search.

    A hypothesis' score is its log-probability over its length to the power of ``length_penalty``
    (``power``; 1 gives the mean), or over ((5 + length) / 6) to that power (``wu``: Wu et al.
    2016, which the paper names). The length counts the end of sentence.
    """

    beam: int = Field(5, gt=0)
    nbest: int = Field(1, gt=0, description="hypotheses kept, at most the beam")
    normalisation: Literal["power", "wu"] = "power"
    length_penalty: float = 1.0
    max_len_a: float = Field(2.0, ge=0, description="longest output: a x source length + b")
    max_len_b: int = Field(20, gt=0)
    batch_size: int = Field(128, gt=0)
    gpu: bool = False


class Hypothesis(NamedTuple):
    """A translation, its normalised log-probability (base e), and its words' log-probabilities.

    ``token_scores`` has one more than there are words: the end of sentence.
    """

    text: str
    score: float
    token_scores: tuple[float, ...]


class Translations(NamedTuple):
    """Of each line its hypotheses, the best first, and what the search took."""

    hypotheses: list[list[Hypothesis]]
    tokens: int
    wall_s: float
    cpu_s: float

    @property
    def best(self) -> list[str]:
        """The best hypothesis of each line."""
        return [found[0].text for found in self.hypotheses]

    @property
    def tokens_per_s(self) -> float:
        """Tokens of the best hypotheses in a second of wall time."""
        return self.tokens / self.wall_s


class Translator:
    """A trained model that translates the splits of a data folder.

    Args:
        checkpoint: of a translation model.
        data: folder of binarised text, with the dictionaries of the training.
        visual: folder of ``<split>.npy``; not looked at by a model that was trained without, and
            not needed for :meth:`translate_lines`.
        shuffle: seed of a permutation that gives every sentence another one's picture.
        gpu: compute on the GPU.

    Raises:
        InputError: the checkpoint is absent, unreadable or of another task, or was trained with
            other dictionaries or features.
    """

    def __init__(
        self,
        checkpoint: Path,
        data: Path,
        visual: Path | None = None,
        shuffle: int | None = None,
        gpu: bool = False,
    ) -> None:
        start_fairseq()
        with old_calls():
            self._load(checkpoint, data, visual, shuffle)
        self.gpu = gpu
        if gpu:
            self.model.cuda()

    def _load(self, checkpoint: Path, data: Path, visual: Path | None, shuffle: int | None) -> None:
        from fairseq import checkpoint_utils, tasks

        state = read_checkpoint(checkpoint)
        config = state["cfg"].task
        width = getattr(state["cfg"].model, "visual_dim", None)
        config.data, config.attention_file = str(data), None
        config.visual_dir = None if visual is None or width is None else str(visual)
        config.visual_shuffle = shuffle if config.visual_dir else None
        self.task = tasks.setup_task(config)
        if visual is None:
            self.task.visual_width = width
        try:
            (self.model,), _ = checkpoint_utils.load_model_ensemble(
                [str(checkpoint)], task=self.task, state=state
            )
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{checkpoint}: does not fit {data} ({reason})") from None
        # Attention maps are computed once a translation is there, not at each step of the search.
        self.model.make_generation_fast_(need_attn=False)

    def translate(self, split: str, search: Search) -> Translations:
        """Translate all lines of ``split``.

        Raises:
            InputError: the text or its features are unusable.
        """
        if search.nbest > search.beam:
            raise InputError(f"nbest {search.nbest}; allowed: 1 to the beam, {search.beam}")
        wall, cpu = time.perf_counter(), time.process_time()
        found: dict[int, list[Hypothesis]] = {}
        tokens = 0
        for sample, batch in self._searched(split, search):
            for number, hypotheses in zip(sample["id"].tolist(), batch, strict=True):
                found[number] = [self._plain(one) for one in hypotheses[: search.nbest]]
                tokens += len(hypotheses[0]["tokens"])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        lines = len(self.task.dataset(split))
        if len(found) != lines:
            raise InputError(f"{split}: {len(found)} of {lines} lines were translated")
        return Translations([found[number] for number in range(lines)], tokens, wall, cpu)

    def translate_lines(
        self, lines: Sequence[str], search: Search, pictures: NDArray[Any] | None = None
    ) -> Translations:
        """Translate lines that are in no file, cut into the units that the model was trained on.

        Args:
            pictures: a vector of each line, (n, D), or t of them that are averaged, (n, t, D); not
                looked at by a model that was trained without.

        Raises:
            InputError: a line is empty or unusable, or the model reads pictures and there is not
                one of its width for each line.
        """
        fusion = getattr(self.model.encoder, "fusion", "none")
        if pictures is None and fusion != "none":
            raise InputError(
                f"pictures: None; fusion {fusion} reads {self.task.visual_width} numbers a line"
            )
        name = "lines"
        self.task.datasets[name] = self.task.lines_dataset(lines, pictures)
        try:
            return self.translate(name, search)
        finally:
            del self.task.datasets[name]

    def attention(
        self, split: str, search: Search, sentences: Sequence[int]
    ) -> list[SentenceAttention]:
        """Attention of the best translations of some lines (from 0), in their order.

        Raises:
            InputError: there is no such line, or the model has no attention maps.
        """
        from papers.mmt_how2.fairseq_plugin.attention_maps import sentence_attention

        found: dict[int, SentenceAttention] = {}
        dictionaries = self.task.source_dictionary, self.task.target_dictionary
        for sample, batch in self._searched(split, search, set(sentences)):
            tokens = [hypotheses[0]["tokens"] for hypotheses in batch]
            found |= sentence_attention(self.model, dictionaries, sample, tokens)
        absent = [number for number in sentences if number not in found]
        if absent:
            raise InputError(f"{split}: no line {absent[0]} (counted from 0)")
        return [found[number] for number in sentences]

    def _searched(
        self, split: str, search: Search, among: set[int] | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Batches and their hypotheses; of a set of lines only, if one is given."""
        from fairseq import utils

        if split not in self.task.datasets:
            self.task.load_dataset(split)
        generator = self._generator(search)
        batches = self.task.get_batch_iterator(
            self.task.dataset(split),
            max_sentences=search.batch_size,
            max_positions=utils.resolve_max_positions(
                self.task.max_positions(), self.model.max_positions()
            ),
            disable_iterator_cache=True,
        )
        with old_calls():
            stream = iter(batches.next_epoch_itr(shuffle=False))
        for sample in stream:
            if among is not None and among.isdisjoint(sample["id"].tolist()):
                continue
            batch = utils.move_to_cuda(sample) if self.gpu else sample
            yield batch, self.task.inference_step(generator, [self.model], batch)

    def _generator(self, search: Search) -> Any:
        from fairseq.dataclass.configs import GenerationConfig

        config = GenerationConfig(
            beam=search.beam,
            nbest=search.nbest,
            lenpen=search.length_penalty,
            max_len_a=search.max_len_a,
            max_len_b=search.max_len_b,
        )
        self.task.cfg.wu_length_penalty = search.normalisation == "wu"
        return self.task.build_generator([self.model], config)

    def _plain(self, hypothesis: dict[str, Any]) -> Hypothesis:
        return Hypothesis(
            # Of a list: of a tensor, fairseq would take every number out of a tensor of its own.
            self.task.target_dictionary.string(hypothesis["tokens"].tolist()),
            float(hypothesis["score"]),
            tuple(hypothesis["positional_scores"].tolist()),
        )


def read_checkpoint(path: Path) -> Any:
    """fairseq's checkpoint of a translation model.

    Raises:
        InputError: absent, unreadable or of another task.
    """
    from fairseq import checkpoint_utils

    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
        name = state["cfg"].task.get("_name", "none")
    except Exception as error:  # The bytes lead torch and fairseq to any.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: no checkpoint of fairseq ({reason})") from None
    if name != "multimodal_translation":
        raise InputError(f"{path}: of task {name}; allowed: multimodal_translation")
    return state
