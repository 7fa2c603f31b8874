"""Training core: what every training loop needs, and no loop of its own.

A paper writes its loop in the open and calls :class:`Core` for device and precision, distributed
wrapping, accumulation, clipping, data order, resume, stopping, and metering. See ``docs/core.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from common.training.core import STOPPED, Core
    from common.training.data_order import EpochLoader, EpochOrder
    from common.training.settings import CoreSettings

__all__ = ["STOPPED", "Core", "CoreSettings", "EpochLoader", "EpochOrder"]

# Loaded when asked for: the core loads accelerate, which a checkpoint or a claim need not.
__getattr__, __dir__, _ = lazy.attach(
    __name__,
    submod_attrs={
        "core": ["STOPPED", "Core"],
        "data_order": ["EpochLoader", "EpochOrder"],
        "settings": ["CoreSettings"],
    },
)
