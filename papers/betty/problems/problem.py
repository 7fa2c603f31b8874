"""One optimisation problem of a multilevel program: its parameters, cost, data and optimiser.

Source: Choe et al. 2023, Sec. 3.2 and 3.3.
"""

from __future__ import annotations

import abc
import copy
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from common.errors import InputError
from papers.betty.configs import Config, EngineConfig
from papers.betty.distribution import DataParallel
from papers.betty.graph import DataflowGraph
from papers.betty.hypergradient import hypergradient
from papers.betty.hypergradient.differentiable import Differentiable
from papers.betty.hypergradient.vectors import local
from papers.betty.loggers import Logger
from papers.betty.problems.checks import check_optimizer, check_scheduler
from papers.betty.problems.inner_loop import InnerLoop
from papers.betty.problems.loader_stream import LoaderStream
from papers.betty.problems.precision import autocast, make_scaler, resolution
from papers.betty.problems.reads import leaves, missing_edges
from papers.betty.problems.replay import MicroBatch, Replay

if TYPE_CHECKING:  # loaded by programs that use ``sama``
    from papers.betty.hypergradient.adaptation import Adaptation

log = logging.getLogger("betty")
#: On a GPU the loss is looked at this seldom, because looking waits for the device.
STEPS_BETWEEN_LOSS_LOOKS = 50


class Program(Protocol):
    """What a problem asks of the program that it is in; :class:`papers.betty.Engine` offers it."""

    config: EngineConfig
    problems: list[Problem]
    graph: DataflowGraph
    distribution: DataParallel
    logger: Logger

    @property
    def device(self) -> torch.device:
        """Where the program computes."""

    def problem(self, name: str) -> Problem:
        """The problem of a name."""

    def named(self, names: Iterable[str]) -> list[Problem]:
        """The problems of several names."""

    def is_rank_zero(self) -> bool:
        """Whether this process logs."""

    def refuse_shared_parameters(self) -> None:
        """Each trainable parameter is stepped by one problem."""


