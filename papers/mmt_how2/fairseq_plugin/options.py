"""Options of the task and of the criterion, as fairseq's dataclasses.

fairseq reads the fields' types at run time and knows ``Optional`` alone, so annotations here are
neither postponed nor unions.
"""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.tasks.translation import TranslationConfig
from omegaconf import II


@dataclass
class MultimodalTranslationConfig(TranslationConfig):  # type: ignore[misc]
    """Options of fairseq's translation task, and of the pictures."""

    # fairseq's LSTM gives attention in right-padded order, whatever the tokens' padding is.
    left_pad_source: bool = field(default=False, metadata={"help": "pad the source on the left"})
    visual_dir: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "folder of <split>.npy, a row for each sentence: (n, D) or (n, t, D)"},
    )
    visual_shuffle: Optional[int] = field(  # noqa: UP045
        default=None,
        metadata={"help": "seed: every sentence gets another one's picture (incongruent)"},
    )
    attention_file: Optional[str] = field(  # noqa: UP045
        default=None,
        metadata={"help": "generation: write attention maps there, a JSON line for each sentence"},
    )
    wu_length_penalty: bool = field(
        default=False,
        metadata={"help": "generation: --lenpen is the alpha of Wu et al. 2016, not a power"},
    )


@dataclass
class VisualSemanticRegularizerConfig(FairseqDataclass):  # type: ignore[misc]
    """Options of the regulariser; only tau is published (0.1 is the attention's gamma)."""

    regularizer_gamma: float = field(
        default=0.1, metadata={"help": "weight of the transport terms, 0 to 1"}
    )
    regularizer_tau: float = field(
        default=0.01, metadata={"help": "temperature of the soft prediction"}
    )
    regularizer_epsilon: float = field(
        default=0.1, metadata={"help": "weight of the plan's entropy (not published)"}
    )
    regularizer_iterations: int = field(
        default=20, metadata={"help": "Sinkhorn iterations (not published)"}
    )
    sentence_avg: bool = II("optimization.sentence_avg")
