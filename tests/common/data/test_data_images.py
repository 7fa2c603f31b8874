"""Image loaders give what each set is known to hold; a malformed file is one line that names it."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.data.cifar10 import cifar10, cifar10_exact, read_sheet
from common.data.cifar100 import cifar100
from common.data.cifar_pickles import read_batch
from common.data.images import Images, digits, fashion_mnist, mnist, read_idx
from common.data.office_caltech import CLASS_NAMES, DOMAINS, office_caltech10_surf
from common.data.omniglot import omniglot_one_shot, omniglot_small
from common.data.registry import find
from common.errors import InputError
from tests.common.data.real_data import skip_without


def counts(labels: Any) -> list[int]:
    return np.bincount(labels).tolist()


@pytest.fixture(scope="module")
def cifar_train(data_root: Path) -> Images:
    skip_without("cifar10", data_root)
    return cifar10(train=True, root=data_root)


@pytest.fixture(scope="module")
def cifar_test(data_root: Path) -> Images:
    skip_without("cifar10", data_root)
    return cifar10(train=False, root=data_root)


def channel_first_sha256(images: Images) -> str:
    return hashlib.sha256(images.pixels.transpose(0, 3, 1, 2).tobytes()).hexdigest()


def test_cifar10_is_the_known_array_with_the_published_channel_means(
    cifar_train: Images, cifar_test: Images, data_root: Path
) -> None:
    assert cifar_train.pixels.shape == (50_000, 32, 32, 3)
    assert counts(cifar_train.labels) == [5000] * 10
    assert counts(cifar_test.labels) == [1000] * 10
    flat = cifar_train.pixels.reshape(-1, 3)
    histograms = [np.bincount(flat[:, c], minlength=256) / len(flat) for c in range(3)]
    levels = np.arange(256) / 255
    means = [histogram @ levels for histogram in histograms]
    stds = [
        np.sqrt(histogram @ (levels - mean) ** 2)
        for histogram, mean in zip(histograms, means, strict=True)
    ]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert stds == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)
    if not (
        find("cifar10", data_root) / "cifar-10-batches-py"
    ).exists():  # sheets: 111 are not exact
        assert channel_first_sha256(cifar_train).startswith("611be721d3c9ace683b4b7fd91b135f8")
        assert channel_first_sha256(cifar_test).startswith("0f4be6232c5306e72c4d2207043d917b")
        assert len(cifar10_exact(True, data_root)) == 50_000 - 86
        assert len(cifar10_exact(False, data_root)) == 10_000 - 25


def official_batch(images: Images) -> dict[bytes, Any]:
    rows = np.ascontiguousarray(images.pixels.transpose(0, 3, 1, 2)).reshape(-1, 3072)
    return {b"data": rows, b"labels": images.labels.tolist(), b"batch_label": b"testing batch"}


def test_official_batches_give_the_same_images_as_the_sheets(
    cifar_test: Images, tmp_path: Path
) -> None:
    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    with (folder / "test_batch").open("wb") as stream:
        pickle.dump(official_batch(cifar_test), stream, protocol=4)
    read = cifar10(train=False, root=tmp_path)
    assert (read.pixels == cifar_test.pixels).all()
    assert (read.labels == cifar_test.labels).all()
    assert read.pixels.flags.c_contiguous
    assert (cifar10_exact(False, tmp_path) == np.arange(10_000)).all()


def test_cifar100_has_the_fine_classes_of_the_official_files(tmp_path: Path) -> None:
    folder = tmp_path / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    rows = np.zeros((10_000, 3072), np.uint8)
    rows[7, 1024] = 5  # the first green pixel
    labels = [row % 100 for row in range(10_000)]
    names = {b"fine_label_names": [f"class {label}".encode() for label in range(100)]}
    test = {b"data": rows, b"fine_labels": labels, b"coarse_labels": [0] * 10_000}
    for name, contents in (("meta", names), ("test", test), ("train", test), ("other", names)):
        with (folder / name).open("wb") as stream:
            pickle.dump(contents, stream, protocol=4)
    read = cifar100(train=False, root=tmp_path)
    assert read.pixels.shape == (10_000, 32, 32, 3)
    assert read.pixels[7, 0, 0].tolist() == [0, 5, 0]
    assert read.labels[:3].tolist() == [0, 1, 2]
    assert read.class_names[99] == "class 99"
    with pytest.raises(InputError, match=r"train: data \(10000, 3072\).*expected \(50000, 3072\)"):
        cifar100(train=True, root=tmp_path)
    (folder / "test").write_bytes((folder / "other").read_bytes())
    with pytest.raises(InputError, match="test: no data, fine_labels"):
        cifar100(train=False, root=tmp_path)


class Attack:
    """Unpickled by pickle itself, this runs a command."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_a_batch_that_would_run_code_is_refused_and_runs_none(tmp_path: Path) -> None:
    trace = tmp_path / "it_ran"
    path = tmp_path / "test_batch"
    path.write_bytes(pickle.dumps({b"data": Attack(trace)}))
    with pytest.raises(InputError, match=r"test_batch: .*mkdir is refused; only NumPy arrays"):
        read_batch(path, b"labels", 10_000, 10)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # noqa: S301 - the attack is real
    assert trace.exists()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (pickle.dumps([1]), "holds a list; expected a dict"),
        (pickle.dumps({b"data": 1}), "test_batch: no labels"),
        (pickle.dumps({b"data": [[1]], b"labels": [0]}), r"data \(1, 1\) int64 .*expected \(10000"),
        (b"", "cannot be read"),
        (b"PNG and not a pickle", "test_batch"),
    ],
)
def test_a_malformed_batch_is_named(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "test_batch"
    path.write_bytes(contents)
    with pytest.raises(InputError, match=message):
        read_batch(path, b"labels", 10_000, 10)


def test_a_sheet_of_another_size_is_refused(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "test_batch.png"
    Image.new("RGB", (320, 320)).save(path)
    with pytest.raises(InputError, match=r"test_batch.png: pixels \(320, 320, 3\).*\(3200, 3200"):
        read_sheet(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"test_batch.png: cannot be read"):
        read_sheet(path)


def test_mnist_has_the_published_counts_mean_and_deviation(data_root: Path) -> None:
    skip_without("mnist", data_root)
    train, test = mnist(True, data_root), mnist(False, data_root)
    assert train.pixels.shape == (60_000, 28, 28)
    assert counts(train.labels) == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert counts(test.labels) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.pixels.mean() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert train.pixels.std() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_fashion_mnist_is_balanced_with_the_published_mean(data_root: Path) -> None:
    skip_without("fashion_mnist", data_root)
    train, test = fashion_mnist(True, data_root), fashion_mnist(False, data_root)
    assert counts(train.labels) == [6000] * 10
    assert counts(test.labels) == [1000] * 10
    assert train.pixels.mean() / 255 == pytest.approx(0.2860, abs=5e-5)
    assert train.class_names[train.labels[0]] == "Ankle boot"


def test_digits_are_sklearns_and_loaded_arrays_cannot_be_changed() -> None:
    images = digits()
    assert images.pixels.shape == (1797, 8, 8)
    assert images.pixels.max() == 16
    assert counts(images.labels) == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    with pytest.raises(ValueError, match="read-only"):
        images.pixels[0, 0, 0] = 1
    few = images.take(np.array([5, 2]))
    assert few.labels.tolist() == images.labels[[5, 2]].tolist()
    assert (few.pixels[1] == images.pixels[2]).all()


def idx(magic: int, *sizes: int, values: int) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + bytes(range(values))


def test_idx_values_are_in_row_major_order(tmp_path: Path) -> None:
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(idx(0x803, 2, 3, 4, values=24))
    assert (read_idx(path, 3) == np.arange(24).reshape(2, 3, 4)).all()


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (idx(0x801, 24, values=24), "starts with 0x00000801; expected 0x00000803"),
        (idx(0x803, 2, 3, 4, values=23), r"23 values; expected 24 for \(2, 3, 4\)"),
        (idx(0x803, 2, 3, 4, values=25), "25 values; expected 24"),
        (idx(0x803, 2, values=0), "8 bytes; expected a header of 16"),
        (b"", "starts with 0x;"),
    ],
)
def test_a_malformed_idx_file_is_named(tmp_path: Path, contents: bytes, message: str) -> None:
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(contents))
    with pytest.raises(InputError, match=rf"images-idx3-ubyte\.gz: {message}"):
        read_idx(path, 3)


