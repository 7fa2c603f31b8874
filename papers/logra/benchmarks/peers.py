"""The same attribution task for other libraries: log what is kept of the training set, then score.

Each class takes a classifier without biases on linear layers, writes its logs into a folder of its
own, and returns scores (queries, training samples), larger for a more helpful sample. A peer that
is not installed is left out of :func:`peers`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from papers.logra.measures.disk_usage import folder_bytes
from papers.logra.tasks.samples import Samples


class Peer(ABC):
    """One library on one trained classifier.

    Args:
        model: left as it is; each peer works on a copy.
        folder: empty; logs go there.
        rank: of the projection, on each side of a layer.
        batch: samples of a batch.
        seed: of what is drawn.
    """

    def __init__(
        self, model: nn.Module, folder: Path, rank: int, batch: int, seed: int = 0
    ) -> None:
        self.model = deepcopy(model).eval()
        self.folder, self.rank, self.batch, self.seed = folder, rank, batch, seed

    @abstractmethod
    def log(self, train: Samples) -> None:
        """Keep what scoring needs of the training set."""

    @abstractmethod
    def score(self, queries: Samples) -> Tensor:
        """(queries, training samples)."""

    def stored_bytes(self) -> int:
        """Size of what lies on disk."""
        return folder_bytes(self.folder)


class LogixAi(Peer):
    """logix-ai: LoGra with random projections and the block-diagonal Fisher."""

    def __init__(
        self, model: nn.Module, folder: Path, rank: int, batch: int, seed: int = 0
    ) -> None:
        super().__init__(model, folder, rank, batch, seed)
        # init() has one instance for a whole process, which would answer for an earlier model.
        from logix import LogIX as Implementation

        config = folder / "config.yaml"
        # Its flush in a second thread loses data, so it writes in the first one.
        config.write_text(f"root_dir: {folder}\nlora: {{init: random, rank: {rank}}}\n")
        self._run = Implementation("peer", config=str(config))
        self._run.watch(self.model)
        torch.manual_seed(seed)
        self._run.add_lora()

    def log(self, train: Samples) -> None:
        from logix.statistic import Covariance, Log

        self._run.setup({"grad": [Log, Covariance]})
        self._run.save(True)
        for _ in self._batches(train, "train"):
            pass
        self._run.finalize()

    def score(self, queries: Samples) -> Tensor:
        from logix.statistic import Log

        self._run.setup({"grad": [Log]})
        self._run.save(False)
        self._run.eval()
        parts = []
        loader = self._run.build_log_dataloader(batch_size=256)
        for _ in self._batches(queries, "query"):
            result = self._run.influence.compute_influence_all(self._run.get_log(copy=True), loader)
            parts.append(result["influence"])
        return torch.cat(parts)

    def _batches(self, samples: Samples, name: str) -> Iterator[None]:
        for first, (x, y) in samples.batches(self.batch):
            self.model.zero_grad()
            with self._run(data_id=[f"{name}{first + place}" for place in range(len(x))]):
                torch.autograd.backward(functional.cross_entropy(self.model(x), y, reduction="sum"))
            yield


class Kronfluence(Peer):
    """kronfluence: EKFAC on whole gradients, which are recomputed for each set of queries."""

    def __init__(
        self, model: nn.Module, folder: Path, rank: int, batch: int, seed: int = 0
    ) -> None:
        super().__init__(model, folder, rank, batch, seed)
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments

        task = _classification_task()
        self._analyzer = Analyzer(
            "peer",
            prepare_model(self.model, task),
            task,
            cpu=not torch.cuda.is_available(),
            output_dir=str(folder),
            disable_tqdm=True,
            disable_model_save=True,
        )
        self._factors = FactorArguments(strategy="ekfac", use_empirical_fisher=True)
        self._train: Samples | None = None

    def log(self, train: Samples) -> None:
        self._train = train
        self._analyzer.fit_all_factors(
            factors_name="factors",
            dataset=TensorDataset(*train),
            per_device_batch_size=self.batch,
            factor_args=self._factors,
            overwrite_output_dir=True,
        )

    def score(self, queries: Samples) -> Tensor:
        from kronfluence.arguments import ScoreArguments

        assert self._train is not None
        self._analyzer.compute_pairwise_scores(
            scores_name="scores",
            factors_name="factors",
            query_dataset=TensorDataset(*queries),
            train_dataset=TensorDataset(*self._train),
            per_device_query_batch_size=self.batch,
            per_device_train_batch_size=self.batch,
            score_args=ScoreArguments(damping_factor=None),
            overwrite_output_dir=True,
        )
        scores: Tensor = self._analyzer.load_pairwise_scores("scores")["all_modules"]
        return scores


def _classification_task() -> Any:
    from kronfluence.task import Task

    class Classification(Task):  # type: ignore[misc]
        """Sum of cross-entropies, measured as it is trained."""

        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            x, y = batch
            return functional.cross_entropy(model(x), y, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            return self.compute_train_loss(batch, model)

    return Classification()


class Dattri(Peer):
    """dattri: its own LoGra attributor with the block-diagonal empirical Fisher."""

    def __init__(
        self, model: nn.Module, folder: Path, rank: int, batch: int, seed: int = 0
    ) -> None:
        super().__init__(model, folder, rank, batch, seed)
        from dattri.algorithm.logra import LoGraAttributor
        from dattri.task import AttributionTask

        def loss(model: nn.Module, batch: Any, device: str) -> Tensor:
            x, y = (part.to(device) for part in batch)
            return functional.cross_entropy(model(x), y, reduction="sum")

        # It looks at a first sample without its batch dimension, so samples need one more.
        self.model = nn.Sequential(self.model, nn.Flatten(0, -2))
        layers = [name for name, part in self.model.named_modules() if isinstance(part, nn.Linear)]
        self._attributor = LoGraAttributor(
            AttributionTask(loss_func=loss, model=self.model, checkpoints=self.model.state_dict()),
            layer_names=layers,
            hessian="eFIM",
            damping=0.1,  # times the mean eigenvalue
            proj_dim=rank**2,
            # On disk it wants pinned memory, so a GPU.
            offload="disk" if torch.cuda.is_available() else "cpu",
            cache_dir=str(folder),
        )
        # No argument of its: by default every instance draws the same.
        self._attributor.sparsifier_kwargs["proj_seed"] = seed
        self._loader: DataLoader[Any] | None = None

    def log(self, train: Samples) -> None:
        self._loader = self._batches(train)
        with uncompiled():
            self._attributor.cache(self._loader)

    def score(self, queries: Samples) -> Tensor:
        with uncompiled():
            scores: Tensor = self._attributor.attribute(self._loader, self._batches(queries))
        return scores.T

    def _batches(self, samples: Samples) -> DataLoader[Any]:
        data = TensorDataset(samples.x.unsqueeze(1), samples.y)
        return DataLoader(data, batch_size=self.batch)


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """dattri compiles its projections, which for each new model takes a minute and saves none."""
    stance: contextlib.AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


class Trak(Peer):
    """traker: TRAK of one model.

    Args:
        dimension: numbers for a sample; by default as many as LoGra keeps of one layer.
    """

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        rank: int,
        batch: int,
        seed: int = 0,
        dimension: int | None = None,
    ) -> None:
        super().__init__(model, folder, rank, batch, seed)
        self._dimension = rank**2 if dimension is None else dimension
        self._traker: Any = None

    def log(self, train: Samples) -> None:
        from trak import TRAKer

        self._traker = TRAKer(
            model=self.model,
            task="image_classification",
            train_set_size=len(train.x),
            save_dir=str(self.folder),
            device="cpu",
            projector=self._projector(),
            proj_dim=self._dimension,
            use_half_precision=False,
            logging_level=logging.ERROR,
        )
        self._traker.load_checkpoint(self.model.state_dict(), model_id=0)
        for _, (x, y) in train.batches(self.batch):
            self._traker.featurize(batch=[x, y], num_samples=len(x))
        self._traker.finalize_features()

    def score(self, queries: Samples) -> Tensor:
        # Its finish frees the projection and does not draw it again.
        self._traker.projector = self._projector()
        self._traker.start_scoring_checkpoint(
            exp_name="queries",
            checkpoint=self.model.state_dict(),
            model_id=0,
            num_targets=len(queries.x),
        )
        for _, (x, y) in queries.batches(self.batch):
            self._traker.score(batch=[x, y], num_samples=len(x))
        return torch.from_numpy(self._traker.finalize_scores(exp_name="queries")).T

    def _projector(self) -> Any:
        from trak.projectors import BasicProjector, ProjectionType

        return BasicProjector(
            grad_dim=sum(part.numel() for part in self.model.parameters()),
            proj_dim=self._dimension,
            seed=self.seed,
            proj_type=ProjectionType.rademacher,
            device=torch.device("cpu"),
        )


#: Makes a peer of its arguments.
Make = Callable[..., Peer]
#: Name of the package -> (module that shows it is installed, its class).
KNOWN: dict[str, tuple[str, Make]] = {
    "logix-ai": ("logix", LogixAi),
    "kronfluence": ("kronfluence", Kronfluence),
    "dattri": ("dattri", Dattri),
    "traker": ("trak", Trak),
}


def peers() -> dict[str, Make]:
    """Those that are installed, by the names of their packages."""
    return {name: peer for name, (module, peer) in KNOWN.items() if find_spec(module)}


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Without the progress bars, tables, warnings and reports that the libraries print."""
    before = logging.root.manager.disable
    # Handlers of the log hold the stream they were made with, so redirecting reaches none of them.
    logging.disable(logging.WARNING)
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.disable(before)
