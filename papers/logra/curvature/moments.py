"""Moments of what a layer sees, of its output's gradients and of its per-sample gradients.

Sums and counts are kept as they are and divided on reading, so that reading twice, adding after
reading and the size of batches change nothing. Rows of ``forward`` and ``backward`` are tokens
(all of them, or those that a mask names), rows of ``grad`` are samples.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, distributed

from common.errors import InputError
from papers.logra.curvature.layout import Layout
from papers.logra.curvature.product_sums import HELD_SHARE, PackedMoment, ProductSum, RowMoment
from papers.logra.curvature.tensor_files import read_tensors, write_tensors

Kind = Literal["forward", "backward", "grad"]
Moment = Literal["mean", "variance", "covariance", "corrected_eigval"]

#: Sums that each moment is made of.
SUMS: dict[str, tuple[str, ...]] = {
    "mean": ("values",),
    "variance": ("values", "squares"),
    "covariance": ("products",),
    "corrected_eigval": ("rotated_squares",),
}
FILE = "LoGra statistics"


class Key(NamedTuple):
    """Which sum."""

    kind: str
    of: str
    layer: str


class Eigenbasis(NamedTuple):
    """Eigenvectors of a layer's second moments, as columns by rising eigenvalue."""

    forward: Tensor
    backward: Tensor


