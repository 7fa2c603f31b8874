"""Office-Home: pictures of 65 classes of everyday objects in four domains."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.data.files import labels_array, reading
from common.data.registry import find
from common.errors import InputError
from common.runs.files import file_sha256

#: Folders of the release.
DOMAINS: Final = ("Art", "Clipart", "Product", "Real World")
SUFFIXES: Final = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True, eq=False)
class Domain:
    """Pictures of one domain, decoded when they are asked for.

    Attributes:
        folder: the domain's.
        files: paths of the pictures in it, sorted.
        labels (n,): int64, index into ``class_names``; read-only.
        class_names: names of the folders that the pictures lie in, sorted.
    """

    folder: Path
    files: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> Image.Image:
        """Picture ``index`` as RGB. Raises InputError if its file holds none."""
        path = self.folder / self.files[index]
        with reading(path), Image.open(path) as image:
            return image.convert("RGB")

    def sha256(self) -> str:
        """One checksum over the names and contents of all files; the publisher lists none."""
        whole = hashlib.sha256()
        for name in self.files:
            path = self.folder / name
            with reading(path):
                whole.update(f"{file_sha256(path)}  {name}\n".encode())
        return whole.hexdigest()


def office_home(root: Path | None = None) -> dict[str, Domain]:
    """The four domains; 2,427, 4,365, 4,439 and 4,357 pictures in the release.

    Raises: InputError if a domain is absent or empty, has other classes than the first, or holds a
    file that is no picture by its name. Source: Venkateswara et al. 2017.
    """
    folder = find("office_home", root)
    domains = {name: _domain(folder / name) for name in DOMAINS}
    expected = set(domains[DOMAINS[0]].class_names)
    for domain in domains.values():
        odd = sorted(expected.symmetric_difference(domain.class_names))
        if odd:
            found = "lacks" if odd[0] in expected else "has"
            raise InputError(
                f"{domain.folder}: {found} the class folder {odd[0]!r}, unlike {DOMAINS[0]!r};"
                " all domains must have the same classes"
            )
    return domains


def _domain(folder: Path) -> Domain:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; Office-Home has {', '.join(DOMAINS)}")
    classes = [path for path in _visible(folder) if path.is_dir()]
    pictures = [path for each in classes for path in _pictures(each)]
    if not pictures:
        raise InputError(f"{folder}: holds no folders of pictures; expected one for each class")
    names = tuple(path.name for path in classes)
    number = {name: index for index, name in enumerate(names)}
    return Domain(
        folder,
        tuple(path.relative_to(folder).as_posix() for path in pictures),
        labels_array([number[path.parent.name] for path in pictures]),
        names,
    )


def _pictures(folder: Path) -> list[Path]:
    found = _visible(folder)
    if not found:
        raise InputError(f"{folder}: is empty; expected pictures ({', '.join(SUFFIXES)})")
    for path in found:
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(f"{path}: is no picture by its name; allowed: {', '.join(SUFFIXES)}")
    return found


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, but for what file managers hide there."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
