"""Passes over the data that a way of projecting and a Hessian take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

from common.errors import InputError
from papers.logra.session.configs import LoRAConfig
from papers.logra.session.session import LogIX

LoRA = Literal["none", "random", "pca"]
#: LogIX calls the empirical Fisher ``raw``.
HessianName = Literal["none", "empirical_fisher", "kfac", "ekfac", "raw"]
Save = Literal["none", "grad"]

KRONECKER_FACTORS = {"forward": ["covariance"], "backward": ["covariance"]}
#: What the last pass gathers of each Hessian.
LAST_PASS: dict[HessianName, dict[str, list[str]]] = {
    "none": {},
    "empirical_fisher": {"grad": ["log", "covariance"]},
    "raw": {"grad": ["log", "covariance"]},
    "kfac": KRONECKER_FACTORS,
    "ekfac": {"grad": ["log", "corrected_eigval"]},
}


class Pass(NamedTuple):
    """One pass: what is set up, and what is done before."""

    gathers: dict[str, list[str]]
    adds_lora: bool = False
    saves: bool = False


def choose_lora(enabled: bool, config: LoRAConfig) -> LoRA:
    """What LogIX's boolean means."""
    if not enabled:
        return "none"
    return "pca" if config.init == "pca" else "random"


class LogIXScheduler:
    """Sets a run up for each pass; iterating gives the number of the pass.

    ::

        for _ in LogIXScheduler(run, lora="random", hessian="empirical_fisher", save="grad"):
            for ids, inputs, targets in loader:
                with run(data_id=ids):
                    loss(model(inputs), targets).backward()

    In a run that resumes all passes are gone through again; :meth:`LogIX.has_logged` is true for
    the batches of those that were done.

    Args:
        run: that watches a model.
        lora: ``none``, ``random``, or ``pca``, which takes one pass more. True is as the run's
            configuration says, False is ``none``.
        hessian: ``none``, ``empirical_fisher`` (LogIX: ``raw``), ``kfac``, or ``ekfac``, which
            takes one pass more.
        save: ``none``, or ``grad`` to store gradients in the last pass.
        log: whether :meth:`LogIX.get_log` has the gradients of the last pass. EKFAC, where they are
            not stored either, takes less time without.

    Raises:
        InputError: another value.
    """

    def __init__(
        self,
        run: LogIX,
        lora: LoRA | bool = "none",
        hessian: HessianName = "none",
        save: Save = "none",
        log: bool = True,
    ) -> None:
        if isinstance(lora, bool):
            lora = choose_lora(lora, run.get_lora_config())
        for option, value, kind in (
            ("lora", lora, LoRA),
            ("hessian", hessian, HessianName),
            ("save", save, Save),
        ):
            if value not in get_args(kind):
                raise InputError(f"{option} {value!r}; allowed: {', '.join(get_args(kind))}")
        self._run, self._lora = run, lora
        gathers = [KRONECKER_FACTORS] * (lora == "pca") + [KRONECKER_FACTORS] * (hessian == "ekfac")
        # A pass that stores gradients logs them, also where the Hessian is made of other moments.
        last = {"grad": ["log"], **LAST_PASS[hessian]} if save == "grad" else LAST_PASS[hessian]
        if not log:
            last = {kind: [what for what in last[kind] if what != "log"] for kind in last}
        gathers.append(last)
        self.passes = [
            Pass(
                what,
                adds_lora=lora != "none" and number == (lora == "pca"),
                saves=save != "none" and number == len(gathers) - 1,
            )
            for number, what in enumerate(gathers)
        ]

    def __len__(self) -> int:
        return len(self.passes)

    def __iter__(self) -> Iterator[int]:
        saving = self._run.saving
        for number, this in enumerate(self.passes):
            # Eigenvectors of the pass before must be those of all processes' data.
            self._run.sum_statistics()
            if this.adds_lora:
                self._run.add_lora(lora_config=self._projecting())
            self._run.save(this.saves or (saving and number == len(self) - 1))
            self._run.setup(this.gathers)
            yield number

    def _projecting(self) -> LoRAConfig:
        """The run's settings with this way of projecting."""
        config = self._run.get_lora_config()
        kind = "pca" if self._lora == "pca" else "random" if config.init == "pca" else config.init
        return config.model_copy(update={"init": kind})
