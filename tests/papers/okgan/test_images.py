"""Facts of the experiments on images: sets, networks, what judges them, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from common.data.images import digits
from common.errors import InputError
from common.runs.record import DataIdentity
from papers.okgan import Discriminator
from papers.okgan.divergence import DivergedError
from papers.okgan.experiments import images as images_program
from papers.okgan.experiments.images import as_bytes, image_judge, make_training
from papers.okgan.methods.images import ImageNetworks
from papers.okgan.metrics.images import image_distances
from papers.okgan.tasks import images as images_task
from papers.okgan.tasks.image_networks import ConvShape, Reader, conv_encoder, conv_generator
from papers.okgan.tasks.images import (
    SIDES,
    ImageSet,
    in_floats,
    load_images,
    poisson_shares,
    resized,
    spelled,
    strips,
)
from tests.common.data.example_colours import example_celeba, example_svhn
from tests.papers.pages import run as run_page
from tests.papers.runs import PaperRuns

RUNS = PaperRuns("okgan")


@pytest.fixture(scope="module")
def fidelity() -> None:
    """The package that measures; loading it takes seconds."""
    pytest.importorskip("torch_fidelity")


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


@pytest.mark.usefixtures("fidelity")
class TestDistances:
    def test_the_frechet_distance_is_its_closed_form(self) -> None:
        """Of N(0, 1) and N(m, s^2) in d dimensions: ``d m^2 + d (1 - s)^2``."""
        x = normal(4000, 3)
        found = image_distances(2 * x + 1, x)
        # Of the samples' own moments it is exact.
        mean, std = x.mean(0), np.linalg.eigvalsh(np.cov(x.numpy(), rowvar=False))
        wanted = float((mean + 1).square().sum()) + float(std.sum())
        assert found["frechet"] == pytest.approx(wanted, rel=1e-6)

    def test_alike_sets_are_near_and_others_far(self) -> None:
        real = normal(600, 4)
        same, far = image_distances(normal(600, 4, 1), real), image_distances(real + 30, real)
        assert same["frechet"] < 0.1
        assert abs(same["kernel"]) < 0.01
        assert min(same["precision_pct"], same["recall_pct"]) > 80
        assert far["precision_pct"] == far["recall_pct"] == 0
        assert far["kernel"] > 1

    def test_a_single_mode_is_precise_and_recalls_nothing(self) -> None:
        real = torch.cat([normal(200, 2) * 0.1, normal(200, 2, 1) * 0.1 + 5])
        found = image_distances(normal(400, 2, 2) * 0.1, real)
        assert found["precision_pct"] > 80
        assert found["recall_pct"] == pytest.approx(50, abs=10)

    def test_what_cannot_be_measured_is_one_clear_line(self) -> None:
        with pytest.raises(InputError, match="two tables with as many columns"):
            image_distances(normal(9, 2), normal(9, 3))
        with pytest.raises(InputError, match="4 and 9 images; allowed: above 4"):
            image_distances(normal(4, 2), normal(9, 2))
        with pytest.raises(DivergedError, match="generated images are not finite"):
            image_distances(normal(9, 2) / 0, normal(9, 2))


def test_strips_spell_numbers_of_a_poisson_distribution() -> None:
    made, numbers = strips(digits(), 3000, np.random.default_rng(0))
    assert made.shape == (3000, 1, 8, 24)
    assert float(numbers.double().mean()) == pytest.approx(100, abs=1)
    assert float(numbers.double().var()) == pytest.approx(100, rel=0.1)
    # Each third is a digit's own image.
    pairs = zip(digits().pixels, digits().labels, strict=True)
    known = {image.tobytes(): int(label) for image, label in pairs}
    grey = ((made[:50, 0] + 1) * 127.5).round().to(torch.uint8)
    parts = [strip.chunk(3, dim=1) for strip in grey]
    read = [[known[part.contiguous().numpy().tobytes()] for part in strip] for strip in parts]
    assert spelled(torch.tensor(read)).tolist() == numbers[:50].tolist()
    shares = poisson_shares()
    assert len(shares) == 1000
    assert shares.sum() == pytest.approx(1, abs=1e-4)
    assert shares.argmax() in (99, 100)


@pytest.mark.parametrize(
    ("size", "start", "width"), [(8, 4, 6), (32, 4, 4), (64, 4, 2), (32, 2, 2)]
)
def test_convolutions_mirror_each_other(size: int, start: int, width: int) -> None:
    shape = ConvShape(size, start, width)
    made = conv_generator(5, 3, shape)(torch.randn(2, 5))
    assert made.shape == (2, 3, size, size)
    assert made.abs().max() <= 1
    for kernel in (4, 5):
        assert conv_encoder(3, 7, shape, kernel)(made).shape == (2, 7)


def test_the_published_generator_has_its_channels() -> None:
    net = ImageNetworks(form="dcgan", width=128).generator((1, 64, 64))
    convolutions = [part for part in net.modules() if isinstance(part, nn.ConvTranspose2d)]
    assert [part.out_channels for part in convolutions] == [1024, 512, 256, 128, 1]


@pytest.mark.parametrize(
    ("case", "shape", "channels"),
    [
        ("svhn_published", (3, 32, 32), [128, 64, 32, 3]),
        ("celeba_published", (3, 64, 64), [512, 256, 128, 64, 3]),
    ],
)
def test_networks_of_colours_are_the_published_ones(
    case: str, shape: tuple[int, int, int], channels: list[int]
) -> None:
    networks = RUNS.settings("images", "okgan", "paper", case).networks
    net = networks.generator(shape)
    made = [part for part in net.modules() if isinstance(part, nn.ConvTranspose2d)]
    assert [part.out_channels for part in made] == channels
    assert all(part.bias is None for part in made)
    critic = networks.critic(shape, networks.codes)
    read = [part for part in critic.modules() if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in read] == [*channels[-2::-1], 100]
    assert critic(net(torch.randn(2, networks.noise))).shape == (2, 100)


@pytest.mark.parametrize("case", ["digits", "digits_codes"])
def test_at_a_seed_every_method_starts_from_the_same_generator(case: str) -> None:
    first: dict[str, torch.Tensor] = {}
    for arm in ("okgan", "gan", "gmmn"):
        torch.manual_seed(3)
        settings = RUNS.settings("images", arm, "laptop", case)
        training, _ = make_training(settings, (1, 8, 8), torch.device("cpu"), 3)
        weights = training.generator.state_dict()
        first = first or weights
        assert all(torch.equal(value, first[name]) for name, value in weights.items()), arm


@pytest.mark.parametrize("name", ["svhn", "celeba"])
def test_sets_of_colours_are_bytes_with_the_classes_of_their_lists(
    name: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = DataIdentity.generated("a few images", 0)
    monkeypatch.setattr(images_task, "identity", lambda *_, **__: generated)
    example_svhn(tmp_path, [10, 3, 7])
    example_svhn(tmp_path, [1], part="test")
    example_celeba(tmp_path)
    settings = RUNS.settings("images", "okgan", "smoke", "digits")
    with RUNS.opened("images", settings, tmp_path) as run:
        images = load_images(name, tmp_path, run)
    assert images.train.dtype == images.test.dtype == torch.uint8
    side = SIDES[name]
    assert images.shape == (3, side, side)
    # Of faces: male counts 1, smiling 2; validation is trained on and test is not.
    assert images.train_labels.tolist() == ([0, 3, 7] if name == "svhn" else [3, 2, 0])
    assert images.test_labels.tolist() == [1]


def test_colours_stay_bytes_until_a_batch_is_made_of_them() -> None:
    pixels = torch.tensor([[0, 255], [51, 204]], dtype=torch.uint8)
    assert in_floats(pixels).flatten().tolist() == pytest.approx([-1, 1, -0.6, 0.6])
    made = torch.rand(3)
    assert in_floats(made) is made


def test_sides_that_do_not_halve_are_refused() -> None:
    with pytest.raises(InputError, match="images of side 28: allowed: 4 times a power of two"):
        ConvShape(28, 4, 8)


def test_a_border_loses_nothing() -> None:
    images = torch.rand(2, 1, 28, 28)
    framed = resized(images, 32)
    assert torch.equal(framed[:, :, 2:-2, 2:-2], images)
    assert resized(images, 64).shape == (2, 1, 64, 64)
    assert as_bytes(framed)[:, 0].max() == 0


def test_a_reader_reads_parts_and_other_sides() -> None:
    torch.manual_seed(0)
    reader = Reader(1, 8, (4, 6), parts=3)
    images = torch.rand(5, 1, 8, 24)
    features, classes = reader.read(images)
    assert features.shape == (5, 18)
    assert classes.shape == (5, 3)
    for place in range(3):
        part = images[..., 8 * place : 8 * place + 8]
        assert torch.equal(reader(part).argmax(1), classes[:, place])
    # Doubled pixels are the same image.
    doubled = images.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(reader.read(doubled)[0], features, atol=1e-6)


@pytest.mark.usefixtures("fidelity")
def test_a_perfect_generator_is_judged_as_one(tmp_path: Path) -> None:
    settings = RUNS.settings("images", "okgan", "smoke", "digits")
    with RUNS.opened("images", settings, tmp_path) as run:
        images = load_images("digits", None, run)
    assert images.shape == (1, 8, 8)
    assert images.train.min() == -1
    assert images.train.max() == 1
    centres = torch.stack([images.train[images.train_labels == k].mean(0) for k in range(10)])

    class Nearest(Reader):
        """Tells classes by their mean image: nothing is to be trained."""

        def read(self, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            flat = given.flatten(1)
            return flat[:, 20:28], torch.cdist(flat, centres.flatten(1)).argmin(1)[:, None]

    judge = image_judge(images, Nearest(1, 8, (2,)), 500, numbers=False)
    real = judge(images.train[:500])
    assert real["classes"] == 10
    assert real["class_kl"] < 0.05
    assert real["frechet"] < 0.2
    one = judge(images.train[images.train_labels == 3][:100])
    assert one["class_kl"] > 1.5
    assert one["frechet"] > 5 * real["frechet"]


@pytest.mark.usefixtures("fidelity")
@pytest.mark.parametrize("case", ["digits", "digits_codes"])
def test_a_stopped_run_ends_as_one_that_was_not(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reader(*_: Any) -> Reader:
        generator_state = torch.get_rng_state()
        torch.manual_seed(1)
        made = Reader(1, 8, (4, 6))
        torch.set_rng_state(generator_state)
        return made

    monkeypatch.setattr(images_program, "load_reader", reader)
    core = {"device": "cpu", "global_batch_size": 32, "save_every": 2}
    changes = {"iterations": 5, "judge_every": 3, "judged": 60, "core": core}
    settings = RUNS.settings("images", "okgan", "smoke", case, **changes)
    whole = RUNS.metrics("images", settings, tmp_path / "whole")
    stopped = RUNS.metrics_after_a_stop("images", settings, tmp_path / "stopped", monkeypatch, 1)
    assert stopped == whole


def test_strips_have_one_height(tmp_path: Path) -> None:
    settings = RUNS.settings("images", "okgan", "smoke", "digits")
    with (
        RUNS.opened("images", settings, tmp_path) as run,
        pytest.raises(InputError, match=r"poisson_digits: size=32; allowed: none"),
    ):
        load_images("poisson_digits", None, run, 32)


def test_shapes_of_a_set_are_those_of_its_images() -> None:
    some = torch.zeros(2, 3, 4, 5)
    assert ImageSet(some, torch.zeros(2), some, torch.zeros(2)).shape == (3, 4, 5)


def test_the_page_s_loop_takes_either_critic() -> None:
    names = run_page("docs/okgan/own_loop.md")
    real, noise = names["bars"](32), torch.randn(32, names["noise"])
    with torch.no_grad():
        fake = names["generator"](noise)
    for critic in (names["kernel"], names["network"]):
        assert isinstance(critic, Discriminator)
        assert critic.score(real).shape == (32,)
        assert float(critic.generator_loss(fake, real).detach()) > 0
    kernel = names["kernel"]
    assert float(kernel.score(real).mean()) > float(kernel.score(fake).mean())
    assert kernel.coefficients.abs().min() > 0  # all of the budget is in use
