"""Which objects a text names only to say that they are not there.

The rule is bounded and knows English only. A word that denies (`no`, `not`, `n't`, `without`, `neither`, ...) reaches
the first name after it, at most `REACH` words away and in the same clause, and then only names that are joined to it
by `or`, `nor`, or a list that ends in one of these (`no dogs, cats or birds`). What is definite is not denied:
`not on the couch` speaks of a couch that is there. `no` reaches its own noun only: `no people on a bench` has a bench.
After a name, `is not visible`, `are absent` and the like deny it. Questions and their answers are not understood.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple


def words_in(text: str) -> frozenset[str]:
    """The words of a text, in which spaces divide them."""
    return frozenset(text.split(" "))


REACH = 5
"""How many words after a word that denies the name may come, adjectives and verbs included."""


class Cue(NamedTuple):
    """Words that deny what follows.

    Attributes:
        own_noun: whether they reach their own noun only, and no verb or preposition may come before it.
        definite: whether they deny what is definite, too.
    """

    own_noun: bool
    definite: bool


_NOUN, _VERB, _WITHOUT = Cue(True, False), Cue(False, False), Cue(True, True)
CUES: Mapping[tuple[str, ...], Cue | None] = {
    **{(word,): _NOUN for word in ("no", "zero", "0", "neither")},
    **{(word,): _VERB for word in ("not", "n't", "cannot", "never", "isnt", "arent", "wasnt", "werent", "dont")},
    **{(word,): _VERB for word in ("doesnt", "didnt", "cant", "hasnt", "havent")},
    **{(word,): _WITHOUT for word in ("without", "lacks", "lacking")},
    **{tuple(words.split()): _WITHOUT for words in ("absence of", "lack of", "devoid of", "free of", "rather than")},
    ("instead", "of"): _WITHOUT,
    **{
        ("no", word): None for word in ("longer", "one", "doubt", "matter", "less", "fewer", "more", "sooner", "wonder")
    },
    **{("not", word): None for word in ("only", "just", "merely", "simply", "solely", "far", "to", "less", "fewer")},
    **{tuple(words.split()): None for words in ("without doubt", "without a doubt", "without question", "n't only")},
    **{tuple(words.split()): None for words in ("n't just", "no - one", "not necessarily", "not unlike")},
}
"""Words that deny; None for words that look like them and do not: `no longer`, `not only a dog but a cat`."""
ENDS = words_in(
    ". ; : ! ? ( ) \N{EM DASH} \N{EN DASH} but however although though yet except because while where which who"
) | {"\n"}
DEFINITE = words_in("the this that these those his her its their my our your")
ARTICLES = words_in("a an any single")
STARTS = words_in("a an one two three some several many the there this that it he she they we i") | DEFINITE
"""Words with which a new statement begins after a comma or `and`."""
NOT_OF_NOUN = words_in(
    "on in at near with under behind beside next by from over to into is are was were has have had be can"
)
ENDS_LIST = words_in("on in at near under behind beside here there visible present anywhere around to")
BE = words_in("is are was were be")
SEEN = words_in("visible present there shown seen pictured depicted here")
PICTURE = words_in("image picture photo photograph scene frame")
GONE = words_in("absent missing nowhere")


class Mention(NamedTuple):
    """A name in a text: the tokens `start .. stop - 1`."""

    start: int
    stop: int


def denied(tokens: Sequence[str], mentions: Sequence[Mention]) -> set[int]:
    """The numbers of the mentions that a text denies.

    Args:
        tokens: words and punctuation in small letters; `n't` is a token of its own.
        mentions: in order.
    """
    at = {mention.start: number for number, mention in enumerate(mentions)}
    found = {number for number, mention in enumerate(mentions) if _is_denied_after(tokens, mention.stop)}
    place = 0
    while place < len(tokens):
        width, cue = _cue_at(tokens, place)
        if cue is not None and place not in at:
            found |= _reached(tokens, mentions, at, place + width, cue)
        place += width
    return found


def _cue_at(tokens: Sequence[str], place: int) -> tuple[int, Cue | None]:
    """The longest word or words of `CUES` at a place: how many tokens, and what they deny."""
    for width in (3, 2, 1):
        words = tuple(tokens[place : place + width])
        if words in CUES:
            return width, CUES[words]
    return 1, None


def _reached(
    tokens: Sequence[str], mentions: Sequence[Mention], at: Mapping[int, int], place: int, cue: Cue
) -> set[int]:
    """The mentions that a word reaches which ends in front of `place`."""
    found, steps, linked = set[int](), 0, False
    while place < len(tokens):
        token = tokens[place]
        if place in at:
            if found and not linked:
                break
            found.add(at[place])
            place, linked = mentions[at[place]].stop, False
            continue
        if token in ENDS:
            break
        if token in ("or", "nor", "/"):
            steps, linked = 0, bool(found) or linked
        elif token in (",", "and"):
            is_listed = bool(found) or (steps > 0 and (cue.own_noun or token == ","))
            if not is_listed or not _goes_on(tokens, mentions, at, place):
                break
            steps, linked = 0, True
        elif found and not linked:
            break
        else:
            steps += 1
            is_barred = token in DEFINITE and not cue.definite
            has_noun = cue.own_noun and (token in NOT_OF_NOUN or (steps > 1 and token.endswith("ing")))
            if steps > REACH or is_barred or has_noun:
                break
        place += 1
    return found


def _goes_on(tokens: Sequence[str], mentions: Sequence[Mention], at: Mapping[int, int], place: int) -> bool:
    """Whether a comma, or `and`, after a denied name goes on with names that are denied, too."""
    ends_in_or, start = tokens[place] == ",", place + 1
    if ends_in_or and start < len(tokens) and tokens[start] in ("or", "nor"):
        return True
    words = 0
    while start < len(tokens) and tokens[start] not in ENDS:
        if start in at:
            words, start = 0, mentions[at[start]].stop
            if not ends_in_or:
                return start >= len(tokens) or tokens[start] in ENDS | ENDS_LIST | {",", "and"}
            continue
        if ends_in_or and tokens[start] in ("or", "nor"):
            return True
        words = 0 if tokens[start] == "," else words + 1
        if words > 3 or tokens[start] in STARTS | NOT_OF_NOUN or (tokens[start], ends_in_or) == ("and", True):
            return False
        start += 1
    return False


def _is_denied_after(tokens: Sequence[str], stop: int) -> bool:
    """Whether the words after a name say that it is not there."""
    rest = list(tokens[stop : stop + 6])
    if not rest or rest[0] not in BE:
        return False
    if len(rest) > 1 and rest[1] in GONE:
        return True
    if len(rest) < 3 or rest[1] not in ("not", "n't"):
        return False
    return rest[2] in SEEN or (rest[2] in ("in", "on") and bool(PICTURE.intersection(rest[3:5])))
