"""Multimodal translation as a fairseq plugin: ``--user-dir papers/mmt_how2/fairseq_plugin``.

Registers the task ``multimodal_translation``, the architectures ``multimodal_lstm*`` and the
criterion ``visual_semantic_regularizer``; the installed fairseq stays as it is. Programs import it
as ``papers.mmt_how2.fairseq_plugin``; a later ``--user-dir`` in the same process finds it there.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch

# fairseq looks for a user folder under its last name, and must not register the same twice.
sys.modules.setdefault("fairseq_plugin", sys.modules[__name__])

# Since torch 2.6 a checkpoint is read without running code, and fairseq's hold these classes: the
# parsed command line, and numpy numbers in the meters. This module is imported before any is read.
torch.serialization.add_safe_globals(
    [
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
        np._core.multiarray.scalar,  # type: ignore[attr-defined]
        *(type(np.dtype(kind)) for kind in ("int32", "int64", "float32", "float64", "bool")),
    ]
)

from . import (  # noqa: E402
    multimodal_lstm,
    multimodal_translation,
    visual_semantic_regularizer,
)

__all__ = ["multimodal_lstm", "multimodal_translation", "visual_semantic_regularizer"]
