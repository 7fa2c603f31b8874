"""The language task of the counterfactual experiments: a corpus, a model, how it is trained."""

from __future__ import annotations

from torch import Tensor, nn

from common.experiments.settings import Settings
from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from common.training.local_gpu import Device
from papers.logra.curvature.tensor_files import digest_tensors
from papers.logra.tasks.classifier_training import TrainingSettings, train
from papers.logra.tasks.corpora import CorpusSettings, load_corpus
from papers.logra.tasks.devices import take_device
from papers.logra.tasks.language_models import LanguageModelSettings


class LanguageTaskSettings(Settings):
    """Corpus, model, training, and where."""

    corpus: CorpusSettings
    network: LanguageModelSettings
    training: TrainingSettings
    device: Device = "auto"


class LanguageTask:
    """The corpus on its device, and models trained on parts of it."""

    def __init__(self, settings: LanguageTaskSettings, run: Run) -> None:
        self.settings, self.run = settings, run
        self.device = take_device(settings.device, run)
        settings.network.note(run)
        corpus = load_corpus(settings.corpus, run)
        self.corpus = corpus._replace(
            train=corpus.train.to(self.device), queries=corpus.queries.to(self.device)
        )

    def model(self, seed: int, places: Tensor | None = None) -> nn.Module:
        """Trained on the sequences at ``places`` (m,), by default on all.

        Raises: InputError if they fill no batch.
        """
        samples, called = self.corpus.train, f"training-{seed}"
        if places is not None:
            called += f"-{digest_tensors({'places': places})[:16]}"
            samples = samples.take(places.to(self.device))
        settings = self.settings
        network = settings.network.build(self.corpus.vocabulary, settings.corpus.length, seed)
        return train(network, samples, settings.training, seed, Checkpoint(self.run, called))
