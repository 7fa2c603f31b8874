"""Office-Home is listed by folder and decoded on access; what is wrong with it is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.office_home import DOMAINS, office_home
from common.errors import InputError
from tests.common.data.example_office_home import CLASSES, SIZE, colour, example_office_home


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return example_office_home(tmp_path, 3)


def test_classes_are_folders_and_pictures_are_sorted(folder: Path) -> None:
    (folder / "Art" / "Mug" / ".DS_Store").write_bytes(b"")
    domains = office_home(folder.parent)
    assert tuple(domains) == DOMAINS
    art = domains["Art"]
    assert art.class_names == CLASSES
    assert art.files == tuple(f"{kind}/0000{n}.jpg" for kind in CLASSES for n in (1, 2, 3))
    assert art.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert not art.labels.flags.writeable
    assert len(art) == 6


def test_a_picture_is_that_of_its_label_as_rgb(folder: Path) -> None:
    world = office_home(folder.parent)["Real World"]
    for index in (1, 5):
        picture = world.picture(index)
        assert (picture.mode, picture.size) == ("RGB", SIZE)
        expected = colour(3, int(world.labels[index]), index % 3)
        assert np.abs(np.asarray(picture).astype(int) - expected).max() <= 3  # JPEG is lossy
    Image.new("L", (5, 7), 9).save(folder / "Real World" / "Mug" / "00001.jpg")
    assert np.asarray(world.picture(3)).tolist() == [[[9, 9, 9]] * 5] * 7


def test_the_checksum_is_that_of_names_and_contents(folder: Path) -> None:
    def checksum() -> str:
        return office_home(folder.parent)["Art"].sha256()

    before = checksum()
    path = folder / "Art" / "Mug" / "00002.jpg"
    renamed = path.rename(path.with_name("00009.jpg"))
    assert checksum() != before
    renamed.rename(path)
    assert checksum() == before
    path.write_bytes(path.read_bytes() + b"\0")
    assert checksum() != before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda at: (at / "Product").rename(at / "product"), r"/Product: no such folder.*Clipart"),
        (lambda at: (at / "Clipart" / "Mug").rename(at / "Clipart" / "Cup"), "Clipart: has .*'Cup"),
        (lambda at: (at / "Product" / "Mug").rename(at / "Mug"), "Product: lacks .*'Mug'"),
        (lambda at: (at / "Art" / "Pen").mkdir(), "Art/Pen: is empty"),
        (lambda at: (at / "Art" / "Mug" / "list.txt").write_text("1"), "Mug/list.txt: is no pic"),
    ],
)
def test_a_wrong_tree_is_an_error_that_names_the_place(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=message):
        office_home(folder.parent)


def test_a_domain_without_classes_is_refused(folder: Path) -> None:
    for kind in CLASSES:
        (folder / "Art" / kind).rename(folder / kind)
    with pytest.raises(InputError, match="Art: holds no folders"):
        office_home(folder.parent)


@pytest.mark.parametrize("contents", [b"", b"no picture", b"half"])
def test_a_file_that_is_no_picture_is_named_when_it_is_opened(
    folder: Path, contents: bytes
) -> None:
    path = folder / "Art" / "Alarm_Clock" / "00002.jpg"
    path.write_bytes(path.read_bytes()[:-200] if contents == b"half" else contents)
    art = office_home(folder.parent)["Art"]
    assert art.picture(0).size == SIZE
    with pytest.raises(InputError, match=r"Alarm_Clock/00002\.jpg: cannot be read"):
        art.picture(1)
