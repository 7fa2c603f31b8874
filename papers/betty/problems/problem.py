"""One optimisation problem of a multilevel program: its parameters, cost, data and optimiser.

Source: Choe et al. 2023, Sec. 3.2 and 3.3.
"""

from __future__ import annotations

import abc
import copy
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from common.errors import InputError
from papers.betty.configs import Config
from papers.betty.hypergradient import hypergradient
from papers.betty.hypergradient.vectors import local
from papers.betty.replay import Replay

if TYPE_CHECKING:
    from papers.betty.engine import Engine
    from papers.betty.envs import Env

log = logging.getLogger("betty")
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
#: On a GPU the loss is looked at this seldom, because looking waits for the device.
STEPS_BETWEEN_LOOKS = 50


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
        self._name = name
        self._config = config or Config()
        self.cfg = extra_config
        self.module: Any = module
        self.optimizer: Any = optimizer
        self.scheduler: Any = scheduler
        self.train_data_loader = train_data_loader
        self.env: Env | None = None
        self.device = torch.device("cpu")
        self.cur_batch: Any = None
        self.last_loss = float("nan")
        self.engine: Engine | None = None
        #: Lower problems whose optimum enters this cost, upper ones that this optimum enters.
        self.children: list[Problem] = []
        self.parents: list[Problem] = []
        #: The graph's ``seeds`` and ``factors`` of this problem's hypergradient.
        self.seeds: list[Problem] = []
        self.factors: list[tuple[Problem, list[Problem]]] = []
        self.scaler: GradScaler | None = None
        self.training = True
        self._count = 0
        self._loop_starts = True
        self._ready: dict[str, bool] = {}
        self._iterators: list[Iterator[Any]] = []
        self._epochs: list[int] = []
        self._replay = Replay()
        self._cached: dict[str, Any] = {}
        self._last_grads: dict[int, Tensor] = {}
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

    def grad_callback(self) -> None:  # noqa: B027  (optional)
        """Called when gradients have been accumulated, before the optimiser's step."""

    def param_callback(self) -> None:  # noqa: B027  (optional)
        """Called after the optimiser's step, e.g. to project parameters."""

    def epoch_callback(self) -> None:  # noqa: B027  (optional)
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

    # What the engine calls.

    def initialize(self, engine: Engine) -> None:
        """Build module, optimiser, schedule and data; called by the engine.

        Raises:
            InputError: the module has no trainable parameters, the optimiser holds others, or
                there is no data loader and ``get_batch`` is not overridden.
        """
        self.engine, self.device = engine, engine.device
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
        loaders = self.configure_train_data_loader()
        if loaders is None and type(self).get_batch is Problem.get_batch:
            raise InputError(f"problem {self.name!r}: no train_data_loader, and no get_batch")
        loaders = loaders if isinstance(loaders, tuple) else (loaders,)
        self.train_data_loader = tuple(
            engine.distribution.share(loader, self.name) for loader in loaders
        )
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
        self.one_step_descent(self.cur_batch)
        for parent in self.parents:
            parent._step_again()

    def one_step_descent(self, batch: Any = None) -> dict[str, Any]:
        """Gradient of one batch and, where accumulation is complete, the optimiser's step.

        Returns what :meth:`training_step` gave, with the loss as a number.
        """
        self.cur_batch = self.get_batch() if batch is None else batch
        if self.parents:
            self._replay.record(self)
        loss, stats = self.get_loss(self.cur_batch)
        self.backward(loss)
        self.grad_callback()
        if self._count % self.config.gradient_accumulation == 0:
            self.optimizer_step()
            self.param_callback()
            self.zero_grad()
        return stats

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
        if self.device.type == "cpu" or self._count % STEPS_BETWEEN_LOOKS == 0:
            self.last_loss = loss.item()
            if not self.last_loss - self.last_loss == 0:
                raise FloatingPointError(
                    f"problem {self.name!r}: loss is {self.last_loss} at its step {self._count}"
                )
        stats["loss"] = loss.detach()
        if self.scaler is not None:
            loss = self.scaler.scale(loss)
        batches = self.config.gradient_accumulation
        return loss if batches == 1 else loss / batches, stats

    def training_step_exec(self, batch: Any) -> Tensor | Mapping[str, Any]:
        """:meth:`training_step` in this problem's precision."""
        dtype = DTYPES.get(self.config.precision)
        if dtype is None:
            return self.training_step(batch)
        with torch.autocast(self.device.type, dtype=dtype):
            return self.training_step(batch)

    def backward(self, loss: Tensor) -> None:
        """Add direct gradient and hypergradients of ``loss`` to ``.grad``. Eq. 1 and 2."""
        params = self.trainable_parameters()
        grads = hypergradient(self, loss, params)
        for param, grad in zip(params, grads, strict=True):
            if grad is not None:
                param.grad = grad if param.grad is None else param.grad + grad

    def optimizer_step(self) -> None:
        """Synchronise, clip, step; the schedule follows the optimiser, not the micro-batches."""
        assert self.engine is not None
        self.engine.distribution.average_grads(self.trainable_parameters())
        if self.scaler is not None and self.optimizer is not None:
            self.scaler.unscale_(self.optimizer)
        if self.config.gradient_clipping > 0:
            params = self.trainable_parameters()
            torch.nn.utils.clip_grad_norm_(params, self.config.gradient_clipping)
        if self.config.type == "sama":
            params = self.trainable_parameters()
            self._last_grads = {id(p): p.grad for p in params if p.grad is not None}
        with self.engine.distribution.updating(self.optimizer):
            self.custom_optimizer_step()
        if self.scheduler is not None:
            self.scheduler.step()

    def custom_optimizer_step(self) -> None:
        """The update itself; override for another than the optimiser's."""
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()

    def zero_grad(self) -> None:
        """Forget gradients."""
        for param in self.parameters():
            param.grad = None

    # Data.

    def get_batch(self) -> Any:
        """The next batch, on the device; a tuple of one from each loader if there are several."""
        if not self._iterators:
            self._iterators = [iter(loader) for loader in self.train_data_loader]
            self._epochs = self._epochs or [0] * len(self._iterators)
        batches = tuple(self._next(index) for index in range(len(self._iterators)))
        return batches[0] if len(batches) == 1 else batches

    def _next(self, index: int) -> Any:
        try:
            batch = next(self._iterators[index])
        except StopIteration:
            if index == 0:
                self.epoch_callback()
            self._epochs[index] += 1
            loader = self.train_data_loader[index]
            for part in (loader, getattr(loader, "sampler", None)):
                if part is not None and hasattr(part, "set_epoch"):
                    part.set_epoch(self._epochs[index])
            self._iterators[index] = iter(loader)
            try:
                batch = next(self._iterators[index])
            except StopIteration:
                raise InputError(f"problem {self.name!r}: its data loader is empty") from None
        return on_device(batch, self.device)

    # Replays of the last step, for hypergradients.

    def replayed_loss(self) -> Tensor:
        """The cost on the last batch again: same random numbers, buffers left as they were.

        Two passes of a finite difference would otherwise differ by their dropout masks, and batch
        normalisation would count the batch again.
        """
        with self._replay.again(self):
            given = self.training_step_exec(self.cur_batch)
        loss = given["loss"] if isinstance(given, Mapping) else given
        return _scalar(loss)

    def held(self, name: str, value: Tensor) -> Tensor:
        """``value`` as it was in the step itself, also in replays at perturbed parameters.

        For what enters the cost as a constant though it is computed from the parameters: a weight
        network that reads ``loss.detach()`` would read another loss at the perturbed parameters,
        and a finite difference would count that change as a gradient.
        """
        return self._replay.held(name, value.detach())

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
        """Module, optimiser, schedule, loss scaler, step count, and the data loaders' positions.

        To be taken between engine iterations at which a loop ended; a loader takes part if it has
        a ``state_dict``.
        """
        assert self.engine is not None
        state_of = self.engine.distribution.state_of
        parts = self._stateful() | self._loaders_with_state()
        counters = {"count": self._count, "epochs": list(self._epochs)}
        return {name: state_of(part, self) for name, part in parts.items()} | counters

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`. Raises InputError if a part is missing."""
        assert self.engine is not None
        for name, part in (self._stateful() | self._loaders_with_state()).items():
            if name not in state:
                raise InputError(f"problem {self.name!r}: its state has no {name!r}")
            self.engine.distribution.set_state_of(part, state[name], self)
        self._count = int(state.get("count", 0))
        self._iterators = []
        self._epochs = list(state.get("epochs", []))

    def _stateful(self) -> dict[str, Any]:
        parts = {
            "module": self.module,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "scaler": self.scaler,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _loaders_with_state(self) -> dict[str, Any]:
        return {
            f"loader{index}": loader
            for index, loader in enumerate(self.train_data_loader)
            if hasattr(loader, "load_state_dict")
        }

    def set_module(self, module: nn.Module) -> None:
        """Take another module; give it an optimiser too."""
        self.module = module.to(self.device)
        if self.engine is not None:
            self.engine.distribution.broadcast([*self.parameters(), *module.buffers()])

    def set_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Take another optimiser."""
        self.optimizer = optimizer
        self._check_optimizer()

    def set_scheduler(self, scheduler: Any) -> None:
        """Take another schedule."""
        self.scheduler = scheduler

    def set_train_data_loader(self, loader: Iterable[Any], idx: int = 0) -> None:
        """Take another data loader."""
        assert self.engine is not None
        loaders = list(self.train_data_loader)
        loaders[idx] = loader = self.engine.distribution.share(loader, self.name)
        self.train_data_loader = tuple(loaders)
        if self._iterators:
            self._iterators[idx] = iter(loader)

    def train(self) -> None:
        """Training mode."""
        self.training = True
        self.module.train()

    def eval(self) -> None:
        """Evaluation mode."""
        self.training = False
        self.module.eval()

    # What hypergradients ask.

    def jacobian_type(self, upper: Problem) -> str:
        """The method by which ``upper`` differentiates this problem's optimum."""
        return self.config.type

    def last_grad(self, weight: Tensor) -> Tensor | None:
        """Gradient of ``weight`` in the last optimiser step, for ``sama``."""
        return self._last_grads.get(id(weight))

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
    def count(self) -> int:
        """Own training steps so far, micro-batches counted."""
        return self._count

    @property
    def paths(self) -> list[list[Problem]]:
        """Paths of the hypergradient, as :meth:`DataflowGraph.paths` gives them."""
        assert self.engine is not None
        return [self.engine.named(path) for path in self.engine.graph.paths(self.name)]

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


def _scalar(loss: Tensor) -> Tensor:
    """A loss of one element without dimensions; a view would be one more node to go back by."""
    return loss.reshape(()) if loss.dim() else loss


def on_device(batch: Any, device: torch.device) -> Any:
    """Tensors of a nested batch on ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: on_device(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple(on_device(value, device) for value in batch)
    return batch
