"""Which prompts a model answers right, so that a recipe measures what the model knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import regex

from ..arguments import as_index
from ..families import Model
from ..prompts.prompt import Prompt
from ..questions.item_lists import LeftOut
from ..remote.model_call import Remote
from ..sweeping.answers import generations
from ..sweeping.wanted import answer_tokens
from .journal import measured
from .work import Work

BEYOND = 3
"""So many tokens more than the answer has are generated, to see where a word ends."""
WITHIN_WORD = r"(?V1)[\p{L}\p{M}\p{N}--[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]]{2}"
"""Two letters or digits of one word; in scripts that write words apart."""
LONGEST = 40
"""Most letters of a wrong answer that a reason shows."""


def right_answers(
    model: Model,
    prompts: Sequence[Prompt],
    answers: Sequence[str | int],
    *,
    scored: bool,
    work: Work,
    remote: Remote,
) -> list[str]:
    """For each prompt why its answer is wrong; empty where it is right.

    The model answers greedily, without any intervention. Its answer is right where it begins with the answer's tokens
    and does not go on within the word: "12" is wrong for "1", and "reddish" for "red". An answer that is a text and is
    not scored by its tokens is also right where the two texts agree: without the spaces before them and in small
    letters (`casefold`), the model's begins with the answer, and no letter or digit follows, so that "Red." is right
    for "red".

    Args:
        model: an nnsight model from `load`.
        prompts: one row each.
        answers: a text or a token id for each.
        scored: whether the recipe scores the tokens of the answers, so that only these are right.
        work: journal, progress bar, size of chunks and memory.
        remote: see `nv.run`.

    Raises:
        SpecError: see `nv.generations` and `answer_tokens`.
    """
    tokens = [answer_tokens(model, answer) for answer in answers]

    def measure(chunk: range) -> Iterator[Mapping[str, Any]]:
        length = BEYOND + max(len(tokens[number]) for number in chunk)
        cases = [(prompts[number], None) for number in chunk]
        said = generations(model, cases, max_new_tokens=length, memory=work.memory, remote=remote)
        for number, answer in zip(chunk, said, strict=True):
            is_exact = tuple(answer.tokens[: len(tokens[number])]) == tokens[number]
            yield {"image": number, "exact": is_exact, "text": answer.text}

    rows = measured("only_correct", model, prompts, {"answers": tokens}, measure, work, remote)
    found = zip(rows["exact"], rows["text"], answers, strict=True)
    return [_why_wrong(bool(exact), str(text), answer, scored) for exact, text, answer in found]


def _why_wrong(exact: bool, text: str, answer: str | int, scored: bool) -> str:
    """Why an answer is wrong; empty where it is right."""
    if exact and not _goes_on(text, answer):
        return ""
    shown = text.strip() if len(text.strip()) <= LONGEST else f"{text.strip()[:LONGEST]}..."
    agrees = not exact and as_index(answer) is None and begins_with(text, str(answer))
    if agrees and not scored:
        return ""
    if agrees:
        return f"the model answers {shown!r}, which begins with other tokens than {answer!r}, whose tokens are scored"
    return f"the model answers {shown!r}, and {answer!r} is right"


def _goes_on(text: str, answer: str | int) -> bool:
    """Whether a text begins with the answer's tokens, and what follows belongs to the same word.

    Scripts that write words without spaces between them do not tell.

    >>> _goes_on("12 dogs", "1"), _goes_on("1 dog", "1"), _goes_on("A. red", "A")
    (True, False, False)
    """
    said, right = text.lstrip(), "" if as_index(answer) is not None else str(answer).strip()
    return said.startswith(right) and bool(right and regex.match(WITHIN_WORD, said[len(right) - 1 :]))


def nothing_right(left_out: Sequence[LeftOut]) -> str:
    """What a message says where no answer is right."""
    return (
        f"only_correct=True leaves nothing to measure: the model answers none of {len(left_out)} right. Of "
        f"{left_out[0].id!r}: {left_out[0].why}"
    )


def begins_with(text: str, answer: str) -> bool:
    """Whether a text begins with an answer, whatever the case, as whole words.

    >>> begins_with(" Red.", "red"), begins_with("reddish", "red")
    (True, False)
    """
    said, right = text.strip().casefold(), answer.strip().casefold()
    return bool(right) and said.startswith(right) and not regex.match(r"[\p{L}\p{M}\p{N}]", said[len(right) :])
