"""Values computed from the rows of a store once, and kept beside them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from common.errors import InputError
from papers.logra.curvature.tensor_files import read_tensors, write_tensors

KIND = "log store column"


class Column:
    """One value for each row under one set of parameters, as the self-influence for a damping.

    Args:
        folder: of the columns.
        name: of what the values are.
        parameters: what they depend on besides the rows, as JSON.
        store_digest: of the rows.
        rows: how many there are.
    """

    def __init__(
        self, folder: Path, name: str, parameters: Mapping[str, Any], store_digest: str, rows: int
    ) -> None:
        if not re.fullmatch(r"[a-z0-9_]+", name):
            raise InputError(f"column {name!r}; allowed: lower-case letters, digits, underscores")
        text = json.dumps(dict(parameters), sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        self.path = folder / f"{name}-{digest[:16]}.safetensors"
        self._about = {"parameters": text, "store": store_digest, "rows": rows}

    def read(self) -> Tensor | None:
        """(rows, ...), or None: never computed, or for other rows than the store has now.

        Raises:
            InputError: it was altered.
        """
        if not self.path.exists():
            return None
        tensors, about = read_tensors(self.path, KIND)
        return tensors["values"] if about == self._about else None

    def write(self, values: Tensor) -> None:
        """Keep (rows, ...) values. Raises InputError: not one for a row, or a read-only folder."""
        if values.ndim < 1 or len(values) != self._about["rows"]:
            raise InputError(
                f"{self.path}: values {tuple(values.shape)}; allowed: {self._about['rows']},"
                " one for each row"
            )
        write_tensors(self.path, KIND, {"values": values}, self._about)
