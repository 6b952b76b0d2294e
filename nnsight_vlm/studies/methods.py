"""What a recipe did, as sentences of a methods section, some of which are true of some calls only.

A recipe writes them where it is registered, with names of its arguments as placeholders:

    method=(
        "The attention of each word to the patches was read (heads: {heads}).",
        only("The object's patches were also hidden.", cut=True, truths=True),
    )
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import Any, NamedTuple

from ..arguments import PLAIN, as_index

GIVEN = object()
"""Of a condition: anything but None, 0 as well."""


class Only(NamedTuple):
    """A sentence that is true of some calls.

    Attributes:
        text: the sentence, with placeholders.
        when: names of arguments, and what each must be, see `only`.
    """

    text: str
    when: tuple[tuple[str, Any], ...]

    def holds(self, facts: Mapping[str, Any]) -> bool:
        """Whether the sentence is true of a call, see `facts_of`."""
        return all(_is(facts.get(name), wanted) for name, wanted in self.when)


Method = tuple[str | Only, ...]


def only(text: str, **when: Any) -> Only:
    """A sentence that is true where arguments have certain values.

    Args:
        text: the sentence.
        when: what each argument must be, all of them. True or False: given and not empty or 0, or not so; `GIVEN`: not
            None; a word or a number: this, or a list with it; a tuple: one of these.
    """
    return Only(text, tuple(when.items()))


COMPARED = only(
    "Comparisons were tested by flipping signs over images, and the false discovery rate was held at 0.05 (Benjamini "
    "and Hochberg 1995).",
    per_image=False,
)
OTHER_LAYERS = only("Layers: {layers}.", layers=True)
"""Of recipes that take all layers where none are given."""


def names_in(method: Method) -> set[str]:
    """The names of the arguments that a method speaks of."""
    texts = [part if isinstance(part, str) else part.text for part in method]
    placed = {name for text in texts for _, name, _, _ in Formatter().parse(text) if name is not None}
    return placed | {name for part in method if isinstance(part, Only) for name, _ in part.when}


def told(method: Method, facts: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """The sentences that are true of a call.

    Args:
        method: of the recipe.
        facts: what decides which are, see `facts_of`.
        words: the placeholders' values.

    >>> told(("It was cut.", only("So were {heads}.", heads=True)), {"heads": ("a", "b")}, {"heads": "a and b"})
    'It was cut. So were a and b.'
    """
    true = [part for part in method if isinstance(part, str) or part.holds(facts)]
    return " ".join(part if isinstance(part, str) else part.text for part in true).format(**words)


def facts_of(arguments: Mapping[str, Any], settings: Mapping[str, Any], known: Mapping[str, bool]) -> dict[str, Any]:
    """What decides which sentences are true: the arguments, with what a recipe made of those that were left out.

    Args:
        arguments: the call's; a single word or number stands as it was given.
        settings: what the recipe measured with, see `plain_facts`.
        known: what the study knows better than the call, whose answers may be those of the items.
    """
    given = {name: value for name, value in plain_facts(arguments).items() if value is not None}
    single = {name: value for name, value in given.items() if value is not True and not isinstance(value, tuple)}
    return {**given, **settings, **single, **known}


def plain_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """Words, numbers and lists of them; of anything else whether there is something in it."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(part, PLAIN) for part in value):
        return tuple(value)
    number = as_index(value)
    if number is not None:
        return number
    return len(value) > 0 if isinstance(value, (Mapping, Sequence)) else True


def _is(fact: Any, wanted: Any) -> bool:
    if wanted is GIVEN:
        return fact is not None
    if isinstance(wanted, bool):
        return bool(fact) is wanted
    if isinstance(wanted, tuple):
        return any(_is(fact, each) for each in wanted)
    return bool(fact == wanted) or (isinstance(fact, tuple) and wanted in fact)
