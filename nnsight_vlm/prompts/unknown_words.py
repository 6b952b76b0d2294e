"""Words of a text that its tokenizer does not know: the model is shown one token for all of them."""

from __future__ import annotations

import warnings
from typing import Any

from ..errors import UnknownWordsWarning
from .listening import Heard

NAMED = 8
"""How many unknown words a warning names."""


def unknown_words(heard: Heard | None, tokenizer: Any) -> list[str]:
    """The words that became the unknown token, in order; none where the tokenizer does not tell where tokens lie.

    Marks without letters or digits are no words, and where the text itself spells the unknown token it is known.
    """
    unknown = getattr(tokenizer, "unk_token_id", None)
    if heard is None or heard.spans is None or unknown is None or unknown not in heard.ids:
        return []
    spelled = (
        heard.text[start:stop].strip()
        for token, (start, stop) in zip(heard.ids, heard.spans, strict=True)
        if token == unknown
    )
    return [word for word in spelled if word != tokenizer.unk_token and any(map(str.isalnum, word))]


def warn_of_unknown_words(words: list[str], tokenizer: Any) -> None:
    """Say once what the model cannot read of a text, or of several."""
    named = list(dict.fromkeys(words))
    if not named:
        return
    listed = ", ".join(map(repr, named[:NAMED])) + (f" and {len(named) - NAMED} more" if len(named) > NAMED else "")
    warnings.warn(
        f"the tokenizer of this model does not know {listed}: the model reads {tokenizer.unk_token!r} instead, "
        "whatever the word. Ask in words that it knows (the small models in this package answer nv.shapes.questions, "
        "and nothing else), or take another model",
        UnknownWordsWarning,
        stacklevel=3,
    )
