"""Figures of the translator: its architecture, and what its translations attend to."""

from __future__ import annotations

from typing import Any, Final

import matplotlib.pyplot as plt
import numpy as np

from common.results.diagrams import graph
from common.results.figures import FigureWithCaption
from common.results.records import Results
from papers.mmt_how2.targets.rows import Place, name_metric, read_values

#: Where the maps are from.
PLACE: Final = Place("fusions", "systems", "en_pt")


def nmt_figure1(results: Results) -> FigureWithCaption:
    """The translator with the three ways in of the picture, and its sizes."""
    systems = results.first(*PLACE).record.settings["systems"]
    known = results.first_metrics(*PLACE)
    weights = {name: known[name_metric(name, "parameters_count")] for name in systems}
    added = {name: count - weights["text"] for name, count in weights.items()}
    gamma = systems["attention"]["model"]["visual_gamma"]
    figure, ax = plt.subplots(figsize=(9.6, 3.6))
    picture, words = "picture", "source words"
    encoded = "W u, ReLU,\nbatch norm"
    encoder, attention = "bi-LSTM\nencoder", f"Luong attention\n(1 − γ) aₜ + γ aᵥ, γ = {gamma:g}"
    decoder, output = "LSTM decoder", "softmax"
    loss = "transport between words\nand picture, in the loss"
    places = {
        words: (0.0, 1.0),
        encoder: (1.2, 1.0),
        attention: (2.7, 1.0),
        decoder: (4.2, 1.0),
        output: (5.4, 1.0),
        picture: (0.0, 0.0),
        encoded: (1.2, 0.0),
        loss: (5.4, 0.0),
    }
    arrows = [
        (words, encoder),
        (encoder, attention),
        (attention, decoder),
        (decoder, output),
        (picture, encoded),
        (encoded, attention),
        (encoded, decoder),
        (encoded, loss),
        (output, loss),
    ]
    graph(ax, places, arrows)
    sizes = {
        (1.6, 0.6): f"attention modulation\n+{added['attention']:,.0f} weights",
        (3.3, 0.38): f"step-wise fusion\n+{added['step_wise']:,.0f} weights",
        (3.3, -0.12): f"regulariser, +{added['regularizer']:,.0f} weights",
    }
    for (x, y), text in sizes.items():
        ax.text(x, y, text, fontsize="x-small", style="italic", ha="center")
    return FigureWithCaption(
        figure,
        "The translator and the three ways in of the picture, each used alone: its vector joins the"
        " decoder's input at every step, or scores the source's states for a second attention, or"
        f" is compared with the words in the loss. Text alone has"
        f" {weights['text']:,.0f} weights at this scale.",
        "Boxes of encoder, attention, decoder and output in a row; below them the encoded picture"
        " with arrows to attention, decoder and loss.",
    )


def nmt_figure3(results: Results) -> FigureWithCaption:
    """Attention of the longest sentence's translation."""
    return draw_attention_maps(results, "long", "longest")


def nmt_figure4(results: Results) -> FigureWithCaption:
    """Attention of the shortest sentence's translation."""
    return draw_attention_maps(results, "short", "shortest")


def draw_attention_maps(results: Results, which: str, name: str) -> FigureWithCaption:
    """Heat maps of the text's and the picture's attention."""
    stored = results.first(*PLACE)
    maps = stored.read_json("attention.json")["attention"]
    found: dict[str, Any] = maps[which]
    text, visual = np.array(found["text"]), np.array(found["visual"])
    height = 1.2 + 0.22 * len(found["target"])
    figure, axes = plt.subplots(1, 2, figsize=(9.6, max(2.6, height)), sharey=True)
    # The picture's distribution is one for the sentence; it stands at every step, as in the paper.
    for ax, weights, title in (
        (axes[0], text, "text"),
        (axes[1], np.tile(visual, (len(text), 1)), "picture"),
    ):
        image = ax.imshow(weights, vmin=0, vmax=1, cmap="Greys", aspect="auto")
        ax.set_xticks(range(len(found["source"])), found["source"], rotation=60, ha="right")
        ax.grid(visible=False)
        ax.set_title(f"attention by the {title}", fontsize="medium")
    axes[0].set_yticks(range(len(found["target"])), found["target"])
    figure.colorbar(image, ax=axes, shrink=0.8, label="weight")
    known = {
        key: read_values(results, PLACE, key, "attention").mean()
        for key in ("visual_largest_weight", "visual_entropy_nats", "text_entropy_nats")
    }
    alike = ""
    if maps["long"] == maps["short"]:
        alike = " All sentences have as many words here: Figures 3 and 4 are of the same one."
    return FigureWithCaption(
        figure,
        f"What the translation (rows) of the {name} of a hundred test sentences attended to."
        " The picture scores the source once for a sentence, so its stripe is upright by"
        " construction; how sharp it is, is a finding: the largest weight is"
        f" {known['visual_largest_weight']:.2f} on average, the entropy"
        f" {known['visual_entropy_nats']:.2f} nats against {known['text_entropy_nats']:.2f} of the"
        f" text's attention.{alike}",
        "Two heat maps: the text's near the diagonal, the picture's one or two dark columns.",
    )


FIGURES: Final = {
    "nmt_figure1": nmt_figure1,
    "nmt_figure3": nmt_figure3,
    "nmt_figure4": nmt_figure4,
}
