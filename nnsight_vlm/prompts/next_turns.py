"""A further question behind a prompt: the tokens with which its chat goes on."""

from __future__ import annotations

from contextlib import suppress

from ..errors import SpecError
from ..families import Model, view_of
from .messages import Placeholders, forms_of
from .prompt import Prompt
from .templates import ChatTemplate, Unfit, template_of
from .token_text import tokenizer_of


def next_turn(model: Model, question: str, reply: str = "") -> tuple[int, ...]:
    """The tokens of a question that follows a prompt, for `Prompt.grown`.

    They are what the chat template writes behind a first request: the end of the model's turn, in which it says
    `reply`, then the user's turn with the question, and the beginning of the model's. Without a chat template they are
    the question's own.

    Args:
        model: an nnsight model with a processor.
        question: what the user asks.
        reply: what the model is taken to have said to the first request.

    Raises:
        SpecError: the chat template does not go on behind its own beginning, or there is no token to add.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> model.processor.tokenizer.decode(next_turn(model, "how many objects are there?"))
    '</s> user: how many objects are there? assistant:'
    """
    tokenizer, template = tokenizer_of(model), template_of(view_of(model).processor)
    first, whole = ("", question) if template is None else _rendered(template, question, reply)
    before, tokens = (tokenizer.encode(text, add_special_tokens=False) for text in (first, whole))
    if tokens[: len(before)] != before:  # a token reaches over the border
        before, tokens = [], tokenizer.encode(whole[len(first) :], add_special_tokens=False)
    if len(tokens) == len(before):
        raise SpecError(f"the question {question!r} has no token; give one that has")
    return tuple(tokens[len(before) :])


def _rendered(template: ChatTemplate, question: str, reply: str) -> tuple[str, str]:
    """A chat up to the model's first turn, and the same with a further question.

    Raises:
        SpecError: the second does not begin with the first.
    """
    chat = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": reply},
        {"role": "user", "content": question},
    ]
    for form in forms_of(chat, Placeholders()):
        with suppress(Unfit):
            first, whole = template(form[:1]), template(form)
            if whole.startswith(first) and question.strip() in whole[len(first) :]:
                return first, whole
    raise SpecError(
        f"the chat template of this model writes no chat that goes on behind a first request with the reply {reply!r}; "
        "write reply= another text, or request=None"
    )


def question_of(prompt: Prompt) -> str:
    """The words of a prompt that is one message: its pictures, then a question.

    Raises:
        SpecError: it is not known which words are the question's, or there are others, or none.
    """
    tokens, model = prompt.rows[0], prompt.model
    said, first = tokens.conversation, tokens.images[0][0] if tokens.images else 0
    if said.unknown and template_of(view_of(model).processor) is not None:
        raise SpecError(
            f"it is not known which words of this prompt are the question: {said.unknown}, with the question alone as "
            "its text"
        )
    marks = () if said.markers is None else said.markers.positions(tokens.stop)
    positions = [position for turn in said.turns for position in turn.words.positions(tokens.stop)]
    if said.unknown:
        positions = [position for position in prompt["query"] if position not in set(marks)]
    if len(said.turns) > 1 or any(position < first for position in positions):
        raise SpecError(
            "the prompt has more than a picture and the question behind it, which another request would not have; "
            "write nv.encode(model, question, picture), or request=None"
        )
    ids = [tokens.tokens[position] for position in positions]
    words = str(tokenizer_of(model).decode(ids, skip_special_tokens=True)).strip()
    if not words:
        raise SpecError("the prompt asks no question behind its picture; write nv.encode(model, question, picture)")
    return words
