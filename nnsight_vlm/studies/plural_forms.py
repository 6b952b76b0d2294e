"""The plurals of English names of objects."""

from __future__ import annotations

IRREGULAR = {
    "person": ("people", "persons"),
    "man": ("men",),
    "woman": ("women",),
    "child": ("children",),
    "mouse": ("mice",),
    "goose": ("geese",),
    "foot": ("feet",),
    "tooth": ("teeth",),
    "ox": ("oxen",),
    "knife": ("knives",),
    "wife": ("wives",),
    "life": ("lives",),
    "calf": ("calves",),
    "half": ("halves",),
    "leaf": ("leaves",),
    "loaf": ("loaves",),
    "shelf": ("shelves",),
    "thief": ("thieves",),
    "wolf": ("wolves",),
    "scarf": ("scarves", "scarfs"),
}
"""Words whose plural follows no rule; also at the end of longer words, as in `policewoman`."""
UNCHANGED = ("sheep", "fish", "deer", "moose", "aircraft", "broccoli", "people", "police", "cattle", "luggage")
"""Words that are their own plural, or have none."""
PAIRS = ("scissors", "skis", "shorts", "pants", "trousers", "glasses", "shears")
"""Words that are written as a plural of one thing, too."""
SHORT = ("man", "ox", "life", "half", "wife")
"""Irregular words that others end in by chance (`human`, `box`), so that only some compounds follow them."""
MEN = ("woman", "sman", "eman", "rman", "wman", "kman", "dman")
"""How compounds with `man` end: `sportsman`, `policeman`, `fisherman`, `snowman`, `milkman`, `huntsman`."""


def plurals(phrase: str) -> tuple[str, ...]:
    """What several of these are called; of `glass of wine` the first noun is the one that changes.

    >>> plurals("knife"), plurals("bus"), plurals("teddy bear"), plurals("glass of wine")
    (('knives',), ('buses',), ('teddy bears',), ('glasses of wine',))
    """
    head, of, rest = phrase.partition(" of ")
    before, space, noun = head.rpartition(" ")
    return tuple(f"{before}{space}{each}{of}{rest}" for each in _plurals_of_word(noun))


def is_plural(phrase: str) -> bool:
    """Whether a phrase that a user lists is a plural already, such as `people`."""
    noun = phrase.partition(" of ")[0].rpartition(" ")[2]
    known = {each for forms in IRREGULAR.values() for each in forms} | {"police", "cattle"}
    return noun in known


def _plurals_of_word(word: str) -> tuple[str, ...]:
    if word in UNCHANGED or word in PAIRS or is_plural(word):
        return (word,)
    for single, several in IRREGULAR.items():
        follows = word == single or (len(single) > 2 and single not in SHORT and word.endswith(single))
        if follows or (single == "man" and word.endswith(MEN)):
            return tuple(word.removesuffix(single) + each for each in several)
    if word.endswith("y") and word[-2:-1] not in ("", *"aeiou"):
        return (word[:-1] + "ies",)
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return (word + "es",)
    return (word + "s", word + "es") if word.endswith("o") else (word + "s",)
