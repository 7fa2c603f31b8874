"""SVHN and CelebA in the publishers' own forms, made small: what is read and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.data.celeba import celeba
from common.data.svhn import svhn
from common.errors import InputError
from tests.common.data.example_colours import NAMES, example_celeba, example_svhn


def test_images_of_svhn_come_first_and_ten_is_a_zero(tmp_path: Path) -> None:
    pixels = example_svhn(tmp_path, [10, 1, 9])
    images = svhn(True, tmp_path)
    assert np.array_equal(images.pixels, pixels)
    assert images.labels.tolist() == [0, 1, 9]
    assert not images.pixels.flags.writeable


@pytest.mark.parametrize(("label", "side", "message"), [(0, 32, "label 0"), (1, 16, "X is")])
def test_what_is_not_svhn_is_named(tmp_path: Path, label: int, side: int, message: str) -> None:
    example_svhn(tmp_path, [1, label], side)
    with pytest.raises(InputError, match=rf"train_32x32\.mat: {message}"):
        svhn(True, tmp_path)


def test_a_broken_file_of_svhn_is_named(tmp_path: Path) -> None:
    example_svhn(tmp_path, [1])
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(b"no matrix at all" * 20)
    with pytest.raises(InputError, match=r"train_32x32\.mat: "):
        svhn(True, tmp_path)
    with pytest.raises(InputError, match=r"test_32x32\.mat: no such file"):
        svhn(False, tmp_path)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A data root."""
    return example_celeba(tmp_path).parent


def test_parts_and_attributes_are_those_of_the_lists(faces: Path) -> None:
    assert celeba(("train",), faces).files == tuple(f"img_align_celeba/{NAMES[i]}" for i in (0, 3))
    others = celeba(("valid", "test"), faces)
    assert others.having("Male").tolist() == [False, True]
    assert not others.having("Young").any()
    with pytest.raises(InputError, match="'Old'; allowed: Male, Smiling, Young"):
        others.having("Old")


def test_a_face_is_the_largest_centred_square(faces: Path) -> None:
    pixels = celeba(("train",), faces).pixels(16)
    assert pixels.shape == (2, 16, 16, 3)
    inside = pixels[:, 1:-1]  # the outermost rows are means with what lies beside them
    assert inside[0].max() == 0
    assert (inside[1] == 120).all()
    assert pixels[0].max() < 64


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list_eval_partition.txt", "000001.jpg 0 1\n", "line 1 has 2 values; expected 1"),
        ("list_eval_partition.txt", "", "lists no photographs|line 1 has 0"),
        ("list_attr_celeba.txt", "4\nMale Young\n000009.jpg 1 1\n", "lists other photographs"),
        ("list_attr_celeba.txt", "4\nMale Young\n000001.jpg 1\n", "line 3 has 1 values"),
    ],
)
def test_a_malformed_list_is_named(faces: Path, name: str, text: str, message: str) -> None:
    (faces / "celeba" / name).write_text(text)
    with pytest.raises(InputError, match=message):
        celeba(("train",), faces)


def test_a_photograph_that_is_not_there_is_named(faces: Path) -> None:
    with zipfile.ZipFile(faces / "celeba" / "img_align_celeba.zip", "w"):
        pass
    with pytest.raises(InputError, match=r"img_align_celeba\.zip: has no entry"):
        celeba(("train",), faces).pixels(8)
