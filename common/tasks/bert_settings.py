"""Settings of BERT, apart from what loads it: that takes seconds, and few programs need it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.experiments.settings import Settings


class BertSettings(Settings):
    """Which BERT reads the texts, and how much of them."""

    pretrained: bool = Field(True, description="BERT base as published; else random weights")
    layers: int = Field(12, gt=0, description="of random weights; width and heads too")
    width: int = Field(768, gt=0)
    heads: int = Field(12, gt=0)
    max_length: int = Field(
        512, ge=3, le=512, description="pieces of a text with [CLS] and [SEP]; later ones are cut"
    )
    # WRENCH offers both; which one the paper took is not stated.
    pooling: Literal["pooler", "mean"] = Field(
        "pooler",
        description="features of a text: what BERT was trained to predict the next sentence"
        " from, or the mean over its pieces",
    )

    @model_validator(mode="after")
    def _check(self) -> BertSettings:
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} must divide width, {self.width}")
        return self
