"""Beyond the paper: a rater of training texts, learned with SAMA, and what it saves.

A language model is trained on texts of which a share is corrupted, until its loss on clean texts
that nobody trained on is at a goal. Before that a search may choose the texts; what it reads counts
too. Source: the idea of a data rater is Calian et al. 2025, whose code is not public.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from common.errors import InputError
from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.batches import Batches
from common.training import Core, CoreSettings
from common.training.data_order import mixed
from papers.sama.methods.bilevel import BaseOptimizer, Bilevel, MetaSettings
from papers.sama.methods.rating import CharacterModel, Rater, batch_weights
from papers.sama.methods.timing import Clock
from papers.sama.tasks.rated_texts import CLEAN, Texts, TextSettings, load_texts

#: Texts of one forward pass without gradients.
AT_ONCE = 500


class DataRater(TextSettings):
    """How texts are chosen, and how the model is trained."""

    core: CoreSettings
    choice: Literal["all", "held_out_loss", "rated", "oracle"] = Field(
        description="held_out_loss: those that a model of the held-out texts expects most"
    )
    keep_pct: float = Field(
        50, gt=0, le=100, description="of the texts, the best rated; held_out_loss and rated only"
    )
    context: int = Field(8, gt=0, description="characters that the model reads")
    width: int = Field(128, gt=0)
    rater_width: int = Field(32, gt=0)
    optimizer: BaseOptimizer
    meta: MetaSettings
    batch_size: int = Field(gt=0)
    search_steps: int = Field(gt=0, description="of the model that the search trains")
    steps: int = Field(gt=0, description="at most, of the training")
    evaluate_every: int = Field(gt=0)
    goal_nats: float = Field(gt=0, description="loss a character on the test texts")


class TextBatches:
    """Endless batches of texts; part of the resume state."""

    def __init__(self, texts: Tensor, size: int, seed: int, device: torch.device) -> None:
        self._batches = Batches(texts, size=size, seed=seed)
        self._device, self._iterator = device, iter(self._batches)

    def next(self) -> Tensor:
        """(size, length) texts."""
        try:
            (texts,) = next(self._iterator)
        except StopIteration:
            self._iterator = iter(self._batches)
            (texts,) = next(self._iterator)
        return texts.to(self._device)  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, int]:
        """Position."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._batches.load_state_dict(state)
        self._iterator = iter(self._batches)


class Phase:
    """A model in training: of the search, or of what is reported. Part of the resume state.

    Args:
        settings: what to do.
        texts: what it reads.
        rows (m,): of the texts to train on, which ones; None: the held-out ones.
        rated: whether a rater weights its batches, which is learned from the held-out texts.
        steps: at most.
        seed: of weights and orders.
        device: where.
    """

    def __init__(
        self,
        settings: DataRater,
        texts: Texts,
        rows: Tensor | None,
        rated: bool,
        steps: int,
        seed: int,
        device: torch.device,
    ) -> None:
        torch.manual_seed(seed)
        self.model = CharacterModel(texts.vocabulary, settings.context, settings.width).to(device)
        self.rater = Rater(texts.vocabulary, settings.rater_width).to(device) if rated else None
        chosen = texts.held_out if rows is None else texts.train[rows]
        self._batches = TextBatches(chosen, settings.batch_size, seed, device)
        self._meta_batches = TextBatches(texts.held_out, settings.batch_size, seed + 1, device)
        self.bilevel = Bilevel(self.model, settings.optimizer, steps, self.rater, settings.meta)
        self.steps, self.tokens = steps, 0
        self._unroll = settings.meta.unroll_steps

    @property
    def done(self) -> bool:
        """Whether all steps were taken."""
        return self.bilevel.count >= self.steps

    def step(self) -> None:
        """One step of the model, and of the rater where it is due; counts characters read.

        A meta step reads the held-out batch once, and that of the base step twice more.
        """
        texts = self._batches.next()

        def cost() -> Tensor:
            losses = self.model.losses(texts)
            if self.rater is None:
                return losses.mean()
            return (batch_weights(self.rater(texts)) * losses).sum()

        def meta_cost() -> Tensor:
            held_out = self._meta_batches.next()
            self.tokens += held_out.numel() + 2 * texts.numel()
            return self.model.losses(held_out).mean()

        self.bilevel.step(cost, meta_cost)
        self.tokens += texts.numel()

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, positions, characters read."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return parts | {"tokens": self.tokens}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.tokens = state["tokens"]

    def _parts(self) -> dict[str, Any]:
        return {
            "bilevel": self.bilevel,
            "batches": self._batches,
            "meta_batches": self._meta_batches,
        }


