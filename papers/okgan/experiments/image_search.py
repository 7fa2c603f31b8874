"""A search of every method's settings on images, which ``images`` is run with on other seeds."""

from __future__ import annotations

from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.batches import Batches
from common.training import Core
from papers.okgan.experiments.images import ImagesSettings, load_judged, make_training
from papers.okgan.experiments.plane import endless
from papers.okgan.methods.looks import Looks
from papers.okgan.methods.searching import Tried, candidates, try_all
from papers.okgan.tasks.images import in_floats


class ImageSearchSettings(ImagesSettings, Tried):
    """As of images, and the values that are tried, each with each."""

    chosen_by: str = "frechet"


def run_image_search(settings: ImageSearchSettings, run: Run) -> dict[str, float]:
    """Train each candidate; return what each came to, and the values of the lowest."""
    core = Core(settings.core, run)
    tried = candidates(settings, ImagesSettings)
    images, judge = load_judged(settings, run)

    def train(candidate: ImagesSettings) -> Looks:
        training, before = make_training(candidate, images.shape, core.device, run.seed)
        looks = Looks(lambda samples: judge(samples.cpu()), settings.judged)
        real = endless(Batches(images.train, size=settings.core.global_batch_size, seed=run.seed))
        looks.train(
            training,
            settings.iterations,
            settings.judge_every,
            lambda: in_floats(next(real).to(core.device)),
            before,
        )
        return looks

    return try_all(settings, tried, core, run, train)


PROGRAM = Program(ImageSearchSettings, run_image_search)
