"""The engine: builds the program from problems and dependencies, and runs it.

Source: Choe et al. 2023, Sec. 3.2 and 3.3.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from common.errors import InputError
from common.random_state import global_states, set_global_states
from papers.betty.configs import EngineConfig
from papers.betty.distribution import make_distribution
from papers.betty.graph import DataflowGraph
from papers.betty.loggers import make_logger
from papers.betty.problems.problem import Problem, keeps_state

if TYPE_CHECKING:
    from papers.betty.early_stopping import EarlyStopping
    from papers.betty.envs import Env

log = logging.getLogger("betty")
Dependencies = Mapping[str, Mapping[Any, Iterable[Any]]]


class Engine:
    """A multilevel program.

    Args:
        problems: in any order; each becomes an attribute of its name of the engine and of the
            other problems.
        config: how to run.
        dependencies: ``{"u2l": {upper: [lower, ...]}, "l2u": {lower: [upper, ...]}}`` with
            problems or their names; absent for a single problem. Edges l2u of
            :meth:`Problem.add_child` and ``add_parent`` come beside.
        env: shared object.

    Attributes:
        graph: the dataflow graph; ``print(engine.graph)``, ``engine.graph.mermaid()``.
        global_step: engine iterations so far.

    Raises:
        InputError: the graph is not allowed (see :class:`DataflowGraph`), or a problem is not
            complete.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        config: EngineConfig | None = None,
        dependencies: Dependencies | None = None,
        env: Env | None = None,
    ) -> None:
        self.config = config or EngineConfig()
        self.problems = list(problems)
        self._by_name = {problem.name: problem for problem in self.problems}
        self.env = env
        self.global_step = 0
        declared = [edge for problem in self.problems for edge in problem.declared]
        self.graph = self._graph(dependencies or {}, declared)
        self.distribution = make_distribution(self.config)
        self.logger = make_logger(self.config.logger_type, self.is_rank_zero())
        self.early_stopping: EarlyStopping | None = None
        if self.config.early_stopping:
            from papers.betty.early_stopping import EarlyStopping  # seldom used

            self.early_stopping = EarlyStopping.from_config(self.config)
        self._introduce()
        if env is not None:
            env.device = self.device
            env.initialize()
            if env.train_data_loader is not None:
                env.train_data_loader = self.distribution.share(env.train_data_loader, "env")
        for problem in self.problems:
            problem.initialize(self)
        self.refuse_shared_parameters()
        for problem in self.problems:
            self.distribution.take(problem)
            problem.watch_optimizer()

    def _graph(
        self, dependencies: Dependencies, declared: Iterable[tuple[Problem, Problem]] = ()
    ) -> DataflowGraph:
        unknown = sorted(set(dependencies) - {"u2l", "l2u"})
        if unknown:
            raise InputError(f"dependencies: unknown key {unknown[0]!r}; allowed: u2l, l2u")

        def name(problem: Any) -> str:
            return problem.name if isinstance(problem, Problem) else str(problem)

        edges = [
            {
                name(key): [name(end) for end in ends]
                for key, ends in dependencies.get(kind, {}).items()
            }
            for kind in ("u2l", "l2u")
        ]
        for lower, upper in declared:
            edges[1].setdefault(lower.name, []).append(upper.name)
        return DataflowGraph([problem.name for problem in self.problems], *edges)

    def _introduce(self) -> None:
        """Make each problem an attribute of its name of the engine, the env and the others."""
        for problem in self.problems:
            others: list[Any] = [other for other in self.problems if other is not problem]
            for other in [self, *others, *([self.env] if self.env else [])]:
                if hasattr(other, problem.name):
                    raise InputError(
                        f"problem name {problem.name!r}: would hide an attribute of"
                        f" {type(other).__name__}; choose another"
                    )
                setattr(other, problem.name, problem)
            problem.env = self.env

    def refuse_shared_parameters(self) -> None:
        """Each trainable parameter is stepped by one problem.

        Raises:
            InputError: two have it in their optimizers, or one that has would accumulate its
                gradient with that of another whose module has it too.
        """
        for number, one in enumerate(self.problems):
            for other in self.problems[:number]:
                theirs = {id(param) for param in other.trainable_parameters()}
                shared = [param for param in one.trainable_parameters() if id(param) in theirs]
                steppers = [each for each in (other, one) if each.steps_any(shared)]
                collect = any(each.config.gradient_accumulation > 1 for each in (other, one))
                if shared and (len(steppers) > 1 or collect):
                    raise InputError(
                        f"problems {other.name!r} and {one.name!r} share {len(shared)} trainable"
                        f" parameters, the first of shape {tuple(shared[0].shape)}: both would"
                        " change them or their gradients; allowed: a copy (copy.deepcopy), a call"
                        " of the other problem, or requires_grad_(False)"
                    )

    def problem(self, name: str) -> Problem:
        """The problem of a name."""
        return self._by_name[name]

    def named(self, names: Iterable[str]) -> list[Problem]:
        """The problems of several names."""
        return [self._by_name[name] for name in names]

    @property
    def device(self) -> torch.device:
        """Where the program computes."""
        return self.distribution.device

    @property
    def leaves(self) -> list[Problem]:
        """Problems that the engine steps; they step the others."""
        return self.named(self.graph.leaves)

    @property
    def between_loops(self) -> bool:
        """Whether no problem is inside its inner loop, so that a state can be taken."""
        return all(problem.between_loops for problem in self.problems)

    def set_dependency(self, dependencies: Dependencies) -> None:
        """Take other dependencies between the same problems, also while running."""
        self.graph = self._graph(dependencies)
        for problem in self.problems:
            problem.initialize(self)
        for problem in self.problems:
            problem.watch_optimizer()

    def train_step(self) -> None:
        """One step of every leaf."""
        for leaf in self.leaves:
            leaf.step(global_step=self.global_step)

    def validation(self) -> Mapping[str, Any] | None:
        """Numbers to log every ``valid_step`` iterations; override it.

        Without it the problems' losses that were looked at last are logged, and once at the end.
        """
        return None

    def run(self, after_iteration: Callable[[], None] | None = None) -> Mapping[str, Any] | None:
        """Run to ``train_iters`` iterations; returns what the last validation gave (in the first
        process).

        ``after_iteration`` is called after each, e.g. to save a resume state.
        """
        self.train()
        stats: Mapping[str, Any] | None = None
        every, validates = self.config.valid_step, self._has_validation()
        if validates and every > self.config.train_iters and self.is_rank_zero():
            log.warning(
                "validation() is never called: valid_step %d is above train_iters %d",
                every,
                self.config.train_iters,
            )
        with tqdm(
            total=self.config.train_iters,
            initial=self.global_step,
            desc="betty",
            leave=False,
            disable=None if self.is_rank_zero() else True,
        ) as bar:
            while self.global_step < self.config.train_iters:
                self.global_step += 1
                self.train_step()
                bar.update()
                if self.global_step % self.config.valid_step == 0:
                    stats = self._validate()
                    if self._stops_early(stats):
                        log.info("early stop at iteration %d", self.global_step)
                        break
                if after_iteration:
                    after_iteration()
        if not validates and self.global_step % every:
            self._log_losses()
        return stats

    def _stops_early(self, stats: Mapping[str, Any] | None) -> bool:
        if self.early_stopping is None:
            return False
        # Only the first process has the numbers; all must stop with it.
        stop = self.is_rank_zero() and self.early_stopping(stats or {})
        return self.distribution.first_says(stop)

    def _validate(self) -> Mapping[str, Any] | None:
        if not self._has_validation():
            self._log_losses()
            return None
        if not self.distribution.validates:
            return None
        self.eval()
        stats = self.validation() or {}
        self.logger.log(stats, tag="validation", step=self.global_step)
        self.train()
        return stats

    def _has_validation(self) -> bool:
        return type(self).validation is not Engine.validation

    def _log_losses(self) -> None:
        losses = {problem.name: problem.last_loss for problem in self.problems if problem.count}
        self.logger.log(losses, tag="losses", step=self.global_step)

    def train(self) -> None:
        """Training mode for every problem."""
        for problem in self.problems:
            problem.train()

    def eval(self) -> None:
        """Evaluation mode for every problem."""
        for problem in self.problems:
            problem.eval()

    def is_rank_zero(self) -> bool:
        """Whether this process logs."""
        return self.distribution.rank == 0

    def state_dict(self) -> dict[str, Any]:
        """All that a program put together alike needs to go on as this one would, bit for bit.

        State of every problem with its data's position, the iteration, early stopping, the env's
        if it has one, and the generators of Python, NumPy and torch. Every process must call it.

        Raises:
            InputError: a problem is inside its inner loop (see :attr:`between_loops`), or what
                cannot be kept would be missing: positions of worker processes, an env's data.
        """
        for problem in self.problems:
            problem.refuse_within_loop()
        parts = self._parts_with_state()
        if "env" not in parts and self.env is not None and self.env.train_data_loader is not None:
            raise InputError(
                "env: where its train_data_loader is, no state holds; allowed: an Env with"
                " state_dict and load_state_dict"
            )
        states = {problem.name: problem.state_dict() for problem in self.problems}
        return {
            "problems": states,
            "global_step": self.global_step,
            "random": self.distribution.gather(global_states(self.device)),
            **{name: part.state_dict() for name, part in parts.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; the global generators go on from there, too.

        Raises:
            InputError: a part is missing, or the state does not fit this program.
        """
        parts = self._parts_with_state()
        for name in ("global_step", "random", *parts):
            if name not in state:
                raise InputError(f"the state has no {name!r}")
        for problem in self.problems:
            if problem.name not in state["problems"]:
                raise InputError(f"the state has no problem {problem.name!r}")
            problem.load_state_dict(state["problems"][problem.name])
        for name, part in parts.items():
            part.load_state_dict(state[name])
        self.global_step = int(state["global_step"])
        set_global_states(self.distribution.pick_own(state["random"], "random"), self.device)

    def _parts_with_state(self) -> dict[str, Any]:
        """Parts with a state, beside problems."""
        parts = {"env": self.env, "early_stopping": self.early_stopping}
        return {name: part for name, part in parts.items() if keeps_state(part)}
