"""The paper's lists of most valuable texts, as texts side by side."""

from __future__ import annotations

from typing import Any, Final

from common.results.listings import Entry, Listing, Ranking, Text
from common.results.records import Results

#: Methods whose lists stand beside each other: in the records, heading.
RANKINGS: Final = {"influence": "influence", "relatif": "l-RelatIF"}


def listing_examples(results: Results) -> Listing:
    """Queries with the training texts that they owe most to, by influence and by l-RelatIF."""
    # One model's lists, the first seed's: another model's would be read as more of the same.
    kept = [
        results.first("retrieval", arm, case).read_json("examples.json")
        for case, arm in results.paper.experiments["retrieval"].runs(results.scale)
    ]
    return Listing(
        entries=[entry(query) for examples in kept for query in examples],
        caption=(
            "What a query owes most to, the first five training texts: by influence (LoGra) and by"
            " l-RelatIF, which divides the size of a training text's gradient out. Marked are words"
            " that query and text share, unless more than a quarter of all texts have them."
        ),
        notes=[
            "Queries are the first ones of the corpus, and as many whose list l-RelatIF changes"
            " most. Lists are those of the first seed's model.",
            "Generated words begin with the syllable of their topic, words of all topics with a"
            " vowel; every twentieth text is mixed of all topics. Large gradient: among the 2 % of"
            " training texts with the longest.",
        ],
    )


def entry(query: dict[str, Any]) -> Entry:
    """A query of ``examples.json`` with its lists."""
    ranks = {
        name: {text["place"]: rank for rank, text in enumerate(query["lists"][name], start=1)}
        for name in RANKINGS
    }
    rankings = []
    for (name, method), other in zip(RANKINGS.items(), reversed(RANKINGS), strict=True):
        texts = []
        for text in query["lists"][name]:
            own, elsewhere = ranks[name][text["place"]], ranks[other].get(text["place"])
            moved = f"{elsewhere} by {RANKINGS[other]}" if elsewhere else "only here"
            texts.append(described(text, [] if own == elsewhere else [moved]))
        rankings.append(Ranking(method=f"By {method}", texts=texts))
    chosen = ["chosen for its change"] if query["changed"] else []
    seen = {text.words[place] for made in rankings for text in made.texts for place in text.marked}
    shared = [place for place, word in enumerate(query["words"]) if word in seen]
    return Entry(query=described(query | {"shared": shared}, chosen), rankings=rankings)


def described(text: dict[str, Any], tags: list[str]) -> Text:
    """A query or a text of ``examples.json``."""
    topic = text["topic"]
    return Text(
        words=text["words"],
        marked=text["shared"],
        label=f"topic {topic}" if topic not in ("", "mixed") else topic,
        tags=tags,
        warnings=["large gradient"] if text.get("outlier") else [],
        score=text.get("score"),
    )


LISTINGS = {"listing_examples": listing_examples}
