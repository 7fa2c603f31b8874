"""From a number to the records that it was computed from, and to the commands that make them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from common.experiments.schema import RunKey
from common.experiments.settings import Settings
from common.results.records import StoredRecord


class Runs(Settings):
    """Records of one arm in one case."""

    experiment: str
    case: str
    arm: str
    seeds: list[int]

    def __str__(self) -> str:
        """Each record as experiment, case, arm and seed, apart by blanks."""
        place = f"{self.experiment}/{self.case}/{self.arm}"
        return " ".join(f"{place}/seed{seed}" for seed in self.seeds)


def list_runs(stored: Iterable[StoredRecord]) -> list[Runs]:
    """Records by case and arm, in order, each once."""
    seeds: dict[tuple[str, str, str], dict[int, None]] = {}
    for item in stored:
        place = (item.record.experiment, item.record.case, item.record.arm)
        seeds.setdefault(place, {})[item.record.seed] = None
    return [
        Runs(experiment=experiment, case=case, arm=arm, seeds=list(found))
        for (experiment, case, arm), found in seeds.items()
    ]


class RunIndex:
    """Runs behind the numbers of a page, each listed once; a number names its runs by their places.

    The page's script composes commands of them, for a thousand written out would be half the page.
    """

    def __init__(self) -> None:
        self._places: dict[tuple[str | bool, ...], int] = {}

    def places(self, paper: str, scale: str, runs: Iterable[Runs], kept: bool) -> str:
        """Places of ``runs`` on the list, apart by blanks; ``kept`` in an archive, not in files."""
        keys = [
            (paper, scale, run.experiment, run.case, run.arm, " ".join(map(str, run.seeds)), kept)
            for run in runs
        ]
        return " ".join(str(self._places.setdefault(key, len(self._places))) for key in keys)

    @property
    def listed(self) -> list[tuple[str | bool, ...]]:
        """(paper, scale, experiment, case, arm, seeds apart by blanks, kept) of each place."""
        return list(self._places)


def commands(results: Path) -> dict[str, str]:
    """Commands and the record's place of a run, with its ``{paper}``, ``{arm}`` and so on to fill.

    Args:
        results: folder of the results of all scales.
    """
    run = RunKey("{paper}", "{experiment}", "{case}", "{arm}", "{seed}", "{scale}")  # type: ignore[arg-type]
    record = run.record(Path()).as_posix()
    replay = "python -m common.results replay"
    kept = "{paper}/{experiment}/{case}/{arm}/{seed} --scale {scale}"
    return {
        "make": run.command,
        "record": record,
        "replay": f"{replay} {shlex.quote(results.as_posix())}/{record}",
        "replay_kept": f"{replay} {kept}",
    }
