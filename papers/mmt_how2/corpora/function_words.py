"""English function words: the closed classes, which no picture shows, and their contractions."""

from __future__ import annotations

from typing import Final

_CLASSES: Final = {
    "articles and demonstratives": "a an the this that these those",
    "pronouns": (
        "i you he she it we they me him her us them my your his its our their mine yours hers ours"
        " theirs myself yourself himself herself itself ourselves themselves who what which whose"
        " something anything nothing everything someone anyone everyone"
    ),
    "prepositions": (
        "in on at to of for from with by about as into onto over under up down out off through"
        " between around before after against without within along across behind"
    ),
    "conjunctions": "and or but so if because than then while when where how why whether cause",
    "auxiliaries": (
        "is are was were be been being am do does did done have has had having can could will would"
        " shall should may might must"
    ),
    "others": "not no there here just also too very some any all both each",
}
_CONTRACTED: Final = ("'s", "'re", "'m", "'ll", "'ve", "'d")

FUNCTION_WORDS: Final = frozenset(" ".join(_CLASSES.values()).split())


def is_function_word(word: str) -> bool:
    """Whether a lower-case word is one, or a contraction that begins with one (``you're``)."""
    if word in FUNCTION_WORDS or word.endswith("n't"):
        return True
    stem, apostrophe, rest = word.partition("'")
    return bool(apostrophe) and stem in FUNCTION_WORDS and f"'{rest}" in _CONTRACTED
