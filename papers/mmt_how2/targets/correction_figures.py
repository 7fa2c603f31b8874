"""Drawings of the correction paper, with the sizes of a run."""

from __future__ import annotations

from typing import Final

import matplotlib.pyplot as plt

from common.results.diagrams import graph
from common.results.figures import FigureWithCaption
from common.results.records import Results
from papers.mmt_how2.targets.correction_tables import RECOGNISED

#: The system that is drawn: the one that reads pictures.
DRAWN: Final = "char2word_visual"


def asr_figure2(results: Results) -> FigureWithCaption:
    """The corrector that reads characters and a picture and writes words."""
    run = results.first(*RECOGNISED)
    size = run.read_json("sizes.json")[DRAWN]
    layers = "layer" if size["layers"] == 1 else "layers"
    heard = f"characters heard\n({size['source_types']} types)"
    encoder = f"LSTM both ways\n{size['layers']} {layers} of 2 × {size['encoder_direction']}"
    before = f"word before\n({size['target_types']} types)"
    decoder = f"LSTM\n{size['layers']} {layers} of {size['decoder']}"
    attention = "attention"
    state = f"tanh of both\n{size['decoder']}"
    feature = f"feature of the video\n{size['picture']}"
    encoded = f"linear\n{size['encoded_picture']}"
    joined = f"joined\n{size['decoder']} + {size['encoded_picture']}"
    source = f"embedding of characters\n{size['source_embedding']}"
    target = f"embedding of words\n{size['target_embedding']}"
    places = {
        heard: (0.0, 0.0),
        source: (0.0, 0.9),
        encoder: (0.0, 1.8),
        attention: (0.0, 2.7),
        before: (1.6, 0.0),
        target: (1.6, 0.9),
        decoder: (1.6, 1.8),
        state: (1.6, 2.7),
        feature: (3.2, 0.9),
        encoded: (3.2, 1.8),
        joined: (3.2, 2.7),
        "softmax\nnext word": (4.5, 2.7),
    }
    arrows = [
        (heard, source),
        (source, encoder),
        (encoder, attention),
        (before, target),
        (target, decoder),
        (decoder, attention),
        (attention, state),
        (decoder, state),
        (state, joined),
        (feature, encoded),
        (encoded, joined),
        (joined, "softmax\nnext word"),
    ]
    figure, ax = plt.subplots(figsize=(8.2, 4.4))
    graph(ax, places, arrows)
    return FigureWithCaption(
        figure,
        "The corrector, with the sizes of this run. The picture is joined to what the softmax"
        " reads, so it adds one vector to the logits of all words of a sentence: it can prefer"
        " words, and cannot say where. The state is also fed to the next step's LSTM (not drawn).",
        "Boxes: characters through an embedding and a two-way LSTM to attention; words through an"
        " embedding and an LSTM to a state; the state joined with the video's feature; a softmax.",
    )


def asr_figure3(results: Results) -> FigureWithCaption:
    """The joint embedding of pictures and transcripts, and what is made of it."""
    run = results.first(*RECOGNISED)
    picture = run.read_json("sizes.json")[DRAWN]["picture"]
    rescoring = run.record.settings["rescoring"]
    joint = rescoring["joint"]
    feature = f"feature of the video\n{picture}"
    of_picture = f"linear to norm 1:\npicture, {joint['width']}"
    words = f"words of a transcript\nembedding {joint['word_embedding']}"
    gru = f"GRU\n{joint['hidden']}"
    of_text = f"linear to norm 1:\ntext, {joint['width']}"
    loss = f"hinge on cosines\nmargin {joint['margin']:g}, both ways"
    near = f"{rescoring['neighbours']} nearest\ntranscripts"
    places = {
        feature: (0.0, 1.0),
        of_picture: (2.9, 1.0),
        words: (0.0, 0.0),
        gru: (1.6, 0.0),
        of_text: (2.9, 0.0),
        loss: (2.9, 0.5),
        near: (4.4, 0.5),
        "words likely\nwith the picture": (5.9, 0.5),
    }
    arrows = [
        (feature, of_picture),
        (words, gru),
        (gru, of_text),
        (of_picture, loss),
        (of_text, loss),
        (of_picture, near),
        (of_text, near),
        (near, "words likely\nwith the picture"),
    ]
    figure, ax = plt.subplots(figsize=(9.2, 3.2))
    graph(ax, places, arrows)
    return FigureWithCaption(
        figure,
        "The joint embedding, with the sizes of this run. In training a picture and its transcript"
        " are drawn together, others of the batch apart. Then the nearest training transcripts of a"
        " picture say how likely each word is beside it.",
        "Boxes: the video's feature through a linear layer and a transcript through a GRU and a"
        " linear layer meet in a hinge loss; from both, nearest transcripts and likely words.",
    )


FIGURES: Final = {"asr_figure2": asr_figure2, "asr_figure3": asr_figure3}
