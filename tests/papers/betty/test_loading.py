"""Facts of loading: a program loads the methods that it uses, and no others."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import papers.betty
from common import ROOT
from papers.betty import hypergradient

#: Runs programs one after the other and says what each has loaded beyond what was there.
SCRIPT = """
import json, sys
import torch
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem

def here():
    return {name.removeprefix("papers.betty.") for name in sys.modules if "papers.betty." in name}

def ran(kind):
    before, modules = here(), [torch.nn.Linear(2, 1) for _ in range(2)]
    if kind == "itd":
        from papers.betty import IterativeProblem as base
    else:
        base = ImplicitProblem

    class Lower(base):
        def training_step(self, batch):
            return (self(batch) * self.upper(batch)).square().sum()

    class Upper(ImplicitProblem):
        def training_step(self, batch):
            return self.lower(batch).sum()

    config = Config(kind, unroll_steps=2)
    problems = [
        cls(name, config, net, torch.optim.Adam(net.parameters()), None, [torch.ones(2)])
        for cls, name, net in zip((Lower, Upper), ("lower", "upper"), modules)
    ]
    edges = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}
    Engine(problems, EngineConfig(train_iters=2, strategy="cpu"), edges).run()
    return sorted(here() - before)

kinds = "cg", "neumann", "darts", "sama", "itd"
print(json.dumps([sorted(here()), {kind: ran(kind) for kind in kinds}]))
"""
#: Of an optimiser's rules that of Adam alone.
ADAPTATION = ["adam", "clipping", "quotient", "record", "recorder", "registry", "shares", "step"]
OWN = {
    "cg": ["hypergradient.conjugate_gradient", "hypergradient.implicit"],
    "neumann": ["hypergradient.neumann"],
    "darts": [f"hypergradient.{name}" for name in ("finite_difference", "shards", "shift")],
    "sama": [
        "hypergradient.adaptation",
        *(f"hypergradient.adaptation.{name}" for name in ADAPTATION),
        "hypergradient.sama",
    ],
    "itd": [
        "hypergradient.unrolled",
        "problems.iterative_problem",
        "problems.unrolled_optimizer",
    ],
}
SELDOM = {"distribution.data_shares", "early_stopping", "envs", "benchmarks"}


def test_a_method_is_loaded_by_the_program_that_uses_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    at_first, by_kind = json.loads(done.stdout)
    # The first program to read a loader without a state brings what counts its batches.
    by_kind["cg"].remove("problems.loader_epoch")
    assert not set(at_first) & {*SELDOM, *(name for names in OWN.values() for name in names)}
    assert by_kind == OWN


@pytest.mark.parametrize("name", papers.betty.__all__)
def test_public_names_are_there(name: str) -> None:
    # The published package has this one for recording by another library.
    own = name.removeprefix("Higher")
    assert getattr(papers.betty, name).__name__ == own


def test_methods_are_attributes_of_their_package_by_name() -> None:
    for name, method in hypergradient.METHODS.items():
        assert getattr(hypergradient, name) is method
        assert method.__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'newton'"):
        hypergradient.newton  # noqa: B018
