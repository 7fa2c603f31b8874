"""When the passes of one meta gradient run, and what several processes send meanwhile.

Source: Choe et al. 2023 (SAMA), Figure 2. A classifier of random inputs; a network of their
weights that is wide enough for its gradient to be sent in several buckets.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.networks import mlp
from papers.sama import SAMA, Adaptation
from papers.sama.measures.processes import run_in_processes
from papers.sama.measures.timeline import Timeline, Traffic
from papers.sama.tasks.random_classes import NetworkSettings, RandomClasses, losses_of

#: Meta steps before those that are looked at: buckets are ordered anew after the first.
WARM_UP = 2


class MetaStepTimeline(Settings):
    """The program, and how its processes talk."""

    method: Literal["sama", "nudge", "naive"] = Field(
        description="naive: the same passes by three ordinary backward()"
    )
    network: NetworkSettings
    batch_size: int = Field(gt=0, description="samples of a process")
    meta_hidden: int = Field(gt=0, description="width of the weight network's two hidden layers")
    bucket_mb: float = Field(25.0, gt=0, description="of DistributedDataParallel; 25 is its own")
    processes: int = Field(2, gt=1)
    repeats: int = Field(10, gt=0, description="meta steps of which the shortest is kept")


def run_meta_step_timeline(settings: MetaStepTimeline, run: Run) -> dict[str, float]:
    """Note a meta step's events; returns counts, of one process, and seconds."""
    run.uses(DataIdentity.generated("random inputs and labels", run.seed))
    run.precision = "fp32"
    found = run_in_processes(timeline_of_process, settings.processes, False, settings, run.seed)
    lengths = [
        max(end for each in found for _, _, end in each["events"][which])
        for which in range(settings.repeats)
    ]
    shortest = lengths.index(min(lengths))
    run.write_json("timeline.json", [each["events"][shortest] for each in found])
    counts = {name: float(value) for name, value in found[0]["counts"].items()}
    return counts | {"meta_step_s": lengths[shortest]}


def timeline_of_process(
    _device: torch.device, settings: MetaStepTimeline, seed: int
) -> dict[str, Any]:
    """Events of meta steps of this process, and what another one sent."""
    task = RandomClasses(
        settings.network, settings.batch_size, seed, torch.device("cpu"), dist.get_rank()
    )
    hidden = settings.meta_hidden
    weigher = nn.Sequential(mlp(settings.network.inputs, hidden, hidden, 1), nn.Sigmoid())
    base = DistributedDataParallel(task.base)
    meta = DistributedDataParallel(weigher, bucket_cap_mb=settings.bucket_mb)
    optimizer = torch.optim.Adam(base.parameters(), lr=1e-3)
    nudge = settings.method == "nudge"
    sama = SAMA(base, meta, Adaptation(optimizer), alpha=0.1, nudge=nudge)

    def base_cost() -> Tensor:
        cost: Tensor = (meta(task.train[0])[:, 0] * losses_of(base, task.train)).mean()
        return cost

    def meta_cost() -> Tensor:
        return losses_of(base, task.clean).mean()

    timeline = Timeline()

    def meta_step() -> None:
        for module in (base, meta):
            module.zero_grad()
        if settings.method == "naive":
            for cost in (meta_cost, base_cost, base_cost):
                timeline.watched(cost)().backward()  # type: ignore[no-untyped-call]
        else:
            sama.backward(timeline.watched(meta_cost), timeline.watched(base_cost), keep=True)

    for _ in range(2):  # base steps
        base_cost().backward(inputs=list(base.parameters()))  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    for _ in range(WARM_UP):
        meta_step()
    dist.barrier()
    with Traffic() as traffic:
        meta_step()
    for module in (base, meta):
        timeline.listen(module)
    meta_step()
    events = []
    for _ in range(settings.repeats):
        dist.barrier()
        timeline.begin()
        start = timeline.now()
        meta_step()
        timeline.note("step", start)
        events.append([list(event) for event in timeline.events])
    calls, sent = traffic.found()
    return {
        "events": events,
        "counts": {
            "collectives": sum(calls.values()),
            "sent_bytes": sent,
            "meta_bytes": 4 * sum(p.numel() for p in meta.parameters()),
            "base_bytes": 4 * sum(p.numel() for p in base.parameters()),
        },
    }


PROGRAM = Program(MetaStepTimeline, run_meta_step_timeline)
