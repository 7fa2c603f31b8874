"""What a training is told: which network, and how long and how fast it learns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.experiments.settings import Settings


class TranslationModel(Settings):
    """A network, how the picture enters it, and what it is trained for.

    Sizes that are not given are the architecture's. ``options`` are further options of fairseq,
    without their dashes.
    """

    architecture: str = "multimodal_lstm"
    fusion: Literal["none", "step_wise_decoder", "attention_modulation", "output"] = "none"
    visual_gamma: float = Field(0.1, ge=0, le=1, description="share of the visual attention")
    regularizer_gamma: float | None = Field(
        None, ge=0, le=1, description="weight of the visual-semantic regulariser; None: without it"
    )
    dropout: float = Field(0.1, ge=0, lt=1)
    options: dict[str, str | int | float | bool] = Field({})

    @property
    def reads_pictures(self) -> bool:
        """Whether training needs picture features."""
        return self.fusion != "none" or self.regularizer_gamma is not None


class Schedule(Settings):
    """How long and how fast a model learns."""

    epochs: int = Field(gt=0)
    batch_size: int | None = Field(None, gt=0, description="sentences an update")
    max_tokens: int | None = Field(None, gt=0, description="or tokens an update")
    learning_rate: float = Field(0.001, gt=0)
    decay: Literal["fixed", "plateau", "inverse_sqrt"] = Field(
        "plateau", description="plateau: halved when the validation loss does not fall"
    )
    warmup_updates: int = Field(4000, ge=0, description="of inverse_sqrt")
    patience: int | None = Field(None, gt=0, description="epochs without a better loss; None: all")
    clip_norm: float = Field(1.0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    fp16: bool = False
    gpu: bool = False
