"""What a page is answered: words as they are written, then the page's data; and whether a change was made as asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from PIL import Image

from ..arguments import instance, refuse, text, whole_number
from ..errors import InterventionError, SpecError
from ..execution.checking import check
from ..execution.decoding import generate
from ..execution.emptiness import generating
from ..execution.proof import verify
from ..families import Model, view_of
from ..prompts.encoding import encode
from ..prompts.prompt import Prompt
from ..prompts.token_text import spell_answer
from ..remote.watching import Watcher, watched_by
from ..showing import visible
from ..specs.interventions import Intervention
from ..studies.provenance import model_facts
from ..viewing.asking import LONGEST
from ..viewing.making import view
from .changes import change_given
from .fields import FieldError, about
from .open_pages import OpenPage, Question
from .turns import News, Turn

LONGEST_QUESTION = 4_000
"""How many characters a question may have."""
ASKED = ("question", "max_new_tokens", "change", "quantities", "words")
PROVED = ("question", "change", "pixels")


class Asked(NamedTuple):
    """What a page asks.

    Attributes:
        question: about the page's picture.
        prompt: of it.
        intervention: what is changed; None where nothing is.
        box: the part of the picture that it is about; None where there is none.
    """

    question: Question
    prompt: Prompt
    intervention: Intervention | None
    box: Any = None


def facts_of(model: Model) -> dict[str, Any]:
    """What a page offers to choose from."""
    known = view_of(model)
    spec, facts = known.stage(), model_facts(known, False)
    return {"model": visible(str(facts["model"])), "layers": spec.layer_count, "heads": spec.head_count}


def ask(model: Model, page: OpenPage, given: Any, turn: Turn, longest: int = LONGEST) -> News:
    """Answer a question, and the same question under a change where there is one.

    Args:
        model: an nnsight model.
        page: which asks.
        given: `question`; `max_new_tokens`; `change`, see `change_given`; `quantities` and `words`, see `nv.view`.
        turn: is told `{"column": "clean", "text": ...}` at every token, and at once of an answer that is kept.
        longest: how many tokens an answer may have.

    Returns:
        `{"payload": ...}`, the data of the page.

    Raises:
        SpecError: anything wrong with it.
    """
    body = _body(given, ASKED)
    asked = _asked(model, page, body, longest)
    answer = page.answers.get(asked.question)
    if answer is None:
        with watched_by(_watcher(model, turn, "clean")):
            answer = generate(model, asked.prompt, max_new_tokens=asked.question.max_new_tokens)
        if turn.is_over:
            return {}
        if page.prompts.get(("picture", asked.question.text)) is asked.prompt:  # else it shows another picture by now
            page.keep(asked.question, answer)
    else:
        turn.tell({"column": "clean", "text": answer.text})
    with watched_by(_watcher(model, turn, "changed")):
        shown = view(
            model,
            answer,
            asked.intervention,
            quantities=body.get("quantities", ["weight"]),
            words=body.get("words"),
            objects=None if asked.box is None else {"box": asked.box},
            max_new_tokens=None if asked.intervention is None else asked.question.max_new_tokens,
        )
    return {"payload": shown.payload}


def prove(model: Model, page: OpenPage, given: Any, longest: int = LONGEST) -> News:
    """Prove that a change does what it says, from what the model really used; see `nv.verify`.

    Args:
        model: an nnsight model.
        page: which asks.
        given: `question`; `change`; `pixels`, whether to compare the logits under other pixels too.
        longest: how many tokens an answer may have.

    Returns:
        `{"proof": {"holds": True, "edges": ..., "writes": ..., "layers": ..., "tokens": ..., "pixels": ..., "moved":
        ...}}`; where it does not hold `{"proof": {"holds": False, "said": why, "found": where}}`, without advice in
        Python.

    Raises:
        SpecError: nothing is changed, or anything wrong with it.
    """
    body = _body(given, PROVED)
    asked = _asked(model, page, body, longest)
    if asked.intervention is None:
        raise SpecError("there is nothing to prove, because nothing is changed; choose what to cut or to write in")
    pixels = instance("pixels", body.get("pixels", False), bool, "true or false")
    try:
        proof = verify(model, asked.prompt, asked.intervention, pixels=pixels)
    except InterventionError as error:
        return {"proof": {"holds": False, "said": error.plain, "found": visible(error.found, keep_lines=True)}}
    return {"proof": {"holds": True, **vars(proof)}}


def _body(given: Any, fields: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(given, Mapping):
        refuse("the request", given, "request", '{"question": "what color is the ring?"}')
    if unknown := sorted(set(map(str, given)) - set(fields)):
        raise SpecError(f"a request has no {', '.join(unknown)}; it has {', '.join(fields)}")
    return given


def _asked(model: Model, page: OpenPage, body: Mapping[str, Any], longest: int) -> Asked:
    with about("question"):
        question = text("question", body.get("question"), '"what color is the ring?"')
        if not question.strip() or len(question) > LONGEST_QUESTION:
            raise SpecError(f"a question has 1 to {LONGEST_QUESTION:,} characters; {len(question):,} were given")
    with about("max_new_tokens"):
        length = body.get("max_new_tokens", longest)
        length = whole_number("max_new_tokens", length, least=1, most=longest, kind="number of tokens")
    change = change_given(body.get("change"))

    def made(words: str, picture: Image.Image) -> Prompt:
        return encode(model, words, picture)

    prompt = page.prompt("picture", question, made)
    if change is None:
        return Asked(Question(question, length), prompt, None)
    other = page.prompt("other", question, made) if change.needs_other else None
    intervention = change.made(prompt, other)
    _refuse_backwards(model, prompt, intervention, length, body["change"])
    return Asked(Question(question, length), prompt, intervention, change.box)


BACKWARDS = "the other way round, with source and target exchanged"


def _refuse_backwards(
    model: Model, prompt: Prompt, change: Intervention, length: int, given: Mapping[str, Any]
) -> None:
    """Refuse, before an answer is written, what cannot be carried out; a cut of later tokens in the page's words.

    Raises:
        SpecError: see `nv.run`.
    """
    try:
        check(model, prompt, change, generating(length, "error"))
    except SpecError as error:
        if BACKWARDS not in str(error):
            raise
        source, target = (place if isinstance(place := given[name], str) else "box" for name in ("source", "target"))
        raise FieldError(
            f"{target} comes before {source} and cannot read it, so there is nothing to hide; swap the two: "
            f"hide {target} from {source}",
            "target",
        ) from error


def _watcher(model: Model, turn: Turn, column: str) -> Watcher:
    """A page that is told every word of the answers that are written, and how far measurements are, until it leaves."""

    def words(tokens: tuple[int, ...]) -> None:
        turn.tell({"column": column, "text": spell_answer(model, tokens)})

    def steps(what: str, done: int, total: int) -> None:
        turn.tell({"step": what, "done": done, "of": total})

    return Watcher(has_left=lambda: turn.is_over, words=words, steps=steps)
