"""Several processes: who takes which batches, what is averaged when, what is spread over them."""

from __future__ import annotations

from papers.betty.configs import EngineConfig
from papers.betty.distribution.data_parallel import DataParallel
from papers.betty.distribution.processes import joined


def make_distribution(config: EngineConfig) -> DataParallel:
    """The strategy of an engine. Raises InputError as :func:`joined` does."""
    processes = joined(config.strategy, config.backend)
    if config.strategy == "zero":
        from papers.betty.distribution.sharded_optimizer import ShardedOptimizer

        return ShardedOptimizer(processes)
    if config.strategy == "fsdp":
        from papers.betty.distribution.sharded_parameters import ShardedParameters

        return ShardedParameters(processes)
    return DataParallel(processes)


__all__ = ["DataParallel", "make_distribution"]
