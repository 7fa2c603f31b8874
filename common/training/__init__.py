"""Training core: what every training loop needs, and no loop of its own.

A paper writes its loop in the open and calls :class:`Core` for device and precision, distributed
wrapping, accumulation, clipping, data order, resume, stopping, and metering. See ``docs/core.md``.
"""

from common.training.core import STOPPED, Core
from common.training.data_order import EpochLoader, EpochOrder
from common.training.settings import CoreSettings

__all__ = ["STOPPED", "Core", "CoreSettings", "EpochLoader", "EpochOrder"]