class Study:
    """The search, if there is one, and the training; part of the resume state."""

    def __init__(self, settings: DataRater, texts: Texts, seed: int, device: torch.device) -> None:
        self._settings, self._texts = settings, texts
        self._seed, self._device = seed, device
        self.search_clock, self.train_clock = Clock(device), Clock(device)
        self.search_tokens, self.goal_after = 0, 0
        self.history: list[dict[str, float]] = []
        self.kept: Tensor | None = None
        if settings.choice in ("rated", "held_out_loss"):
            self._phase = self._search()
        else:
            self._choose(None)

    def _search(self) -> Phase:
        rated = self._settings.choice == "rated"
        rows = torch.arange(len(self._texts.train)) if rated else None
        seed = mixed(self._seed, 1)
        steps = self._settings.search_steps
        return Phase(self._settings, self._texts, rows, rated, steps, seed, self._device)

    def _train(self) -> Phase:
        assert self.kept is not None
        seed = mixed(self._seed, 2)
        steps = self._settings.steps
        return Phase(self._settings, self._texts, self.kept, False, steps, seed, self._device)

    @property
    def done(self) -> bool:
        """Whether the goal was reached, or the steps were taken."""
        return self.kept is not None and (self.goal_after > 0 or self._phase.done)

    def step(self) -> None:
        """One step, and what is due after it."""
        if self.kept is None:
            self._search_step()
            return
        with self.train_clock:
            self._phase.step()
        count = self._phase.bilevel.count
        if count % self._settings.evaluate_every == 0 or self._phase.done:
            loss = self._losses(self._phase.model, self._texts.test).mean().item()
            tokens = self._phase.tokens
            self.history.append({"tokens": float(tokens), "loss_nats": loss})
            if loss <= self._settings.goal_nats:
                self.goal_after = tokens

    def _search_step(self) -> None:
        with self.search_clock:
            self._phase.step()
            if not self._phase.done:
                return
            train = self._texts.train
            # Choosing reads every text once.
            self.search_tokens = self._phase.tokens + train.numel()
            rater = self._phase.rater
            if rater is None:
                scores = -self._losses(self._phase.model, train)
            else:
                with torch.no_grad():
                    parts = torch.split(train, AT_ONCE)
                    scores = torch.cat([rater(part.to(self._device)).cpu() for part in parts])
        self._choose(scores)

    def _choose(self, scores: Tensor | None) -> None:
        """Keep texts, and begin the training on them."""
        texts = self._texts
        if scores is not None:
            count = round(len(texts.train) * self._settings.keep_pct / 100)
            rows = scores.argsort(descending=True, stable=True)[:count]
        elif self._settings.choice == "oracle":
            rows = torch.nonzero(texts.kinds == CLEAN)[:, 0]
        else:
            rows = torch.arange(len(texts.train))
        self.kept = rows.sort().values
        self._phase = self._train()

    @torch.no_grad()
    def _losses(self, model: CharacterModel, texts: Tensor) -> Tensor:
        """(n,) nats a character."""
        parts = torch.split(texts, AT_ONCE)
        return torch.cat([model.losses(part.to(self._device)).cpu() for part in parts])

    def metrics(self) -> dict[str, float]:
        """Characters read (tokens), times (s), the last loss, and what was kept (%).

        Where the goal was not reached the training counts with all that it read.
        """
        assert self.kept is not None
        train_tokens = self.goal_after or self._phase.tokens
        clean = self._texts.kinds == CLEAN
        return {
            "train_tokens": float(train_tokens),
            "search_tokens": float(self.search_tokens),
            "total_tokens": float(train_tokens + self.search_tokens),
            "reached": float(self.goal_after > 0),
            "last_loss_nats": self.history[-1]["loss_nats"],
            "clean_among_kept_pct": 100 * float(clean[self.kept].float().mean()),
            "search_s": self.search_clock.seconds,
            "train_s": self.train_clock.seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything so far."""
        return {
            "kept": self.kept,
            "phase": self._phase.state_dict(),
            "history": self.history,
            "search_tokens": self.search_tokens,
            "goal_after": self.goal_after,
            "seconds": (self.search_clock.seconds, self.train_clock.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.kept = state["kept"]
        if self.kept is not None:
            self._phase = self._train()
        self._phase.load_state_dict(state["phase"])
        self.history = [dict(row) for row in state["history"]]
        self.search_tokens, self.goal_after = state["search_tokens"], state["goal_after"]
        self.search_clock.seconds, self.train_clock.seconds = state["seconds"]


def run_data_rater(settings: DataRater, run: Run) -> dict[str, float]:
    """Choose, train until the goal, and return what both read."""
    if settings.context >= settings.length:
        raise InputError(
            f"context {settings.context}: allowed: below {settings.length}, the length"
        )
    core = Core(settings.core, run)
    study = Study(settings, load_texts(settings, run), run.seed, core.device)
    core.track(study=study)
    core.restore()
    with run.progress(settings.steps, settings.choice, "step") as bar:
        while not study.done:
            study.step()
            core.completed_step()
            bar.update()
    core.finish()
    run.write_rows("history.csv", study.history)
    return study.metrics()


PROGRAM = Program(DataRater, run_data_rater)
