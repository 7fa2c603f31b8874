"""One optimisation problem of a multilevel program: its parameters, cost, data and optimiser.

Source: Choe et al. 2023, Sec. 3.2 and 3.3.
"""

from __future__ import annotations

import abc
import copy
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from common.errors import InputError
from papers.betty.configs import Config
from papers.betty.hypergradient.vectors import local
from papers.betty.problems.descent import Descent
from papers.betty.problems.loader_stream import LoaderStream
from papers.betty.problems.reads import leaves, warn_of_missing_edges

if TYPE_CHECKING:
    from papers.betty.engine import Engine
    from papers.betty.envs import Env

log = logging.getLogger("betty")


class Problem(Descent):
    """One optimisation problem. Subclasses define :meth:`training_step`.

    Inside it the other problems of the program are attributes of their names, and calling one,
    ``self.other(x)``, runs its ``forward``.

    Args:
        name: identifier of the problem in its program.
        config: how it is solved and differentiated.
        module, optimizer, scheduler: PyTorch's own objects, kept as they are; or define
            ``configure_module`` and so on.
        train_data_loader: any iterable of batches, or a tuple of several, whose batches then come
            as a tuple.
        extra_config: whatever the subclass wants as ``self.cfg``.

    Raises:
        InputError: the name is no identifier.
    """

    def __init__(
        self,
        name: str,
        config: Config | None = None,
        module: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        train_data_loader: Any = None,
        extra_config: Any = None,
    ) -> None:
        if not name.isidentifier():
            raise InputError(f"problem name {name!r}: must be a Python identifier")
        super().__init__(name, config or Config())
        self.cfg = extra_config
        self.module, self.optimizer, self.scheduler = module, optimizer, scheduler
        self.train_data_loader = train_data_loader
        self.env: Env | None = None
        self.engine: Engine | None = None
        #: Lower problems whose optimum enters this cost, upper ones that this optimum enters.
        self.children: list[Problem] = []
        self.parents: list[Problem] = []
        #: Edges l2u given by ``add_child`` and ``add_parent``.
        self.declared: list[tuple[Problem, Problem]] = []
        #: The graph's ``seeds`` and ``factors`` of this problem's hypergradient.
        self.seeds: list[Problem] = []
        self.factors: list[tuple[Problem, list[Problem]]] = []
        self.training = True
        self._loop_starts = True
        self._ready: dict[str, bool] = {}
        self._stream: LoaderStream | None = None
        self._cached: dict[str, Any] = {}
        self._listed: tuple[nn.Module, list[Tensor], list[nn.Module]] | None = None
        #: Running mean of this cost, the baseline of ``reinforce``.
        self.baseline: float | None = None

    # What a program defines.

    @abc.abstractmethod
    def training_step(self, batch: Any) -> Tensor | Mapping[str, Any]:
        """The cost on ``batch``: a scalar, or a mapping with ``loss`` and more to be logged."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output."""
        return self.module(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def configure_module(self) -> nn.Module:
        """The module, where it was not given to the constructor."""
        return self.module  # type: ignore[no-any-return]

    def configure_optimizer(self) -> Any:
        """The optimiser, where it was not given; it may use ``self.module``."""
        return self.optimizer

    def configure_scheduler(self) -> Any:
        """The schedule of the learning rate, where it was not given; it may use the optimiser."""
        return self.scheduler

    def configure_train_data_loader(self) -> Any:
        """The data, where it was not given."""
        return self.train_data_loader

    def on_inner_loop_start(self) -> None:
        """Called before the first step after the upper problems were stepped."""

    def starts_from(self) -> Problem | None:
        """The upper problem whose parameters every inner loop starts from (MAML); None: where the
        last loop ended.

        They are copied after :meth:`on_inner_loop_start`; buffers and the optimiser's state stay. A
        derivative through unrolled steps takes the start as a function of them; implicit ones
        forget where a loop started.
        """
        return None

    def epoch_callback(self) -> None:
        """Called when the (first) data loader is exhausted."""

    def param_groups(self) -> list[dict[str, Any]]:
        """Groups of parameters, as the optimiser has them."""
        return list(self.optimizer.param_groups) if self.optimizer else []

    def log_prob(self) -> Tensor:
        """Log-probability of this problem's sampled solution, for ``reinforce``."""
        raise InputError(f"problem {self.name!r}: type 'reinforce' needs a method log_prob")

    def parameters(self) -> list[Tensor]:
        """All parameters, listed once for each module that the problem is given."""
        if self._listed is None or self._listed[0] is not self.module:
            buffered = [part for part in self.module.modules() if part._buffers]
            self._listed = (self.module, list(self.module.parameters()), buffered)
        return list(self._listed[1])

    def modules_with_buffers(self) -> list[nn.Module]:
        """Parts of the module that hold buffers."""
        self.parameters()
        assert self._listed is not None
        return self._listed[2]

    def trainable_parameters(self) -> list[Tensor]:
        """Parameters that require a gradient."""
        return [p for p in self.parameters() if p.requires_grad]

    def meta_trainable_parameters(self) -> list[Tensor]:
        """Parameters by which upper problems see this one's optimum; override to take fewer."""
        return self.trainable_parameters()

    def look_at_reads(self, loss: Tensor) -> None:
        if self.first_time("reads"):
            warn_of_missing_edges(self, leaves(loss))

    def add_child(self, problem: Problem) -> None:
        """Let the optimum of ``problem`` enter this cost: the edge l2u from there to here.

        For programs of the published package; an engine takes it beside its ``dependencies``.

        Raises:
            InputError: it is there already, or an engine has its edges already.
        """
        self._declare(problem, self)

    def add_parent(self, problem: Problem) -> None:
        """Let this optimum enter the cost of ``problem``, as :meth:`add_child` there would."""
        self._declare(self, problem)

    def _declare(self, lower: Problem, upper: Problem) -> None:
        if self.engine is not None:
            raise InputError(
                f"problem {self.name!r}: its engine has the program's edges; allowed:"
                " engine.set_dependency, or before the engine is made"
            )
        mine, other = (upper.children, lower) if upper is self else (lower.parents, upper)
        if any(other is there for there in mine):
            raise InputError(f"problem {self.name!r}: {other.name!r} was added already")
        mine.append(other)
        self.declared.append((lower, upper))

    # What the engine calls.

    def initialize(self, engine: Engine) -> None:
        """Build module, optimiser, schedule and data; called by the engine.

        Raises:
            InputError: the module has no trainable parameters, the optimiser holds others, or
                there is no data loader and ``get_batch`` is not overridden.
        """
        self.engine, self.device = engine, engine.device
        self._asked = set()
        graph = engine.graph
        self.children = engine.named(graph.below(self.name))
        self.parents = engine.named(graph.l2u[self.name])
        self.seeds = engine.named(graph.seeds(self.name))
        self.factors = [
            (engine.problem(factor.problem), engine.named(factor.by))
            for factor in graph.factors(self.name)
        ]
        self.module = self.configure_module() if self.module is None else self.module
        if not isinstance(self.module, nn.Module):
            raise InputError(f"problem {self.name!r}: module is {self.module!r}; needs a Module")
        self.module.to(self.device)
        if not self.trainable_parameters():
            raise InputError(f"problem {self.name!r}: its module has no trainable parameters")
        self.optimizer = self.configure_optimizer() if self.optimizer is None else self.optimizer
        self._check_optimizer()
        self.scheduler = self.configure_scheduler() if self.scheduler is None else self.scheduler
        self._check_scheduler()
        loaders = self.configure_train_data_loader()
        if loaders is None and type(self).get_batch is Problem.get_batch:
            raise InputError(f"problem {self.name!r}: no train_data_loader, and no get_batch")
        loaders = loaders if isinstance(loaders, tuple) else (loaders,)
        shared = [engine.distribution.share(loader, self.name) for loader in loaders]
        self._stream = LoaderStream(self.name, shared, self.device, self.epoch_callback)
        self.train_data_loader = self._stream.loaders
        if self.config.precision == "fp16":
            if self.device.type == "cpu":
                raise InputError(
                    f"problem {self.name!r}: precision fp16 needs a GPU; bf16 does not"
                )
            self.scaler = GradScaler(
                self.device.type,
                init_scale=self.config.initial_dynamic_scale,
                growth_factor=self.config.scale_factor,
            )
        self._ready = dict.fromkeys(graph.below(self.name), False)

    def _check_optimizer(self) -> None:
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            custom = type(self).custom_optimizer_step is not Problem.custom_optimizer_step
            if self.optimizer is None and custom:
                return
            raise InputError(
                f"problem {self.name!r}: optimizer is {self.optimizer!r}; needs a torch optimiser"
                " or a custom_optimizer_step"
            )
        own = {id(p) for p in self.parameters()}
        groups = self.optimizer.param_groups
        foreign = sum(id(p) not in own for group in groups for p in group["params"])
        if foreign:
            raise InputError(
                f"problem {self.name!r}: its optimizer holds {foreign} parameters that are not its"
                " module's; it may hold only those"
            )
        wanted = needed(type(self.optimizer).step)
        if wanted and type(self).custom_optimizer_step is Problem.custom_optimizer_step:
            raise InputError(
                f"problem {self.name!r}: optimizer {type(self.optimizer).__name__} needs"
                f" {wanted[0]!r} for a step, as it evaluates the cost several times; allowed: one"
                " whose step() needs nothing (SGD, Adam, ...), or a custom_optimizer_step"
            )

    def _check_scheduler(self) -> None:
        if self.scheduler is None:
            return
        kind = type(self.scheduler)
        wanted = needed(kind.step)
        if wanted:
            raise InputError(
                f"problem {self.name!r}: scheduler {kind.__name__} needs {wanted[0]!r} for a step;"
                " allowed: one whose step() needs nothing (StepLR, LambdaLR, ...); step another in"
                " Engine.validation"
            )

    def step(self, global_step: int | None = None) -> None:
        """One step, and the steps of upper problems for which this was the last one to wait for."""
        self._step(global_step)
        if self.engine is not None and self.engine.config.roll_back and self._loop_starts:
            self._step_again()

    def _step(self, global_step: int | None) -> None:
        if not all(self._ready.values()):
            return
        if self._loop_starts:
            self._begin_loop()
        assert self.engine is not None
        # Also in the first loop, which warm-up makes longer: only its last steps are taken back.
        if self.engine.config.roll_back and self.parents and self._count % self._loop_steps == 0:
            self.cache_states()
        if self.training:
            self._count += 1
        stats = self.one_step_descent()
        every = self.config.log_step
        if every > 0 and self._count % every == 0:
            at = self._count if self.config.log_local_step else global_step or 0
            self.engine.logger.log(stats, tag=self.name, step=at)
        if self._loop_ends():
            for parent in self.parents:
                parent._ready[self.name] = True
                parent._step(global_step)
            self._end_loop()
        self._ready = dict.fromkeys(self._ready, False)

    def _begin_loop(self) -> None:
        self._loop_starts = False
        self.on_inner_loop_start()
        source = self.starts_from()
        if source is not None:
            self._copy_parameters(source)

    def _copy_parameters(self, source: Problem) -> None:
        own, given = self.trainable_parameters(), source.trainable_parameters()
        shapes = [[tuple(p.shape) for p in params] for params in (own, given)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"problem {self.name!r}: cannot start from {source.name!r}: its parameters have"
                f" shapes {shapes[0]}, those of {source.name!r} {shapes[1]}"
            )
        with torch.no_grad():
            torch._foreach_copy_(local(own), local(given))

    @property
    def _loop_steps(self) -> int:
        """Own steps of a loop, micro-batches counted."""
        return self.config.unroll_steps * self.config.gradient_accumulation

    def _loop_ends(self) -> bool:
        enough = self._count > self.config.warmup_steps
        return self.training and self._count % self._loop_steps == 0 and enough

    def _end_loop(self) -> None:
        self._loop_starts = True

    def _step_again(self) -> None:
        """With roll-back: the last step once more, from the loop's start, with new uppers."""
        if not self.parents or not self._cached:
            return
        self.recover_states()
        batches = [recorded.batch for recorded in self._replay.micro_batches]
        self._count -= len(batches)
        for batch in batches:
            self._count += 1
            self.one_step_descent(batch)
        for parent in self.parents:
            parent._step_again()

    def get_batch(self) -> Any:
        """The next batch, on the device; a tuple of one from each loader if there are several."""
        return self._batches.next()

    @property
    def _batches(self) -> LoaderStream:
        assert self._stream is not None, "the engine initialises a problem"
        return self._stream

    # States.

    def cache_states(self) -> None:
        """Keep module, optimiser and schedule, for roll-back."""
        parts = self._stateful().items()
        self._cached = {name: copy.deepcopy(part.state_dict()) for name, part in parts}

    def recover_states(self) -> None:
        """Put everything back to what :meth:`cache_states` kept."""
        for name, part in self._stateful().items():
            part.load_state_dict(self._cached[name])

    def state_dict(self) -> dict[str, Any]:
        """Module, optimiser, schedule, loss scaler, counters, and where it is in its data.

        A loader with a ``state_dict`` gives its own; of any other the position in its epoch is
        kept. Tensors are the program's own, as in torch: copy what shall stay while it goes on.

        Raises:
            InputError: it is inside its inner loop, whose record and gradients no state holds, or
                the position cannot be kept.
        """
        assert self.engine is not None
        self.refuse_within_loop()
        distribution = self.engine.distribution
        if not self._batches.started and self._count and self._draws_batches_itself():
            self.warn_once(
                "its get_batch is its own: where that is in its data is not in the state unless"
                " the problem's state_dict or the env's holds it"
            )
        parts = self._stateful() | self._batches.with_state()
        counters = {"count": self._count, "baseline": self.baseline, "last_loss": self.last_loss}
        states = {name: distribution.state_of(part, self) for name, part in parts.items()}
        data = distribution.of_all(self._batches.state_dict())
        return states | counters | {"data": data, "replay": self._replay.state_dict()}

    def refuse_within_loop(self) -> None:
        """Raise InputError where no state can be taken."""
        waiting = [name for name, ready in self._ready.items() if ready]
        if self.between_loops:
            return
        why = "is inside its inner loop"
        if waiting:
            still = ", ".join(name for name in self._ready if name not in waiting)
            why = f"has yet to read the loop of {', '.join(waiting)} and waits for {still}"
        raise InputError(
            f"problem {self.name!r}: {why} (its step {self._count}), which no state holds;"
            " allowed: a state where engine.between_loops is true"
        )

    def _draws_batches_itself(self) -> bool:
        own = type(self)
        overridden = own.get_batch is not Problem.get_batch
        return overridden and own.state_dict is Problem.state_dict and not keeps_state(self.env)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`, in a program put together as the one that was saved.

        Raises:
            InputError: a part is missing, or its data are not where or what they were.
        """
        assert self.engine is not None
        distribution = self.engine.distribution
        parts = self._stateful() | self._batches.with_state()
        for name in (*parts, "count", "baseline", "last_loss", "data", "replay"):
            if name not in state:
                raise InputError(f"problem {self.name!r}: its state has no {name!r}")
        for name, part in parts.items():
            # Optimisers keep the tensors that they are given, and would step those of the state.
            distribution.set_state_of(part, copy.deepcopy(state[name]), self)
        self._count, self.baseline = int(state["count"]), state["baseline"]
        self.last_loss = float(state["last_loss"])
        self._batches.load_state_dict(distribution.own_of(state["data"], self.name))
        self._replay.load_state_dict(state["replay"])
        self._loop_starts, self._ready = True, dict.fromkeys(self._ready, False)
        self.zero_grad()

    def _stateful(self) -> dict[str, Any]:
        parts = {
            "module": self.module,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def steps_any(self, params: Sequence[Tensor]) -> bool:
        """Whether its optimiser, or its own ``custom_optimizer_step``, may change one of these."""
        if not isinstance(self.optimizer, torch.optim.Optimizer):
            return bool(params)
        own = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        return any(id(p) in own for p in params)

    def set_module(self, module: nn.Module) -> None:
        """Take another module; give it an optimiser too."""
        self.module = module.to(self.device)
        if self.engine is not None:
            self.engine.distribution.broadcast([*self.parameters(), *module.buffers()])

    def set_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Take another optimiser."""
        self.optimizer = optimizer
        self._check_optimizer()
        if self.engine is not None:
            self.engine.refuse_shared_parameters()

    def set_scheduler(self, scheduler: Any) -> None:
        """Take another schedule."""
        self.scheduler = scheduler
        self._check_scheduler()

    def set_train_data_loader(self, loader: Iterable[Any], idx: int = 0) -> None:
        """Take another data loader."""
        assert self.engine is not None
        self._batches.replace(idx, self.engine.distribution.share(loader, self.name))
        self.train_data_loader = self._batches.loaders

    def train(self) -> None:
        """Training mode."""
        self.training = True
        self.module.train()

    def eval(self) -> None:
        """Evaluation mode."""
        self.training = False
        self.module.eval()

    # What it is.

    @property
    def count(self) -> int:
        """Own training steps so far, micro-batches counted."""
        return self._count

    @property
    def paths(self) -> list[list[Problem]]:
        """Paths of the hypergradient, as :meth:`DataflowGraph.paths` gives them."""
        assert self.engine is not None
        return [self.engine.named(path) for path in self.engine.graph.paths(self.name)]

    @property
    def between_loops(self) -> bool:
        """Whether its inner loop is over, and no loop of a lower problem waits for another's."""
        return self._loop_starts and not any(self._ready.values())

    @property
    def loop_starts(self) -> bool:
        """Whether its next step is the first of an inner loop, or none was taken yet."""
        return self._loop_starts

    @property
    def leaf(self) -> bool:
        """Whether it waits for no other problem."""
        return not self._ready

    def is_rank_zero(self) -> bool:
        """Whether this process logs and validates."""
        return self.engine is None or self.engine.is_rank_zero()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def keeps_state(part: Any) -> bool:
    """Whether a part of a program has a state of its own."""
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def needed(method: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a method must be given, beside the object itself."""
    _, *others = inspect.signature(method).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    empty = inspect.Parameter.empty
    return [each.name for each in others if each.default is empty and each.kind not in kinds]
