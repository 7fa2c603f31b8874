"""Importing fairseq into this process, at a third of what the plain import costs."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Final

import torch

#: Modules of fairseq that nothing here uses and that alone load scikit-learn, pandas and scipy:
#: 1.6 of the 2.3 CPU seconds of ``import fairseq``.
UNUSED: Final = (
    "fairseq.criterions.sentence_prediction",
    "fairseq.criterions.sentence_prediction_adapters",
    "fairseq.tasks.audio_classification",
)


def start_fairseq() -> None:
    """Load fairseq and the plugin; quiet but for warnings. Does nothing the second time.

    fairseq imports every module below its ``tasks`` and ``criterions``. Those of :data:`UNUSED`
    are held by empty stand-ins for that time; the installed package stays as it is.
    """
    if "papers.mmt_how2.fairseq_plugin" in sys.modules:
        return
    stand_ins = {} if "fairseq" in sys.modules else {name: ModuleType(name) for name in UNUSED}
    sys.modules.update(stand_ins)
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    try:
        with old_calls():
            import fairseq  # noqa: F401

            import papers.mmt_how2.fairseq_plugin  # noqa: F401
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)
    spare_the_compiler()


def spare_the_compiler() -> None:
    """Keep torch's optimisers from loading torch's compiler, 1.1 CPU seconds of every process.

    They load it when first called, to tell it to leave them alone. The wrappers remember having
    done so in this attribute; where a torch has none of it, the compiler is loaded as before.
    """
    for method in vars(torch.optim.Optimizer).values():
        inner = getattr(method, "__wrapped__", None)
        if inner is not None and "torch._dynamo" not in sys.modules:
            inner.__dict__.setdefault("__dynamo_disable", inner)


@contextmanager
def old_calls() -> Iterator[None]:
    """Warnings of torch and hydra are hidden: fairseq still uses what they have replaced."""
    with warnings.catch_warnings():
        for kind in (UserWarning, FutureWarning, DeprecationWarning):
            warnings.simplefilter("ignore", kind)
        yield
