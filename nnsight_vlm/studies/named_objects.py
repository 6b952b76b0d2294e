"""The objects of a list that a free text names: synonyms, plurals, what it denies, how many.

Longer names are found first, and what they cover names nothing else: a `hot dog` is no dog. English is what plurals,
denials and amounts are known of (`plural_forms`, `denials`, `amounts`); names themselves may be in any script.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import regex

from ..arguments import flag, listed, refuse
from ..arguments import text as text_given
from ..errors import SpecError
from .amounts import amount_at
from .denials import Mention, denied, words_in
from .plural_forms import PAIRS, UNCHANGED, is_plural, plurals

WRITE = 'object_names({"dog": ["puppy", "hound"], "cat": []}), or object_names(["dog", "cat"])'
COLORS = ("orange",)
"""Names of objects that are colours, too: where another noun follows directly (`an orange shirt`) they name none."""
AFTER_A_NOUN = words_in(
    "and or on in at with near next under behind beside by from over to into of is are was were has have had "
    "that which who sits sit sitting lies lie lying stands stand standing hangs hanging slice slices piece "
    "pieces juice peel tree as for can not no nor but while there here"
)
"""Words that follow a noun, so that what stands before them is one."""
_TOKENS = regex.compile(
    r"""n['\u2019]t\b | ['\u2019]s\b | \n
      | [\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{Line_Break=SA}]          # scripts without spaces: one by one
      | (?:(?!n['\u2019]t\b)[[\p{L}\p{M}\p{N}]--[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{Line_Break=SA}]])+
      | [^\s]""",
    regex.VERBOSE | regex.VERSION1,
)


class _Form(NamedTuple):
    """One way to write a name.

    Attributes:
        name: None for words that name nothing, but hold a name.
        plural: whether it is a plural.
        pair: whether one object is called so although the word is a plural.
    """

    name: str | None
    plural: bool = False
    pair: bool = False


class Named(NamedTuple):
    """One mention of an object in a text.

    Attributes:
        name: the object's name in the list.
        words: how the text calls it, in small letters.
        number: how many objects it stands for.
        is_new: whether they come on top of those named before.
        denied: whether the text says that it is not there.
    """

    name: str
    words: str
    number: int
    is_new: bool
    denied: bool


@dataclass(frozen=True)
class ObjectNames:
    """The objects of a list that a text names, in the order of the text; made by `object_names`.

    Attributes:
        synonyms: each name, and what else it is called.
        negation: leave out what the text denies.
        counts: name an object as often as the text says that it is there; else once.
        ignored: words that name no object although they hold a name, such as `train station`.
    """

    synonyms: tuple[tuple[str, tuple[str, ...]], ...]
    negation: bool = True
    counts: bool = False
    ignored: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The names, without synonyms."""
        return tuple(name for name, _ in self.synonyms)

    def __call__(self, text: str) -> tuple[str, ...]:
        amounts = dict[str, int]()
        for each in self.mentions(text):
            if not (each.denied and self.negation):
                before = amounts.get(each.name, 0)
                amounts[each.name] = before + each.number if each.is_new else max(before, each.number)
        return tuple(name for name, number in amounts.items() for _ in range(number if self.counts else 1))

    def name_of(self, words: str) -> str | None:
        """The name in the list that words stand for; None where they are not in it.

        >>> object_names({"dog": ["puppy"]}).name_of("Puppies")
        'dog'
        """
        form = _forms_of(self).get(_key(words))
        return None if form is None else form.name

    def mentions(self, text: str) -> list[Named]:
        """Every mention of an object in a text, those that it denies included."""
        tokens = _tokens(text_given("text", text))
        forms = _forms_of(self)
        longest = max(map(len, forms))
        places, found = list[Mention](), list[_Form]()
        start = 0
        while start < len(tokens):
            stop, form = _longest_at(tokens, start, forms, longest)
            if form is not None and form.name is not None and not _is_color(tokens, start, stop):
                places.append(Mention(start, stop))
                found.append(form)
            start = stop
        missing = denied(tokens, places)
        return [
            _named(tokens, place, form, is_denied=number in missing)
            for number, (place, form) in enumerate(zip(places, found, strict=True))
        ]


def _named(tokens: Sequence[str], place: Mention, form: _Form, *, is_denied: bool) -> Named:
    amount = amount_at(tokens, place.start, plural=form.plural, pair=form.pair)
    words = " ".join(tokens[place.start : place.stop])
    return Named(str(form.name), words, amount.number, amount.is_new, is_denied)


def _tokens(text: str) -> list[str]:
    """Words and punctuation in small letters."""
    return [token.replace("\u2019", "'") for token in _TOKENS.findall(unicodedata.normalize("NFC", text).lower())]


def _key(words: str) -> tuple[str, ...]:
    """A name as it is looked up: hyphens are spaces."""
    return tuple(token for token in _tokens(words) if token != "-")


def _longest_at(
    tokens: Sequence[str], start: int, forms: Mapping[tuple[str, ...], _Form], longest: int
) -> tuple[int, _Form | None]:
    """The longest name that begins at a token: where it stops, and what it is; the next token where there is none."""
    if start and tokens[start - 1] == "-" and start > 1 and tokens[start - 2].isalnum():
        return start + 1, None  # the end of a longer word, such as "sea-dog"
    key, best, stop = list[str](), None, start + 1
    for place in range(start, len(tokens)):
        if tokens[place] != "-" or not key:
            key.append(tokens[place])
            joined = tokens[place + 1 : place + 2] == ["-"] and _is_letter(tokens, place + 2)
            if tuple(key) in forms and not joined:
                best, stop = forms[tuple(key)], place + 1
        if len(key) >= longest:
            break
    return stop, best


def _is_letter(tokens: Sequence[str], place: int) -> bool:
    return place < len(tokens) and tokens[place].isalpha()


def _is_color(tokens: Sequence[str], start: int, stop: int) -> bool:
    """Whether a word such as `orange` says of what colour the next thing is."""
    is_color = stop == start + 1 and tokens[start] in COLORS
    return is_color and _is_letter(tokens, stop) and tokens[stop] not in AFTER_A_NOUN


@lru_cache(maxsize=64)
def _forms_of(objects: ObjectNames) -> dict[tuple[str, ...], _Form]:
    """All ways to write the names of a list; what a user lists goes before a plural that is made of it."""
    made, given = dict[tuple[str, ...], _Form](), dict[tuple[str, ...], _Form]()
    for name, synonyms in objects.synonyms:
        for phrase in (name, *synonyms):
            noun = phrase.partition(" of ")[0].rpartition(" ")[2]
            pair = noun in PAIRS
            given[_key(phrase)] = _Form(name, plural=is_plural(phrase) or noun in UNCHANGED or pair, pair=pair)
            if noun in UNCHANGED and not is_plural(phrase):
                given[_key(phrase)] = _Form(name, plural=True, pair=True)
            for several in plurals(phrase):
                made.setdefault(_key(several), _Form(name, plural=True, pair=pair))
    for phrase in objects.ignored:
        for words in (phrase, *plurals(phrase)):
            given.setdefault(_key(words), _Form(None))
    return made | given


def object_names(
    names: Mapping[str, Iterable[str]] | Iterable[str],
    *,
    negation: bool = True,
    counts: bool = False,
    ignored: Iterable[str] = (),
) -> ObjectNames:
    """What finds the objects of a list in a text: by name, synonym or plural, in capitals or not.

    Args:
        names: the names, with what else each is called.
        negation: leave out what the text denies: "no dog", "without a dog", "there aren't any dogs or cats",
            "a dog is not visible". A denial reaches the next name in its clause and those joined to it by "or".
        counts: name an object as often as the text says that it is there: "two dogs" is a dog twice. Numbers up to
            twenty count, larger ones as twenty; a plural without a number, "several" and "many" as two, the least that
            they can mean. "The dog" and "one dog" take up a dog that was named before. Else each object is named once.
        ignored: words that name no object although they hold a name, such as "train station".

    Returns:
        A value for `objects=` that journals and jobs know.

    Raises:
        SpecError: no names, or words that stand for two of them.

    >>> find = object_names({"dog": ["puppy"], "hot dog": []}, counts=True)
    >>> find("Two puppies beside a hot dog, and no dog on the couch.")
    ('dog', 'dog', 'hot dog')
    """
    given = names if isinstance(names, Mapping) else dict.fromkeys(listed("names", names, WRITE, kind=str), ())
    if not given:
        refuse("names", names, "list of names", WRITE)
    synonyms = dict[str, tuple[str, ...]]()
    for name, others in given.items():
        own = _phrase(name)
        if own in synonyms:
            raise SpecError(f"names= holds {name!r} twice; write each name once, in capitals or not")
        called = [_phrase(other) for other in listed(f"names[{name!r}]", others, WRITE, kind=str)]
        synonyms[own] = tuple(dict.fromkeys(other for other in called if other != own))
    _refuse_two_meanings(synonyms)
    return ObjectNames(
        tuple(synonyms.items()),
        flag("negation", negation),
        flag("counts", counts),
        tuple(_phrase(each, "ignored") for each in listed("ignored", ignored, 'ignored=["train station"]', kind=str)),
    )


def _phrase(given: Any, argument: str = "names") -> str:
    """A name as it is kept: small letters, single spaces."""
    words = " ".join(text_given(f"a name in {argument}=", given, WRITE).lower().split())
    if not any(token.isalnum() for token in _key(words)):
        refuse(argument, given, "name with letters", WRITE)
    return words


def _refuse_two_meanings(synonyms: Mapping[str, Sequence[str]]) -> None:
    meant = dict[tuple[str, ...], str]()
    for name, others in synonyms.items():
        for words in (name, *others):
            other = meant.setdefault(_key(words), name)
            if other != name:
                raise SpecError(
                    f"names= says of {words!r} that it is {other!r} and {name!r}; write it under one of them"
                )
