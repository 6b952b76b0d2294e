"""What a sweep is asked for each variant: answers, another answer to compare with, a metric, reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..arguments import as_index, function, listed, meant, spelled, whole_number
from ..errors import SpecError
from ..execution.checking import refuse_unseen_weights
from ..execution.decoding import check_decoding
from ..families import Model, view_of
from ..families.locks import lock_of
from ..lowering.answer_trees import AnswerTokens
from ..lowering.layers import label
from ..prompts.pixel_tokens import refuse_said_pixel_tokens
from ..prompts.prompt import Prompt
from ..prompts.token_text import tokenizer_of
from ..specs.measurements import Attention, Readout

Answer = str | int | tuple[int, ...]
"""An answer as a user gives it: its text, a token id, or the ids of its tokens."""
Metric = Callable[[torch.Tensor], Any]
"""A number from logits `[position, word]`."""

ANSWERS = 'a text, a token id or a tuple of token ids, answer=" red"; a list of them for several answers'
SCORES_ALL = "nv.sweep scores all tokens of an answer together"
METRIC = "a function of logits [position, word] that gives a number, metric=my_metric"
READS = '[nv.Attention("last", "image")], or names for them, {"share": nv.Attention("last", "image", reduce="mass")}'


FIELDS = (
    "variant",
    "kind",
    "source",
    "target",
    "where",
    "layers",
    "site",
    "stage",
    "heads",
    "how",
    "top",
    "scale",
    "factor",
)
NUMBERS = ("logit", "logprob", "rank", "top_token", "logprob_mean", "logit_diff", "logprob_diff", "metric")
TAKEN = frozenset((*FIELDS, *NUMBERS, "answer"))
"""Columns of a sweep's table, beside those that begin with `clean_`, by which no read may be called."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What is asked of every variant.

    Attributes:
        labels: of the answers, as the table names them.
        answers: their tokens; none where no answer is asked for.
        several: whether they were given as a list.
        against: the answer that they are compared with.
        metric: of the logits that predict an answer, or of the last position's.
        reads: what to look at, by the names of their columns.
    """

    labels: tuple[Any, ...] = ()
    answers: tuple[AnswerTokens, ...] = ()
    several: bool = False
    against: AnswerTokens | None = None
    metric: Metric | None = None
    reads: Mapping[str, Readout]

    @cached_property
    def scored(self) -> tuple[AnswerTokens, ...]:
        """All answers whose scores are needed, each once; without any, the first word of all, for the best one."""
        given = self.answers or ((0,),)
        return tuple(dict.fromkeys((*given, *(() if self.against is None else (self.against,)))))

    @property
    def is_long(self) -> bool:
        """Whether an answer may be of several tokens, so that sums and means are told apart."""
        return self.several or any(len(answer) > 1 for answer in self.answers)


def wanted_of(model: Model, answer: Any, against: Any, metric: Any, reads: Any) -> Wanted:
    """What a user asks for.

    Raises:
        SpecError: what cannot be an answer, a metric or a read; nothing is asked for.
    """
    several = isinstance(answer, list)
    given = [] if answer is None else listed("answer", answer, ANSWERS) if several else [answer]
    if several and not given:
        raise SpecError(f"answer=[] names no answer; write {ANSWERS}")
    if answer is None and metric is None and _is_nothing(reads):
        raise SpecError(f"nothing is asked of the variants; write {ANSWERS}, or metric=, or reads=")
    if against is not None and not given:
        raise SpecError("against= is compared with an answer; write answer= as well")
    answers = tuple(answer_tokens(model, each) for each in given)
    other = None if against is None else answer_tokens(model, against, "against")
    if other is not None and set(answers) == {other}:
        raise SpecError(f"answer= and against={spelled(against)} are the same tokens {other}; give another answer")
    return Wanted(
        labels=tuple(_label(each) for each in given),
        answers=answers,
        several=several,
        against=other,
        metric=None if metric is None else function("metric", metric, METRIC),
        reads=_reads_given(model, reads),
    )


def _label(answer: Any) -> Any:
    number = as_index(answer)
    return label(answer) if number is None else number


# answers ------------------------------------------------------------------------------------------


def answer_tokens(model: Model, answer: Any, name: str = "answer") -> AnswerTokens:
    """The tokens of an answer: of a text the one that spells it, as written or without its space, else all as written.

    Raises:
        SpecError: no text, token id or ids; text that the tokenizer does not know.
    """
    words = view_of(model).vocab_size
    if isinstance(answer, tuple) and answer:
        kind = "token id of this model"
        return tuple(whole_number(name, token, least=0, most=words - 1, kind=kind) for token in answer)
    if not isinstance(answer, str):
        token = as_index(answer)
        if token is None:
            raise SpecError(f"{name}={spelled(answer)} is no answer; write {ANSWERS.replace('answer=', f'{name}=')}")
        if not 0 <= token < words:
            raise SpecError(f"the answer {token} is no token id; the model has 0..{words - 1}")
        return (token,)
    spellings, unknown = _spellings(model, answer)
    one = next((ids for ids in spellings if len(ids) == 1 and ids[0] != unknown), None)
    whole = spellings[0] if one is None else one
    if not whole:
        raise SpecError(f"the answer {answer!r} has no token; give the ids of its tokens")
    if unknown in whole:
        raise SpecError(why_unknown(model, answer))
    return tuple(map(int, whole))


def why_unknown(model: Model, answer: str) -> str:
    """Which words of an answer the tokenizer has no token for, and what they may be misspelt for, for a message."""
    tokenizer = tokenizer_of(model)
    unknown = [word for word in answer.split() if tokenizer.unk_token_id in _spellings(model, word)[0][0]]
    word = (unknown or [answer.strip()])[0]
    vocabulary = (token.strip("\u2581\u0120 ") for token in tokenizer.get_vocab())
    near = [known for known in vocabulary if known[:1] == word[:1] and abs(len(known) - len(word)) <= 2]
    of = f" of the answer {answer!r}" if word != answer else ""
    return (
        f"the tokenizer knows no word {word!r}{of}; write what the model can say, see nv.generate(model, prompt).text"
        f"{meant(word, near)}"
    )


def refuse_unsaid(prompt: Prompt, answers: Sequence[AnswerTokens]) -> None:
    """Refuse answers whose tokens cannot be given to the model behind a prompt.

    Raises:
        SpecError: the prompt is padded on the right; an input of which nothing says what it is at new tokens; tokens
            that stand for pixels.
    """
    given = [answer[:-1] for answer in answers if len(answer) > 1]
    if given:
        check_decoding(prompt)
    for tokens in given:
        try:
            refuse_said_pixel_tokens(prompt.grown(tokens))
        except SpecError:
            raise SpecError(
                f"the answer that begins {tokens} holds a token that stands for pixels, and the forward that scores it "
                "would put an image feature in its place; give tokens of words alone"
            ) from None


def _spellings(model: Model, text: str) -> tuple[list[list[int]], int | None]:
    """The tokens of a text as written, and without the space around it; and the token of what is not known."""
    module, tokenizer = view_of(model).module, tokenizer_of(model)
    with lock_of(module):  # a tokenizer serves one thread at a time
        ids = [tokenizer(each, add_special_tokens=False)["input_ids"] for each in (text, text.strip())]
    return ids, tokenizer.unk_token_id


def answer_token(model: Model, answer: Answer) -> int:
    """The id of an answer that is one token.

    Raises:
        SpecError: the text is several tokens, or none that the tokenizer knows; no such id.
    """
    if isinstance(answer, str):
        spellings, unknown = _spellings(model, answer)
        if all(unknown in ids for ids in spellings):
            raise SpecError(why_unknown(model, answer))
        if spellings[0] and all(len(ids) != 1 or ids[0] == unknown for ids in spellings):
            pieces = tokenizer_of(model).convert_ids_to_tokens(spellings[0])
            raise SpecError(
                f"the answer {answer!r} is not one token but {pieces}, and one is scored here; write the id of one of "
                f"them, such as {spellings[0][0]}. {SCORES_ALL}"
            )
    elif as_index(answer) is None:
        several = f". {SCORES_ALL}" if isinstance(answer, tuple) and len(answer) > 1 else ""
        raise SpecError(f"answer={spelled(answer)} is no answer; write its text, or its token id{several}")
    return answer_tokens(model, answer)[0]


# metrics and reads --------------------------------------------------------------------------------


def measured(metric: Metric, logits: torch.Tensor) -> float:
    """What a metric gives of logits `[position, word]`.

    Raises:
        SpecError: something else than one number.
    """
    given = metric(logits)
    try:
        if not isinstance(given, (str, bytes)):
            return float(given)
    except (TypeError, ValueError, RuntimeError):
        pass
    raise SpecError(f"metric= gave {spelled(given)}; it is a function of logits [position, word] that gives one number")


def _is_nothing(reads: Any) -> bool:
    return isinstance(reads, (tuple, list, dict)) and not reads


def _reads_given(model: Model, reads: Any) -> dict[str, Readout]:
    """Reads by the names of their columns: `read` for one, `read.0`, `read.1` for several."""
    if isinstance(reads, Readout):
        named: dict[str, Any] = {"read": reads}
    elif isinstance(reads, Mapping):
        named = dict(reads)
    else:
        named = {f"read.{number}": read for number, read in enumerate(listed("reads", reads, READS, kind=Readout))}
    for name, read in named.items():
        if not isinstance(name, str) or not isinstance(read, Readout):
            raise SpecError(f"reads= holds {spelled(name)}: {spelled(read)}, which is no name of a read; write {READS}")
        if name in TAKEN or name.startswith("clean_"):
            raise SpecError(
                f"reads= names a read {name!r}, and the table has a column of that name; write another name"
            )
    if any(isinstance(read, Attention) for read in named.values()):
        refuse_unseen_weights(model)
    return named