class Problem(abc.ABC):
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
        self._name, self._config = name, config or Config()
        self.cfg = extra_config
        self.module: Any = module
        self.optimizer: Any = optimizer
        self.scheduler: Any = scheduler
        self.train_data_loader = train_data_loader
        self.env: Any = None
        self.engine: Program | None = None
        self.device = torch.device("cpu")
        self.scaler: GradScaler | None = None
        self.cur_batch: Any = None
        self.last_loss = float("nan")
        #: Lower problems whose optimum enters this cost, upper ones that this optimum enters.
        self.children: list[Problem] = []
        self.parents: list[Problem] = []
        #: Edges l2u given by ``add_child`` and ``add_parent``.
        self.declared: list[tuple[Problem, Problem]] = []
        #: The graph's ``seeds`` and ``factors`` of this problem's hypergradient.
        self.seeds: list[Problem] = []
        self.factors: list[tuple[Problem, list[Problem]]] = []
        self.training = True
        #: Whether an upper problem differentiates through this one's steps.
        self.unrolls = False
        self._loop = InnerLoop(self._config)
        self._replay = Replay()
        #: Watches the optimiser where ``sama`` asks for the derivative of its last step.
        self.adaptation: Adaptation | None = None
        self._asked: set[str] = set()
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

    def on_inner_loop_start(self) -> None:  # noqa: B027  (optional)
        """Called before the first step after the upper problems were stepped."""

    def starts_from(self) -> Problem | None:
        """The upper problem whose parameters every inner loop starts from (MAML); None: where the
        last loop ended.

        They are copied after :meth:`on_inner_loop_start`; buffers and the optimiser's state stay. A
        derivative through unrolled steps takes the start as a function of them; implicit ones
        forget where a loop started.
        """
        return None

    def epoch_callback(self) -> None:  # noqa: B027  (optional)
        """Called when the (first) data loader is exhausted."""

    def grad_callback(self) -> None:  # noqa: B027  (optional)
        """Called when gradients have been accumulated, before the optimiser's step."""

    def param_callback(self) -> None:  # noqa: B027  (optional)
        """Called after the optimiser's step, e.g. to project parameters."""

    def custom_optimizer_step(self) -> None:
        """The update itself; override for another than the optimiser's."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()

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

    def relist_parameters(self) -> None:
        """Take note that its module has other parameters."""
        self._listed = None

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

    def initialize(self, engine: Program) -> None:
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
        check_scheduler(self.name, self.scheduler)
        loaders = self.configure_train_data_loader()
        if loaders is None and type(self).get_batch is Problem.get_batch:
            raise InputError(f"problem {self.name!r}: no train_data_loader, and no get_batch")
        loaders = loaders if isinstance(loaders, tuple) else (loaders,)
        shared = [engine.distribution.share(loader, self.name) for loader in loaders]
        self._stream = LoaderStream(self.name, shared, self.device, self.epoch_callback)
        self.train_data_loader = self._stream.loaders
        self.scaler = make_scaler(self.name, self.config, self.device)
        self._loop.wait_for(graph.below(self.name))

    def watch_optimizer(self) -> None:
        """Make the adaptation, if an upper problem differentiates this one's optimum by ``sama``.

        Raises:
            InputError: there is no torch optimiser, or it has no rule, or does not step a weight
                that upper problems see.
        """
        if self.adaptation is not None:
            self.adaptation.close()
            self.adaptation = None
        if "sama" not in self.jacobian_types:
            return
        # No other method needs it.
        from papers.betty.hypergradient.adaptation import Adaptation

        if self.optimizer is None:
            raise InputError(
                f"problem {self.name!r}: type 'sama' differentiates the optimizer's step, and it"
                " has none; allowed: a torch optimiser, or another type"
            )
        try:
            self.adaptation = Adaptation(
                self.optimizer,
                self.meta_trainable_parameters(),
                self.distribution.sharing_optimizers,
            )
        except InputError as error:
            raise InputError(f"problem {self.name!r}, type 'sama': {error}") from None

    def _check_optimizer(self) -> None:
        custom = type(self).custom_optimizer_step is not Problem.custom_optimizer_step
        check_optimizer(self.name, self.optimizer, self.parameters(), custom)

    def step(self, global_step: int | None = None) -> None:
        """One step, and the steps of upper problems for which this was the last one to wait for."""
        self._step(global_step)
        if self.engine is not None and self.engine.config.roll_back and self._loop.starts:
            self._step_again()

    def _step(self, global_step: int | None) -> None:
        if self._loop.waits:
            return
        if self._loop.starts:
            self._begin_loop()
        assert self.engine is not None
        # Also in the first loop, which warm-up makes longer: only its last steps are taken back.
        if self.engine.config.roll_back and self.parents and self._loop.fills:
            self.cache_states()
        if self.training:
            self._loop.count += 1
        stats = self.one_step_descent()
        every = self.config.log_step
        if every > 0 and self._loop.count % every == 0:
            at = self._loop.count if self.config.log_local_step else global_step or 0
            self.engine.logger.log(stats, tag=self.name, step=at)
        if self.training and self._loop.ends:
            for parent in self.parents:
                parent._loop.ready[self.name] = True
                parent._step(global_step)
            self._end_loop()
        self._loop.wait_for(self._loop.ready)

    def _begin_loop(self) -> None:
        self._loop.starts = False
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

    def _end_loop(self) -> None:
        self._loop.starts = True

    def _step_again(self) -> None:
        """Take the last step once more, from the loop's start, with new uppers (roll-back)."""
        if not self.parents or not self._cached:
            return
        self.recover_states()
        batches = [recorded.batch for recorded in self._replay.micro_batches]
        self._loop.count -= len(batches)
        for batch in batches:
            self._loop.count += 1
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

    # A step on one batch.

    def one_step_descent(self, batch: Any = None) -> dict[str, Any]:
        """Gradient of one batch and, where accumulation is complete, the optimiser's step.

        Returns what :meth:`training_step` gave, with the loss as a number.
        """
        self.cur_batch = self.get_batch() if batch is None else batch
        with self._recorded() if self.parents else nullcontext():
            loss, stats = self.get_loss(self.cur_batch)
        self.look_at_reads(loss)
        self.backward(loss)
        self.grad_callback()
        if self._loop.count % self.config.gradient_accumulation == 0:
            self.optimizer_step()
            self.param_callback()
            self.zero_grad()
        return stats

    def _recorded(self) -> AbstractContextManager[None]:
        """Context in which what the cost on this batch is computed from is kept for replays."""
        first = (self._loop.count - 1) % self.config.gradient_accumulation == 0
        return self._replay.recorded(self.cur_batch, self.device, first)

    def look_at_reads(self, loss: Tensor) -> None:
        """Once: compare what the cost reads with the program's edges."""
        if self.first_time("reads"):
            assert self.engine is not None
            params = {problem.name: problem.parameters() for problem in self.engine.problems}
            for warning in missing_edges(self.engine.graph, self.name, leaves(loss), params):
                self.warn_once(warning)

    def get_loss(self, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        """(loss over accumulation steps, scaled for fp16; everything to be logged).

        Raises:
            FloatingPointError: the loss is NaN or infinite.
            InputError: it is not a scalar.
        """
        given = self.training_step_exec(batch)
        stats = dict(given) if isinstance(given, Mapping) else {"loss": given}
        loss = stats.get("loss")
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shown = tuple(loss.shape) if isinstance(loss, Tensor) else loss
            raise InputError(f"problem {self.name!r}: training_step gave {shown}; needs a scalar")
        loss = _scalar(loss)
        if self.device.type == "cpu" or self._loop.count % STEPS_BETWEEN_LOSS_LOOKS == 0:
            self.last_loss = loss.item()
            if not math.isfinite(self.last_loss):
                at = f"at its step {self._loop.count}"
                raise FloatingPointError(f"problem {self.name!r}: loss is {self.last_loss} {at}")
        stats["loss"] = loss.detach()
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        batches = self.config.gradient_accumulation
        return loss if batches == 1 else loss / batches, stats

    def training_step_exec(self, batch: Any) -> Tensor | Mapping[str, Any]:
        """:meth:`training_step` in this problem's precision."""
        with autocast(self.device, self.config.precision):
            return self.training_step(batch)

    @property
    def resolution(self) -> float:
        """Relative distance of neighbouring numbers in the forward pass."""
        return resolution(self.config.precision, self.trainable_parameters()[0].dtype)

    def backward(self, loss: Tensor) -> None:
        """Add direct gradient and hypergradients of ``loss`` to ``.grad``. Eq. 1 and 2."""
        params = self.trainable_parameters()
        grads = hypergradient(self, loss, params)
        self.warn_of_no_gradient(grads)
        for param, grad in zip(params, grads, strict=True):
            if grad is not None:
                param.grad = grad if param.grad is None else param.grad + grad

    def optimizer_step(self) -> None:
        """Synchronise, clip, step; the schedule follows the optimiser, not the micro-batches."""
        self.distribution.average_grads(self.trainable_parameters())
        if self.scaler is not None and self.optimizer is not None:
            self.scaler.unscale_(self.optimizer)
        if self.config.gradient_clipping > 0:
            if self.adaptation is None:
                params = self.trainable_parameters()
                torch.nn.utils.clip_grad_norm_(params, self.config.gradient_clipping)
            else:  # clipping is a link of the chain that it differentiates
                self.adaptation.clip_grad_norm_(self.config.gradient_clipping)
        with self.distribution.updating(self.optimizer):
            self.custom_optimizer_step()
        if self.scheduler is not None:
            self.scheduler.step()

    def zero_grad(self) -> None:
        """Forget gradients."""
        for param in self.parameters():
            param.grad = None

    @property
    def micro_batches(self) -> list[MicroBatch]:
        """Batches of the last optimiser step; its cost is the sum of their replayed losses."""
        return self._replay.micro_batches

    def replayed_loss(self, batch: MicroBatch, sign: int = 1) -> Tensor:
        """The share of a micro-batch in the last step's cost again, or minus that.

        With the same random numbers, and buffers left as they were: two passes of a finite
        difference would otherwise differ by their dropout masks, and batch normalisation would
        count the batch again.
        """
        with self._replay.again(batch, self.device, self.modules_with_buffers()):
            given = self.training_step_exec(batch.batch)
        loss = _scalar(given["loss"] if isinstance(given, Mapping) else given)
        parts = sign * len(self.micro_batches)
        return loss if parts == 1 else loss / parts

    def held(self, name: str, value: Tensor) -> Tensor:
        """``value`` as it was in the step itself, also in replays at perturbed parameters.

        For what enters the cost as a constant though it is computed from the parameters: a weight
        network that reads ``loss.detach()`` would read another loss at the perturbed parameters,
        and a finite difference would count that change as a gradient.
        """
        return self._replay.held(name, value.detach())

    def jacobian_type(self, upper: Differentiable) -> str:
        """The method by which ``upper`` differentiates this problem's optimum."""
        return self.config.type

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
        self.refuse_within_loop()
        if not self._batches.started and self._loop.count and self._draws_batches_itself():
            self.warn_once(
                "its get_batch is its own: where that is in its data is not in the state unless"
                " the problem's state_dict or the env's holds it"
            )
        parts = self._stateful() | self._batches.with_state()
        counters = {
            "count": self._loop.count,
            "baseline": self.baseline,
            "last_loss": self.last_loss,
        }
        states = {name: self.distribution.get_state(part, self) for name, part in parts.items()}
        data = self.distribution.gather(self._batches.state_dict())
        return states | counters | {"data": data, "replay": self._replay.state_dict()}

    def refuse_within_loop(self) -> None:
        """Raise InputError where no state can be taken."""
        self._loop.refuse_within(self.name)

    def _draws_batches_itself(self) -> bool:
        own = type(self)
        overridden = own.get_batch is not Problem.get_batch
        return overridden and own.state_dict is Problem.state_dict and not keeps_state(self.env)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`, in a program put together as the one that was saved.

        Raises:
            InputError: a part is missing, or its data are not where or what they were.
        """
        parts = self._stateful() | self._batches.with_state()
        for name in (*parts, "count", "baseline", "last_loss", "data", "replay"):
            if name not in state:
                raise InputError(f"problem {self.name!r}: its state has no {name!r}")
        for name, part in parts.items():
            # Optimisers keep the tensors that they are given, and would step those of the state.
            self.distribution.set_state(part, copy.deepcopy(state[name]), self)
        self._loop.count, self.baseline = int(state["count"]), state["baseline"]
        self.last_loss = float(state["last_loss"])
        self._batches.load_state_dict(self.distribution.pick_own(state["data"], self.name))
        self._replay.load_state_dict(state["replay"])
        self._loop.starts = True
        self._loop.wait_for(self._loop.ready)
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
        check_scheduler(self.name, scheduler)

    def set_train_data_loader(self, loader: Iterable[Any], idx: int = 0) -> None:
        """Take another data loader."""
        self._batches.replace(idx, self.distribution.share(loader, self.name))
        self.train_data_loader = self._batches.loaders

    def train(self) -> None:
        """Training mode."""
        self.training = True
        self.module.train()

    def eval(self) -> None:
        """Evaluation mode."""
        self.training = False
        self.module.eval()

    # Warnings and refusals.

    def first_time(self, what: str) -> bool:
        """Whether ``what`` is asked for the first time since the program was put together."""
        if what in self._asked:
            return False
        self._asked.add(what)
        return True

    def warn_once(self, message: str, about: str = "") -> None:
        """Log a warning that names this problem, once for each ``about`` (or message)."""
        first = self.engine is None or self.engine.is_rank_zero()
        if self.first_time(about or message) and first:
            log.warning("problem %r: %s", self.name, message)

    def warn_of_no_gradient(self, grads: Sequence[Tensor | None]) -> None:
        """Warn of a step that cannot move any parameter."""
        if all(grad is None for grad in grads):
            self.warn_once(
                "its step has no gradient: its cost does not depend on its own parameters, and no"
                " hypergradient reaches it (are u2l and l2u swapped?)"
            )

    def check_unused(self, grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> None:
        """Refuse parameters that the cost does not touch, unless ``allow_unused``."""
        if self.config.allow_unused:
            return
        unused = [tuple(p.shape) for g, p in zip(grads, params, strict=True) if g is None]
        if unused:
            raise InputError(
                f"problem {self.name!r}: its cost does not depend on parameters of shapes {unused};"
                " allow_unused=True accepts that"
            )

    # What it is.

    @property
    def name(self) -> str:
        """Identifier in the program."""
        return self._name

    @property
    def config(self) -> Config:
        """Settings."""
        return self._config

    @property
    def distribution(self) -> DataParallel:
        """The program's processes."""
        assert self.engine is not None, "the engine initialises a problem"
        return self.engine.distribution

    @property
    def jacobian_types(self) -> list[str]:
        """Methods by which upper problems differentiate this one's optimum."""
        uppers = self.engine.problems if self.engine else []
        return [
            self.jacobian_type(upper)
            for upper in uppers
            if any(curr is self for curr, _ in upper.factors)
        ]

    @property
    def count(self) -> int:
        """Own training steps so far, micro-batches counted."""
        return self._loop.count

    @property
    def paths(self) -> list[list[Problem]]:
        """Paths of the hypergradient, as :meth:`DataflowGraph.paths` gives them."""
        assert self.engine is not None
        return [self.engine.named(path) for path in self.engine.graph.paths(self.name)]

    @property
    def between_loops(self) -> bool:
        """Whether its inner loop is over, and no loop of a lower problem waits for another's."""
        return self._loop.between

    @property
    def loop_starts(self) -> bool:
        """Whether its next step is the first of an inner loop, or none was taken yet."""
        return self._loop.starts

    @property
    def leaf(self) -> bool:
        """Whether it waits for no other problem."""
        return not self._loop.ready

    def is_rank_zero(self) -> bool:
        """Whether this process logs and validates."""
        return self.engine is None or self.engine.is_rank_zero()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def keeps_state(part: Any) -> bool:
    """Whether a part of a program has a state of its own."""
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _scalar(loss: Tensor) -> Tensor:
    """A loss of one element without dimensions; a view would be one more node to go back by."""
    return loss.reshape(()) if loss.dim() else loss
