"""Operations of a step with a penalty over a plain one's, as the outputs grow in number."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.ojr.methods.regularisation import Penalty, Regularisation, prepare
from papers.ojr.tasks.networks import BlockNetwork, NetworkSettings, build_network


class OperationSettings(Settings):
    """A network, a penalty of it, and how many inputs and outputs it has."""

    network: NetworkSettings
    regularisation: Regularisation
    classes: int = Field(gt=1)
    side: int = Field(32, gt=0, description="of a gray image")
    batch_size: int = Field(16, gt=0)


def run_operations(settings: OperationSettings, run: Run) -> dict[str, float]:
    """Count multiplications and additions of matrix products, in a step and in a plain one."""
    run.precision = "float32"
    run.uses(DataIdentity.generated("normal numbers", run.seed))
    torch.manual_seed(run.seed)
    network = build_network(settings.network, (1, settings.side, settings.side), settings.classes)
    penalty = prepare(network, settings.regularisation, 1.0, torch.default_generator)
    x = torch.randn(settings.batch_size, 1, settings.side, settings.side)
    y = torch.randint(settings.classes, (settings.batch_size,))
    plain = _operations(network, x, y, None)
    penalised = _operations(network, x, y, penalty)
    return {
        "plain_gflop": plain / 1e9,
        "step_gflop": penalised / 1e9,
        "over_plain": penalised / plain,
    }


def _operations(network: BlockNetwork, x: Tensor, y: Tensor, penalty: Penalty | None) -> int:
    """Of a forward pass, the penalty and the backward pass."""
    counter = _Counter()
    with counter:
        loss = functional.cross_entropy(network(x), y)
        if penalty is not None:
            loss = loss + penalty(x)
        loss.backward()  # type: ignore[no-untyped-call]
    return counter.count


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up torch's own counts; its counter watches modules too, and fails at second passes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if count := flop_registry.get(func.overloadpacket):
            self.count += int(count(*args, **(kwargs or {}), out_val=found))
        return found


PROGRAM = Program(OperationSettings, run_operations)
