"""What a page is asked for, looked at before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

from ..arguments import is_bool, listed, refuse, spelled, whole_number, words_given
from ..errors import SpecError
from ..execution.checking import as_intervention, check_interventions, check_prompt
from ..execution.decoding import Generation
from ..execution.emptiness import Empty, check_empty, generating
from ..families import Model, unsupported, view_of
from ..lowering.layers import Layers, layer_numbers
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import Resolver, resolver
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..prompts.ungrown import without_answer
from ..prompts.where import as_tuples
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.lenses import Lens
from ..specs.measurements import Attention
from ..studies.layer_sets import layers_reading
from ..studies.sinks import sinks_given
from .objects import ShownObject, objects_given
from .panels import Shown, shown_in

Quantity = Literal["weight", "contribution", "gradient", "causal"]
"""What a row shows of each patch: the attention to it, the vector that it adds, what a small change of it would do to
the word, what the word loses without it."""
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)
OF_ATTENTION: tuple[Quantity, ...] = ("weight", "contribution")
LONGEST = 64
"""How many tokens an answer has at most, unless told otherwise."""
LIMIT = 3_000_000
"""How many bytes a page has at most, unless told otherwise."""
LEAST_LIMIT = 100_000
"""A smaller page has no room for a picture."""


class Asked(NamedTuple):
    """What a page is asked for.

    Attributes:
        prompt: without an answer.
        answered: with the answer that is there; None where the model is to write one.
        intervention: of the second column; None where there is one column.
        shown: what there is to paint on.
        quantities: what rows show.
        layers: which layers, of those that read the picture.
        heads: the single heads, beside the mean over all.
        words: of the answer, the words that have a gradient and a causal map; None for all.
        objects: outlines.
        tau: the threshold of sinks; None where they are not looked for.
        lens: the layers whose words are shown on the patches.
        max_new_tokens: how long an answer may be.
        limit: how many bytes the page may have.
    """

    prompt: Prompt
    answered: Prompt | None
    intervention: Intervention | None
    shown: Shown
    quantities: tuple[Quantity, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    words: tuple[str, ...] | None
    objects: tuple[ShownObject, ...]
    tau: float | None
    lens: tuple[int, ...]
    max_new_tokens: int
    limit: int


def asked_given(
    model: Model,
    prompt: Any,
    intervention: Any,
    *,
    quantities: Any,
    layers: Any,
    heads: Any,
    words: Any,
    objects: Any,
    sinks: Any,
    lens: Any,
    max_new_tokens: Any,
    limit: Any,
    empty: Empty,
    remote: Remote,
) -> Asked:
    """What a user asks for; the arguments are those of `nv.view`.

    Raises:
        SpecError: see `nv.view`.
    """
    answered = _answered(prompt)
    plain = single_prompt(prompt) if answered is None else without_answer(answered)
    check_prompt(model, plain)
    check_empty(empty)
    longest = _length(max_new_tokens, is_answered=answered is not None, is_changed=intervention is not None)
    changed = None if intervention is None else as_intervention(intervention)
    if changed is not None:
        check_interventions(model, plain, changed, generating(longest, empty))
    wanted = quantities_given(quantities)
    shown = shown_in(plain)
    asked = Asked(
        prompt=plain,
        answered=answered,
        intervention=changed,
        shown=shown,
        quantities=wanted,
        layers=_layers(model, plain, shown, layers),
        heads=_heads(model, heads),
        words=_words(words, wanted),
        objects=objects_given(objects, shown),
        tau=sinks_given(sinks, view_of(model).stage().width),
        lens=_lens_layers(model, lens),
        max_new_tokens=longest,
        limit=whole_number("limit", limit, least=LEAST_LIMIT, kind="number of bytes"),
    )
    _refuse_unreadable(model, asked, remote)
    return asked


def _answered(given: Any) -> Prompt | None:
    """The prompt with the answer that is there, from a generation or from a prompt that a generation has grown."""
    prompt = given.prompt if isinstance(given, Generation) else given
    if not isinstance(prompt, Prompt) or len(prompt) > 1:
        return None
    return prompt if prompt.rows[0].stop > prompt.rows[0].answer else None


def _length(given: Any, *, is_answered: bool, is_changed: bool) -> int:
    if given is not None and is_answered and not is_changed:
        raise SpecError(
            f"max_new_tokens={spelled(given)} says how long an answer may be, and the answer is there already; leave "
            "it out"
        )
    return LONGEST if given is None else whole_number("max_new_tokens", given, least=1, kind="number of tokens")


def quantities_given(given: Any) -> tuple[Quantity, ...]:
    """What rows show, as a user asks for it: one word or several, each once, in the order of `QUANTITIES`.

    Raises:
        SpecError: another word, or none.
    """
    chosen = words_given("quantities", [given] if isinstance(given, str) else given, QUANTITIES, "quantity")
    return tuple(quantity for quantity in QUANTITIES if quantity in chosen)


def _layers(model: Model, prompt: Prompt, shown: Shown, given: Layers) -> tuple[int, ...]:
    """The layers, of those that read the picture."""
    numbers = layer_numbers(given, view_of(model).stage().layer_count)
    reading = layers_reading(model, prompt, shown.positions if shown.stage == "decoder" else "image")
    chosen = tuple(layer for layer in numbers if layer in reading)
    is_named = not isinstance(given, str) and not hasattr(given, "start")
    if not chosen or (is_named and len(chosen) < len(numbers)):
        missing = [layer for layer in numbers if layer not in reading]
        raise SpecError(
            f"layers={spelled(given)}: layer {missing[0] if missing else '?'} does not read the picture; layers "
            f"{', '.join(map(str, reading))} do"
        )
    return chosen


def _heads(model: Model, given: Any) -> tuple[int, ...]:
    """The single heads that are shown beside the mean."""
    count = view_of(model).stage().head_count
    if isinstance(given, str) and given in ("mean", "all"):
        return tuple(range(count)) if given == "all" else ()
    write = f'heads="mean", heads="all" or numbers, heads=[0, 3], from 0 to {count - 1}'
    named = as_tuples(given)
    numbers = named if isinstance(named, tuple) else (named,)
    if not numbers:
        refuse("heads", given, "list of heads", write)
    return tuple(sorted({whole_number("heads", head, least=0, most=count - 1, kind="head") for head in numbers}))


def _words(given: Any, quantities: Sequence[Quantity]) -> tuple[str, ...] | None:
    """The words of the answer that have maps of their own."""
    if given is None:
        return None
    write = 'words=["red", "ring"], words of the answer'
    words = listed("words", given, write, kind=str)
    if not words or not all(word.strip() for word in words):
        refuse("words", given, "list of one word or more", write)
    if not {"gradient", "causal"}.intersection(quantities):
        raise SpecError(
            f"words={spelled(given)} says which words have a gradient and a causal map, and quantities= asks for "
            'neither; write quantities=["weight", "causal"], or leave words= out'
        )
    return tuple(dict.fromkeys(word.strip() for word in words))


def _lens_layers(model: Model, given: Any) -> tuple[int, ...]:
    if is_bool(given) and not getattr(given, "shape", ()):
        given = "all" if given else ()
    elif given is None or as_tuples(given) == ():
        refuse("lens", given, "choice of layers", "lens=True, or layers, lens=[8, 16]")
    return layer_numbers(given, view_of(model).stage().layer_count)


# what this model and prompt cannot be asked ---------------------------------------------------------


def _refuse_unreadable(model: Model, asked: Asked, remote: Remote) -> None:
    """Refuse what cannot be read of the prompt's image tokens, by asking each read what it would do.

    Raises:
        SpecError: naming what to leave out.
    """
    shown, here = asked.shown, resolver(model, one_case_per_row(asked.prompt).placements[0])
    if shown.stage != "decoder":
        _refuse_of_latents(asked)
    elif "contribution" in asked.quantities:
        read = Attention("last", shown.positions, layers=asked.layers, reduce="contribution")
        list(read.lower(here))
    if asked.tau is not None and not shown.is_in_sequence:
        raise SpecError("sinks= looks for patches by their hidden states in the decoder, and here patches have none")
    if asked.lens:
        _refuse_lens(here, asked)
    if "gradient" in asked.quantities:
        _refuse_gradient(asked, remote)


def _refuse_of_latents(asked: Asked) -> None:
    named = {
        'quantities=["contribution"]': "contribution" in asked.quantities,
        'quantities=["gradient"]': "gradient" in asked.quantities,
        "heads=": bool(asked.heads),
        "lens=": bool(asked.lens),
        "sinks=": asked.tau is not None,
    }
    chosen = [name for name, is_asked in named.items() if is_asked]
    if chosen:
        raise SpecError(
            f"{' and '.join(chosen)} asks for patches that the decoder's attention has as keys, and here image tokens "
            "are latents, none of which stands for a patch; leave it out: weight and causal are known of patches"
        )


def _refuse_lens(here: Resolver, asked: Asked) -> None:
    if not asked.shown.is_in_sequence:
        raise SpecError(f"lens=: {unsupported(here.family)['image lens']}; leave it out")
    list(Lens(asked.shown.positions, layers=asked.lens, top=1).lower(here))


def _refuse_gradient(asked: Asked, remote: Remote) -> None:
    if remote is not False:
        raise SpecError(
            'quantities=["gradient"] differentiates a word\'s log-probability, which is done on this machine only; '
            "leave it out, or ask nv.saliency for the gradient of a logit there"
        )
    if asked.prompt.rows[0].videos:
        raise SpecError('quantities=["gradient"] is of pictures, and the prompt has a video; leave it out')
