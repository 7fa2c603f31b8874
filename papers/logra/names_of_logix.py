"""Names of ``logix.utils``; programs import them as ``papers.logra.utils``."""

from __future__ import annotations

import logging

from papers.logra.processes import processes as get_world_size
from papers.logra.processes import rank as get_rank
from papers.logra.scoring.influence import merge_logs
from papers.logra.session.data_ids import DataIDGenerator

__all__ = ["DataIDGenerator", "get_logger", "get_rank", "get_world_size", "merge_logs"]


def get_logger() -> logging.Logger:
    """The one that says what there is to say."""
    return logging.getLogger("logra")