class Statistics:
    """Sums over rows, by layer, and the moments they make.

    Args:
        what: the moments to gather of each kind, e.g. ``{"grad": ["covariance"]}``.
        dtype: of the sums.
        device: where sums are kept; by default where the rows are.

    Raises:
        InputError: an unknown kind or moment.
    """

    def __init__(
        self,
        what: Mapping[str, Collection[str]] | None = None,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        self.dtype, self.device = dtype, device
        self._totals: dict[Key, Tensor] = {}
        self._products: dict[Key, ProductSum] = {}
        self._counts: dict[Key, Tensor] = {}
        self._reduced: set[Key] = set()
        #: Set by the pass that corrects eigenvalues.
        self.eigenbases: dict[str, Eigenbasis] = {}
        #: Rows of the covariances that they are of, where those are held still.
        self._rows_of_bases: dict[str, float] = {}
        self._in_batch = self._interrupted = False
        #: Rises with every change of a sum: what was made of sums is theirs while it is the same.
        self.revision = 0
        self._wanted: dict[str, tuple[str, ...]] = {}
        self.collect(what or {})

    def collect(self, what: Mapping[str, Collection[str]]) -> None:
        """Gather these moments from now on; what was gathered stays.

        ``corrected_eigval`` is of a second pass: it rotates gradients into the eigenvectors of the
        forward and backward covariances of the first. Where these got rows since the eigenvectors
        were found, new ones are, and what was rotated into the old ones is forgotten.

        Raises:
            InputError: an unknown kind or moment, or no covariances to correct.
        """
        for kind, moments in what.items():
            if kind not in get_args(Kind):
                raise InputError(f"statistics of {kind}; allowed: {', '.join(get_args(Kind))}")
            for moment in moments:
                allowed = [m for m in SUMS if m != "corrected_eigval" or kind == "grad"]
                if isinstance(moments, str) or moment not in allowed:
                    raise InputError(
                        f"{kind} statistics {moments!r}; allowed: a list of {', '.join(allowed)}"
                    )
        if "corrected_eigval" in what.get("grad", ()):
            self._find_eigenbases()
        self._wanted = {
            kind: tuple(dict.fromkeys(name for moment in moments for name in SUMS[moment]))
            for kind, moments in what.items()
            if moments
        }

    def _find_eigenbases(self) -> None:
        """Eigenvectors of the covariances; those that are there stay while these do."""
        rows = {
            "/".join(key): float(count)
            for key, count in self._counts.items()
            if key.of == "products" and key.kind != "grad"
        }
        if rows and rows == self._rows_of_bases and self.is_whole:
            return
        forward, backward = self.covariance("forward"), self.covariance("backward")
        self.eigenbases = {
            layer: Eigenbasis(
                *(_by_columns(torch.linalg.eigh(c)[1]) for c in (forward[layer], backward[layer]))
            )
            for layer in forward
        }
        self._rows_of_bases = rows
        # Squares along two sets of eigenvectors add up to nothing.
        for key in [key for key in self._totals if key.of == "rotated_squares"]:
            del self._totals[key], self._counts[key]
            self._reduced.discard(key)
            self.revision += 1

    def wants(self, kind: Kind) -> bool:
        """Whether anything is gathered of this kind."""
        return kind in self._wanted

    @property
    def wants_rotated(self) -> bool:
        """Whether corrected eigenvalues are all that is gathered."""
        return self._wanted == {"grad": SUMS["corrected_eigval"]}

    @property
    def is_whole(self) -> bool:
        """Whether no part of a batch that failed is in it."""
        return not self._interrupted

    @property
    def gathered(self) -> dict[str, list[str]]:
        """Sums that are gathered of each kind."""
        return {kind: list(sums) for kind, sums in self._wanted.items()}

    def clear(self) -> None:
        """Forget all sums, not eigenvectors made of them; go on gathering the same moments."""
        self._totals, self._products, self._counts, self._reduced = {}, {}, {}, set()
        self._rows_of_bases = {}
        self._in_batch = self._interrupted = False
        self.revision += 1

    @torch.no_grad()
    def add(self, kind: Kind, layer: str, rows: Tensor, weights: Tensor | None = None) -> None:
        """Add rows (n, t, width), each as often as its weight (n, t) says."""
        self._in_batch = True
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32)).flatten(0, -2)
        count: float | Tensor = len(rows)
        weighted = rows
        if weights is not None:
            weights = weights.to(rows).flatten().unsqueeze(1)
            # A token that does not count may be NaN, as after attention to nothing.
            rows = rows.masked_fill(weights == 0, 0.0)
            weighted, count = rows * weights, weights.sum(dtype=torch.float64)
        for of in self._wanted.get(kind, ()):
            key = Key(kind, of, layer)
            if of == "values":
                self._accumulate(key, weighted.sum(0, dtype=self.dtype), count)
            elif of == "squares":
                # In the sums' type, for the mean's square will be taken off.
                square = (weighted.to(self.dtype) * rows.to(self.dtype)).sum(0)
                self._accumulate(key, square, count)
            elif of == "products":
                # A row as often as its weight says, alike on both sides of the product.
                self._multiply(key, rows if weights is None else rows * weights.sqrt(), count)

    @torch.no_grad()
    def add_gradients(self, layer: str, gradients: Tensor, *, rotated: bool = False) -> None:
        """Add per-sample gradients (n, out, inner), or what they are in the layer's eigenbasis.

        Raises:
            InputError: the layer has no eigenbasis and one is needed, or other statistics than
                corrected eigenvalues are gathered of rotated gradients.
        """
        wanted = self._wanted.get("grad", ())
        if rotated and wanted != ("rotated_squares",):
            raise InputError(f"{wanted} of rotated gradients; allowed: corrected_eigval alone")
        if not wanted:
            return
        self._in_batch = True
        if not rotated:
            self.add("grad", layer, gradients.flatten(1))
        if "rotated_squares" in wanted:
            if not rotated:
                forward, backward = (basis.to(gradients) for basis in self.eigenbasis(layer))
                gradients = backward.mT @ gradients @ forward
            key = Key("grad", "rotated_squares", layer)
            self._accumulate(key, gradients.square().sum(0), len(gradients))

    def eigenbasis(self, layer: str) -> Eigenbasis:
        """A layer's eigenvectors, in a pass that corrects eigenvalues.

        Raises:
            InputError: it has none.
        """
        if layer not in self.eigenbases:
            raise InputError(
                f"layer {layer} has no eigenvectors to correct the eigenvalues of; allowed: "
                f"{', '.join(self.eigenbases)}"
            )
        return self.eigenbases[layer]

    def end_batch(self, *, complete: bool) -> None:
        """A batch ended; sums that hold a part of one that failed are refused from now on."""
        self._interrupted |= self._in_batch and not complete
        self._in_batch = False

    def _accumulate(self, key: Key, part: Tensor, count: float | Tensor) -> None:
        device = part.device if self.device is None else self.device
        total = self._totals.get(key)
        if total is None:
            total = torch.zeros(part.shape, dtype=self.dtype, device=device)
        self._counted(key, count, device, tuple(part.shape), tuple(total.shape))
        # One that was restored may lie elsewhere.
        self._totals[key] = total = total.to(device)
        total += part.to(device)

    def _multiply(self, key: Key, rows: Tensor, count: float | Tensor) -> None:
        device = rows.device if self.device is None else self.device
        width = rows.shape[1]
        held = self._products.get(key)
        if held is None:
            held = ProductSum(width, dtype=self.dtype, device=device)
        self._counted(key, count, device, (width, width), (held.width, held.width))
        self._products[key] = held.to(device)
        self._products[key].add(rows)

    def _counted(
        self,
        key: Key,
        count: float | Tensor,
        device: torch.device | str,
        shape: tuple[int, ...],
        allowed: tuple[int, ...],
    ) -> None:
        """Count rows of a part of this shape, unless they may not be added."""
        if key in self._reduced:
            raise InputError(
                f"{key.kind} statistics of {key.layer} are summed over processes; allowed: to add "
                "before all_reduce, or after clear"
            )
        if shape != allowed:
            raise InputError(
                f"{key.kind} statistics of {key.layer} of shape {shape}; allowed: {allowed}, or "
                "clear before"
            )
        self.revision += 1
        if key not in self._counts:
            self._counts[key] = torch.zeros((), dtype=torch.float64, device=device)
        held = self._counts[key]
        held += count.to(held.device) if isinstance(count, Tensor) else count

    def _sums(self, without: Collection[Key] = ()) -> dict[Key, Tensor]:
        """Sums; of products the numbers that :mod:`product_sums` keeps."""
        packed = {key: held.packed for key, held in self._products.items() if key not in without}
        return {key: held for key, held in self._totals.items() if key not in without} | packed

    def mean(self, kind: Kind) -> dict[str, Tensor]:
        """{layer: (width,)}, of gradients flattened. Raises InputError where not gathered."""
        return self._moments(kind, "values", "mean")

    def variance(self, kind: Kind) -> dict[str, Tensor]:
        """{layer: (width,)}, divided by the number of rows. Raises InputError as :meth:`mean`."""
        mean = self._moments(kind, "values", "variance")
        squares = self._moments(kind, "squares", "variance")
        return {layer: (squares[layer] - mean[layer].square()).clamp_min(0) for layer in squares}

    def covariance(self, kind: Kind) -> dict[str, Tensor]:
        """{layer: (width, width)}, of uncentred rows. Raises InputError as :meth:`mean`."""
        return self._moments(kind, "products", "covariance")

    def second_moments(self, kind: Kind, wide: int) -> dict[str, Tensor | RowMoment | PackedMoment]:
        """As :meth:`covariance`; of layers wider than ``wide`` what takes less memory.

        That is the rows where they were few, else the sum as it is kept.
        """
        found: dict[str, Tensor | RowMoment | PackedMoment] = {}
        for key, held in self._products.items():
            if key.kind == kind and held.width > wide:
                number = float(self._counts[key])
                few = held.rows
                found[key.layer] = (
                    PackedMoment(held.lend(), number) if few is None else RowMoment(few, number)
                )
        return {**self._moments(kind, "products", "covariance", without=found), **found}

    def corrected_eigenvalues(self) -> dict[str, Tensor]:
        """{layer: (out, inner)} in :attr:`eigenbases`. Raises InputError as :meth:`mean`."""
        return self._moments("grad", "rotated_squares", "corrected_eigval")

    def counts(self, kind: Kind) -> dict[str, float]:
        """{layer: rows}: tokens, or samples of ``grad``."""
        return {key.layer: float(count) for key, count in self._counts.items() if key.kind == kind}

    def has(self, kind: Kind, moment: Moment) -> bool:
        """Whether a moment of this kind was gathered."""
        return any((key.kind, key.of) == (kind, SUMS[moment][-1]) for key in self._counts)

    def _moments(
        self, kind: str, of: str, moment: str, without: Collection[str] = ()
    ) -> dict[str, Tensor]:
        if self._interrupted:
            raise InputError(
                "statistics hold a part of a batch that failed; allowed: clear and start over"
            )
        found = {}
        for key, count in self._counts.items():
            if (key.kind, key.of) != (kind, of) or key.layer in without:
                continue
            if of == "products":
                found[key.layer] = PackedMoment(self._products[key].packed, float(count)).matrix()
            else:
                found[key.layer] = self._totals[key] / count
        if not found and not without:
            held = sorted({f"{key.kind} {key.of}" for key in self._counts})
            raise InputError(
                f"no {kind} {moment} was gathered; gathered: {', '.join(held) or 'nothing'}"
            )
        return found

    def all_reduce(self) -> None:
        """Sum over all processes; what is summed already stays as it is.

        Raises:
            InputError: processes gathered layers of different shapes.
        """
        if not distributed.is_initialized():
            return
        device = _device_of_collectives()
        self._gather_few_rows(device)
        sums = self._sums(without=self._reduced)
        mine = {key: tuple(total.shape) for key, total in sums.items()}
        every: list[dict[Key, tuple[int, ...]]] = [{}] * distributed.get_world_size()
        distributed.all_gather_object(every, mine)
        shapes: dict[Key, tuple[int, ...]] = {}
        for theirs in every:
            for key, shape in theirs.items():
                if shapes.setdefault(key, shape) != shape:
                    raise InputError(
                        f"{key.kind} statistics of {key.layer} of shapes {shapes[key]} and {shape} "
                        "in two processes; allowed: equal ones"
                    )
        # Every process takes part in every sum, also one that had no data.
        for key in sorted(shapes):
            for held, shape in ((sums, shapes[key]), (self._counts, ())):
                kind = self.dtype if held is sums else torch.float64
                mine_here = held.get(key, torch.zeros(shape, dtype=kind, device=self.device))
                shared = mine_here.to(device or mine_here.device, copy=True)
                distributed.all_reduce(shared)
                held[key] = shared.to(mine_here.device)
            self._keep(key, sums[key])
            self._reduced.add(key)
            self.revision += 1

    def _gather_few_rows(self, device: torch.device | None) -> None:
        """Have the rows of all processes where they are few, instead of sums of products."""
        few = {key: held.rows for key, held in self._products.items() if key not in self._reduced}
        mine = {
            key: rows if rows is None else (*rows.shape, rows.dtype) for key, rows in few.items()
        }
        every: list[dict[Key, Any]] = [{}] * distributed.get_world_size()
        distributed.all_gather_object(every, mine)
        for key in sorted({key for theirs in every for key in theirs}):
            held = [theirs[key] for theirs in every if key in theirs]
            if None in held or len({what[1:] for what in held}) > 1:
                continue
            _, width, kind = held[0]
            lengths = [theirs[key][0] if key in theirs else 0 for theirs in every]
            if sum(lengths) > width // HELD_SHARE:
                continue
            own = few.get(key)
            own = torch.empty(0, width, dtype=kind, device=self.device) if own is None else own
            padded = own.new_zeros(max(lengths), width, device=device)
            padded[: len(own)] = own
            parts = [torch.empty_like(padded) for _ in lengths]
            distributed.all_gather(parts, padded)
            rows = torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])
            count = self._counts.get(key, torch.zeros((), dtype=torch.float64, device=self.device))
            shared = count.to(device or count.device, copy=True)
            distributed.all_reduce(shared)
            self._counts[key] = shared.to(count.device)
            empty = torch.empty(0, dtype=self.dtype, device=own.device)
            self._keep(key, empty, rows.to(own.device))
            self._reduced.add(key)
            self.revision += 1

    def _keep(self, key: Key, total: Tensor, waiting: Tensor | None = None) -> None:
        """Hold a sum as :meth:`_sums` gave it, or a product in its two parts."""
        if key.of == "products":
            self._products[key] = ProductSum.of(total, waiting)
        else:
            self._totals[key] = total

    def save(self, path: Path) -> None:
        """Write sums and counts. Raises InputError if they hold a part of a batch that failed."""
        write_tensors(path, FILE, *self.state(summed=True))

    @classmethod
    def load(cls, path: Path, layout: Layout | None = None) -> Statistics:
        """What :meth:`save` wrote.

        Args:
            path: the file.
            layout: of the gradients they must be of, where given.

        Raises:
            InputError: not such a file, altered, or of another layout.
        """
        statistics = cls()
        statistics.restore(*read_tensors(path, FILE))
        if layout is not None:
            statistics.check(layout, str(path))
        return statistics

    def state(self, *, summed: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Sums and eigenvectors, and JSON of counts. Raises InputError as :meth:`save`.

        Args:
            summed: multiply rows that wait to be, where any was; else they stand beside the sums,
                so that these go on from here to the last bit.
        """
        if self._interrupted:
            raise InputError(
                "statistics hold a part of a batch that failed; allowed: whole batches"
            )
        tensors = {"/".join(key): total for key, total in self._totals.items()}
        for key, held in self._products.items():
            if summed and held.rows is None:
                held.multiply()
            tensors["/".join(key)], waiting = held.state
            if len(waiting) or not tensors["/".join(key)].numel():
                tensors["/".join(key._replace(of="waiting"))] = waiting
        for layer, basis in self.eigenbases.items():
            for side, vectors in basis._asdict().items():
                tensors[f"{side}/eigenvectors/{layer}"] = vectors
        content = {
            "counts": {"/".join(key): float(count) for key, count in self._counts.items()},
            "reduced": sorted("/".join(key) for key in self._reduced),
            "rows_of_eigenvectors": self._rows_of_bases,
        }
        return tensors, content

    def restore(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        """Become what :meth:`state` gave, in place of what was gathered."""
        self.clear()
        bases: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            key = Key(*name.split("/", 2))
            if key.of == "eigenvectors":
                bases.setdefault(key.layer, {})[key.kind] = _by_columns(tensor)
                continue
            if key.of == "waiting":  # with the products it belongs to
                continue
            self.dtype = tensor.dtype
            waiting = tensors.get("/".join(key._replace(of="waiting")))
            self._keep(key, tensor, waiting)
            self._counts[key] = torch.tensor(content["counts"][name], dtype=torch.float64)
        self.eigenbases = {layer: Eigenbasis(**basis) for layer, basis in bases.items()}
        self._reduced = {Key(*name.split("/", 2)) for name in content["reduced"]}
        self._rows_of_bases = dict(content.get("rows_of_eigenvectors", {}))

    def check(self, layout: Layout, where: str = "statistics") -> None:
        """Raises InputError unless all sums are of gradients of this layout."""
        blocks = {block.name: block for block in layout.blocks}
        shapes = {key: tuple(total.shape) for key, total in self._totals.items()}
        shapes |= {key: (held.width, held.width) for key, held in self._products.items()}
        for key, found in shapes.items():
            if key.layer not in blocks:
                raise InputError(f"{where}: layer {key.layer}; allowed: {', '.join(blocks)}")
            block = blocks[key.layer]
            width = {"forward": block.inner, "backward": block.out, "grad": block.width}[key.kind]
            shape: tuple[int, ...] = (width,)
            if key.of == "rotated_squares":
                shape = (block.out, block.inner)
            elif key.of == "products":
                shape = (width, width)
            if found != shape:
                raise InputError(
                    f"{where}: {key.kind} {key.of} of layer {key.layer} of shape {found}; "
                    f"allowed: {shape}"
                )


def _by_columns(vectors: Tensor) -> Tensor:
    """Eigenvectors one after the other in memory, as they are found; files have row after row.

    For sums that go on from a file: products of matrices in another layout may be others in their
    last bits.
    """
    return vectors.mT.contiguous().mT


def _device_of_collectives() -> torch.device | None:
    """Where tensors must be to be sent, None for where they are."""
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return None
