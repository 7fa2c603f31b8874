"""fairseq's trainer without costs of each update that small models feel.

Importing this module imports fairseq; call :func:`~.fairseq_start.start_fairseq` before.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from fairseq.trainer import Trainer
from omegaconf import DictConfig


class LeanTrainer(Trainer):  # type: ignore[misc]
    """The same updates, random numbers and checkpoints as fairseq's trainer.

    Two things differ, together 5 to 6 of 33 CPU milliseconds an update of a small model: options
    are looked up in plain objects (fairseq reads dozens an update, and OmegaConf checks each), and
    on a CPU the generator alone is seeded (torch's function notes a stack trace for each kind of
    accelerator that is not there, and keeps them).
    """

    def __init__(self, cfg: DictConfig, task: Any, model: Any, criterion: Any) -> None:
        self._config = cfg
        super().__init__(cfg, task, model, criterion)
        self.cfg = plain(cfg)

    @contextmanager
    def _whole_config(self) -> Iterator[None]:
        lean, self.cfg = self.cfg, self._config
        try:
            yield
        finally:
            self.cfg = lean

    def state_dict(self) -> dict[str, Any]:
        """As fairseq's."""
        with self._whole_config():
            return super().state_dict()  # type: ignore[no-any-return]

    def _build_optimizer(self) -> None:
        with self._whole_config():
            super()._build_optimizer()

    def _set_seed(self) -> None:
        if self.cuda:
            super()._set_seed()
        else:
            torch.default_generator.manual_seed(self.cfg.common.seed + self.get_num_updates())


def plain(node: Any) -> Any:
    """A configuration's values as attributes."""
    if isinstance(node, DictConfig):
        return Namespace(**{str(key): plain(value) for key, value in node.items()})
    return node