def small_mnist(root: Path, images: int, labels: bytes) -> None:
    folder = root / "mnist"
    folder.mkdir()
    pixels = idx(0x803, images, 2, 2, values=4 * images)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(pixels))
    packed = struct.pack(">2I", 0x801, len(labels)) + labels
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(packed))


def test_labels_must_be_as_many_as_images_and_classes_that_exist(tmp_path: Path) -> None:
    for name, labels, message in (
        ("few", b"\1", "1 labels for 2 images"),
        ("high", b"\1\12", "label 10; allowed 0 to 9"),
    ):
        (tmp_path / name).mkdir()
        small_mnist(tmp_path / name, 2, labels)
        with pytest.raises(InputError, match=rf"train-labels-idx1-ubyte\.gz: {message}"):
            mnist(root=tmp_path / name)


def test_a_cut_or_absent_archive_is_named(tmp_path: Path) -> None:
    small_mnist(tmp_path, 2, b"\1\2")
    assert mnist(root=tmp_path).labels.tolist() == [1, 2]
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        mnist(root=tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz: no such file"):
        mnist(root=tmp_path)


def test_omniglot_union_holds_each_character_twenty_times(data_root: Path) -> None:
    skip_without("omniglot_small", data_root)
    drawings = omniglot_small(data_root)
    assert drawings.ink.shape == (4840, 105, 105)
    assert counts(drawings.labels) == [20] * 242
    assert counts(drawings.drawers) == [242] * 20
    assert Counter(drawings.alphabets) == {
        "Balinese": 24,
        "Early_Aramaic": 22,
        "Greek": 24,
        "Japanese_(katakana)": 47,
        "Korean": 40,
        "Latin": 26,
        "Sanskrit": 42,
        "Tagalog": 17,
    }
    assert 0.02 < drawings.ink.mean() < 0.2  # thin strokes: ink is not the paper


def test_omniglot_one_shot_runs_pair_each_item_with_a_class(data_root: Path) -> None:
    skip_without("omniglot_small", data_root)
    runs = omniglot_one_shot(data_root)
    assert len(runs) == 20
    for run in runs:
        assert run.train.shape == run.test.shape == (20, 105, 105)
        assert sorted(run.answers) == list(range(20))
    assert runs[0].answers[:4].tolist() == [7, 8, 1, 18]


def test_a_zip_without_a_run_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "omniglot_small"
    folder.mkdir()
    with zipfile.ZipFile(folder / "all_runs.zip", "w") as archive:
        archive.writestr("run01/readme", "")
    with pytest.raises(InputError, match=r"all_runs\.zip: has no entry .*run01/class_labels"):
        omniglot_one_shot(tmp_path)


def test_office_caltech_has_the_published_sizes(data_root: Path) -> None:
    skip_without("office_caltech10_surf", data_root)
    domains = {name: office_caltech10_surf(name, data_root) for name in DOMAINS}
    assert counts(domains["amazon"].labels) == [92, 82, 94, 99, 100, 100, 99, 100, 94, 98]
    assert counts(domains["Caltech10"].labels) == [151, 110, 100, 138, 85, 128, 133, 94, 87, 97]
    assert counts(domains["webcam"].labels) == [29, 21, 31, 27, 27, 30, 43, 30, 27, 30]
    assert counts(domains["dslr"].labels) == [12, 21, 12, 13, 10, 24, 22, 12, 8, 23]
    with pytest.raises(InputError, match="no domain 'caltech'; allowed: amazon, Caltech10"):
        office_caltech10_surf("caltech", data_root)


def test_office_class_names_are_those_in_the_image_names(data_root: Path) -> None:
    skip_without("office_caltech10_surf", data_root)
    import scipy.io

    path = find("office_caltech10_surf", data_root) / "webcam_SURF_L10_imgs.mat"
    names = [str(name[0]) for name in scipy.io.loadmat(path)["imgNames"].ravel()]
    labels = office_caltech10_surf("webcam", data_root).labels
    for name, label in zip(names, labels, strict=True):
        assert name.startswith(f"webcam_{CLASS_NAMES[label]}_")


def test_nearest_neighbour_without_adaptation_scores_as_measured_elsewhere(data_root: Path) -> None:
    skip_without("office_caltech10_surf", data_root)
    from sklearn.neighbors import KNeighborsClassifier

    for source, target, accuracy in (
        ("Caltech10", "amazon", 0.237),
        ("amazon", "Caltech10", 0.260),
        ("webcam", "dslr", 0.592),
    ):
        one, other = (office_caltech10_surf(name, data_root) for name in (source, target))
        nearest = KNeighborsClassifier(1).fit(one.features(), one.labels)
        assert nearest.score(other.features(), other.labels) == pytest.approx(accuracy, abs=5e-4)


def test_a_broken_matlab_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "office_caltech10_surf"
    folder.mkdir()
    (folder / "dslr_SURF_L10.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(InputError, match=r"dslr_SURF_L10\.mat: "):
        office_caltech10_surf("dslr", tmp_path)
