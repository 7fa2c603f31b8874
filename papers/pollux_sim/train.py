"""Entry point: ``python papers/pollux_sim/train.py EXPERIMENT --case C --arm A``, or ``simulate``.

``simulate`` runs any workload file; everything else is an experiment of the paper.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import InputError
from common.experiments.schema import RunKey, load_paper
from common.experiments.settings import validated
from common.runs.cli import folder, guarded, paper_parser, run_experiment
from common.runs.programs import Programs
from common.runs.run import Run

FOLDER = Path(__file__).resolve().parent
#: Setting -> the option of ``simulate`` that gives it.
OPTIONS = {
    "cluster.nodes": "--nodes",
    "cluster.gpus_per_node": "--gpus-per-node",
    "interval_s": "--interval",
    "power": "--p",
    "interference": "--interference",
    "max_nodes": "--max-nodes",
    "search.population_size": "--population",
    "search.generations": "--generations",
}


def add_simulate(command: argparse.ArgumentParser) -> None:
    """Options of the ``simulate`` command."""
    add = command.add_argument
    add(
        "--workload",
        required=True,
        type=Path,
        metavar="FILE",
        help="CSV: name, time, application, num_replicas, batch_size",
    )
    add("--policy", choices=("pollux", "tiresias", "optimus"), default="pollux")
    add("--nodes", type=int, default=16, help="nodes of the cluster (default: 16)")
    add("--gpus-per-node", type=int, default=4, help="at most 4 with traces (default: 4)")
    add("--seed", type=int, default=0, help="of Pollux's search (default: 0)")
    add(
        "--out",
        type=folder,
        required=True,
        metavar="DIR",
        help="folder of record.json and jobs.csv",
    )
    add(
        "--interval", type=int, default=60, metavar="S", help="scheduling interval, s (default: 60)"
    )
    add("--p", type=float, default=-1.0, help="exponent of Pollux's fitness (default: -1)")
    add(
        "--interference",
        type=float,
        default=0.0,
        metavar="F",
        help="speed lost by distributed jobs that share a node, 0 to 1 (default: 0)",
    )
    add("--no-avoidance", action="store_true", help="let distributed jobs share nodes")
    add(
        "--autoscale",
        choices=("goodput", "throughput"),
        default="",
        help="grow the cluster by this measure",
    )
    add("--max-nodes", type=int, help="largest cluster with --autoscale")
    add("--population", type=int, default=100, help="of the search (default: 100)")
    add("--generations", type=int, default=100, help="of the search (default: 100)")
    add(
        "--compat",
        choices=("fixed", "upstream"),
        default="fixed",
        help="upstream keeps two quirks of the artifact (default: fixed)",
    )
    add("--fairness", action="store_true", help="also compute finish-time fairness")
    add(
        "--applications",
        choices=("auto", "traces", "fitted"),
        default="auto",
        help="measured traces, formulas fitted to them, or traces where they are found (default)",
    )
    add(
        "--data-root",
        metavar="DIR",
        help="folder that holds pollux/ (default: REPRO_DATA, the cache)",
    )


def run_file(options: argparse.Namespace) -> Path:
    """Simulate a workload file; returns the path of the record."""
    from papers.pollux_sim.experiments.simulate import SimulateSettings, run_simulation
    from papers.pollux_sim.tasks.ground_truth import pollux_folder

    applications, fallen_back = options.applications, False
    if applications == "auto":
        try:
            pollux_folder(options.data_root)
            applications = "traces"
        except InputError:
            applications, fallen_back = "fitted", True
    raw = {
        "policy": options.policy,
        "applications": applications,
        "workload": "file",
        "file": str(options.workload),
        "cluster": {"nodes": options.nodes, "gpus_per_node": options.gpus_per_node},
        "interval_s": options.interval,
        "power": options.p,
        "interference": options.interference,
        "avoid_interference": not options.no_avoidance,
        "autoscale": options.autoscale,
        "max_nodes": options.max_nodes,
        "search": {
            "population_size": options.population,
            "generations": options.generations,
            "upstream": options.compat == "upstream",
        },
        "fairness": options.fairness,
        "trace": True,
        "data_root": options.data_root,
    }
    settings = validated(SimulateSettings, raw, "simulate", OPTIONS)
    scale = "paper" if applications == "traces" else "laptop"
    key = RunKey("pollux_sim", "simulate", "file", options.policy, options.seed, scale)
    with Run(
        key,
        "simulate",
        settings,
        options.out,
        options.out / f"unfinished-{options.policy}-{options.seed}",
    ) as run:
        metrics = run_simulation(settings, run)
        record = run.finish(metrics)
    source = "the authors' traces" if applications == "traces" else "formulas fitted to the traces"
    print(f"applications: {source}{' (no traces were found)' if fallen_back else ''}")
    print(f"average completion time: {metrics['avg_jct_s']:.1f} s, {metrics['num_jobs']:.0f} jobs")
    print(f"record: {record}")
    return record


def main() -> None:
    """Parse the command line and run."""
    paper = load_paper(FOLDER)
    parser, commands = paper_parser(paper)
    simulate = commands.add_parser(
        "simulate", help="simulate a workload file", description="Simulate a workload file."
    )
    add_simulate(simulate)
    options = parser.parse_args()
    if options.command == "simulate":
        run_file(options)
        return
    run_experiment(paper, Programs(FOLDER), options)


if __name__ == "__main__":
    guarded(main)
