"""How transformers generates here: greedily, unless the call says otherwise in a way that a plan can follow.

The rules are in `generation_table`. What the call says is checked before anything runs; what decides how a checkpoint
generates is then said explicitly, because its own defaults may be others, here and on a server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from transformers import GenerationConfig

from ..arguments import as_index, is_bool, whole_number
from ..errors import SpecError
from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..prompts.token_map import TokenMap
from .generation_table import (
    ARGUMENTS,
    HEEDED_AGAIN,
    LOOKING_BACK,
    OBEYED,
    OBEYED_IN_THE_CALL,
    OTHER_WAYS,
    PRIVATE,
    REFUSED,
    SAMPLING,
    WITHOUT_EFFECT,
)
from .generation_values import plain_options


def greedy_options(model: Model, prompt: Prompt, said: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that decides how transformers generates from a prompt, said explicitly.

    Args:
        model: an nnsight model.
        prompt: what is given, of any number of rows.
        said: what the call says, see `check_options`; it wins.
    """
    view = view_of(model)
    plain = {name: row.plain for name, row in (*OTHER_WAYS.items(), *REFUSED.items()) if row.why not in WITHOUT_EFFECT}
    plain |= OBEYED_IN_THE_CALL | dict.fromkeys(later_fields())
    if view.family.tokens == "decoder_input_ids":  # another beginning would be put before the prompt's own
        plain["decoder_start_token_id"] = int(prompt.inputs["decoder_input_ids"][0, 0])
    config = view.generating_config
    if not _same(config.num_return_sequences, 1):  # transformers refuses it before it looks at the call's own
        plain["generation_config"] = GenerationConfig(num_return_sequences=1)
    return {**plain, "eos_token_id": config.eos_token_id, **view.family.generate_with, **said}


def check_options(model: Model, options: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse what a plan could not follow, wherever it is said; returns what the call says, as plain options.

    A `generation_config=` object counts as said by the call.

    Raises:
        SpecError: naming the option, where it was said, and what to write.
    """
    said = {name: value for name, value in options.items() if name != "generation_config"}
    for name, value in said.items():
        _check_said(name, value, said)
    given = dict(_fields_of(options.get("generation_config")))
    for name, value in given.items():
        _check_object(name, value, said)
    said = {**{name: value for name, value in given.items() if name != "max_new_tokens"}, **said}
    said["max_new_tokens"] = whole_number("max_new_tokens", said["max_new_tokens"], least=1, kind="length")
    _check_checkpoint(model, said)
    _check_uncached(model, said)
    return plain_options(said, view_of(model).embedded_words)


def _check_uncached(model: Model, said: Mapping[str, Any]) -> None:
    """Refuse generation without a cache where transformers cannot do that."""
    family = view_of(model).family
    reason = family.limitations.get("uncached generation")
    if reason and said.get("use_cache") is False:
        raise SpecError(f"{family.name!r} models generate with a cache only: {reason}. Leave use_cache out")


def later_fields() -> tuple[str, ...]:
    """Fields of this transformers' generation config that have no row here, all without a default."""
    known = {*OBEYED, *SAMPLING, *OTHER_WAYS, *REFUSED, *OBEYED_IN_THE_CALL, *ARGUMENTS, *PRIVATE}
    return tuple(name for name in vars(GenerationConfig()) if not name.startswith("_") and name not in known)


# rows of different length ---------------------------------------------------------------------------


def check_rows(model: Model, rows: Sequence[TokenMap], said: Mapping[str, Any]) -> None:
    """Refuse a length that counts the prompt and its padding, where rows would have other lengths alone.

    Raises:
        SpecError: saying what to write.
    """
    least = said.get("min_length", view_of(model).generating_config.min_length) or 0
    shortest = min((row.stop - row.start for row in rows), default=least)
    if len(rows) > 1 and least > shortest:
        raise SpecError(
            f"min_length={least} counts the prompt, its padding too, so rows of a batch would get other answers than "
            "alone; write min_length=0, min_new_tokens=..."
        )


def without_padding_to_see(model: Model, prompt: Prompt, options: Mapping[str, Any]) -> dict[str, Any]:
    """The prompt's inputs, its padding filled with tokens of its own rows where logits depend on what a row holds.

    transformers' penalties look at all token ids of a row, padding included: a padded row would have said its padding
    token already, which is often the one that ends an answer. The model itself does not look at padding.
    """
    view, inputs = view_of(model), dict(prompt.inputs)
    config, padded = view.generating_config, any(row.start for row in prompt.rows)
    heeded = any(not _same(options.get(name, getattr(config, name)), plain) for name, plain in LOOKING_BACK.items())
    if padded and heeded:
        tokens: torch.Tensor = inputs[view.family.tokens].clone()
        for number, row in enumerate(prompt.rows):
            shown = row.visual_tokens
            own = next((place for place in range(row.start, row.stop) if place not in shown), row.stop - 1)
            tokens[number, : row.start] = tokens[number, own]
        inputs[view.family.tokens] = tokens
    return inputs


# the call ---------------------------------------------------------------------------------------------


def _check_said(name: str, value: Any, said: Mapping[str, Any]) -> None:
    """Refuse an option of the call."""
    row = OTHER_WAYS.get(name) or REFUSED.get(name)
    if row is not None:
        if not _same(value, row.plain):
            raise SpecError(f"{name}={value!r} {row.why}; leave it out")
    elif name in ARGUMENTS:
        if value is not None:
            raise SpecError(f"{name}= {ARGUMENTS[name]}; leave it out")
    elif name in SAMPLING:
        if not said.get("do_sample") and not _same(value, SAMPLING[name]):
            raise SpecError(
                f"{name}={value!r} matters only where tokens are drawn, and greedy search takes the most probable one; "
                f"write do_sample=True, or leave {name} out"
            )
    elif name == "cache_implementation" and isinstance(value, str) and value == "paged":
        raise SpecError(
            'cache_implementation="paged" is for a server that answers many requests at a time; leave it out'
        )
    elif name in later_fields():
        if value is not None:
            raise SpecError(f"{name}={value!r} is an option that this package does not know; leave it out")
    elif name not in OBEYED and name not in OBEYED_IN_THE_CALL and name != "max_new_tokens":
        _refuse_unknown(name)


def _refuse_unknown(name: str) -> None:
    known = [*OBEYED, *SAMPLING, *OBEYED_IN_THE_CALL, "max_new_tokens"]
    near = get_close_matches(name, known, n=1)
    raise SpecError(
        f"generation has no option {name!r}; "
        + (
            f"did you mean {near[0]!r}?"
            if near
            else "what the model is given belongs in nv.encode(model, inputs={...})"
        )
    )


def _fields_of(given: Any) -> Iterator[tuple[str, Any]]:
    """What a `generation_config=` object says."""
    if given is None:
        return
    if not isinstance(given, GenerationConfig):
        raise SpecError(
            f"generation_config= takes a transformers GenerationConfig; {type(given).__name__} was given. "
            "Options can also be written as keywords, repetition_penalty=1.1"
        )
    fields = vars(GenerationConfig())
    for name, value in vars(given).items():
        if name in fields and not name.startswith("_") and value is not None and name != "transformers_version":
            yield name, value


def _check_object(name: str, value: Any, said: Mapping[str, Any]) -> None:
    """Refuse an option that a `generation_config=` object says."""
    if name == "max_new_tokens":
        if as_index(value) != as_index(said.get(name, value)):
            raise SpecError(
                f"generation_config says max_new_tokens={value} and the call {said[name]}; write "
                f"max_new_tokens={value} in the call"
            )
        return
    if name in SAMPLING:  # checkpoints say them beside do_sample=False, and nobody heeds them then
        return
    try:
        _check_said(name, value, said)
    except SpecError as error:
        raise SpecError(f"generation_config says {error}") from None


# the checkpoint ---------------------------------------------------------------------------------------


def _check_checkpoint(model: Model, said: Mapping[str, Any]) -> None:
    """Refuse what a checkpoint says and neither a plan nor a plain value could follow."""
    view = view_of(model)
    for config in (view.generating_config, view.generation_config):
        for name, row in REFUSED.items():
            value = getattr(config, name, None)
            if name not in said and not _same(value, row.plain):
                raise SpecError(
                    f"the checkpoint's generation_config says {name}={value!r}, which {row.why}. For greedy answers "
                    f"without it write {name}=None in the call"
                )
    for name, row in OTHER_WAYS.items() if view.has_own_generate else ():
        value = getattr(view.generating_config, name, None)
        if row.plain is None and row.why in HEEDED_AGAIN and not _same(value, None):
            raise SpecError(
                f"the checkpoint's generation_config says {name}={value!r}, which {row.why}, and this model's own "
                f"generate heeds it whatever a call says; write model._module.generation_config.{name} = None"
            )
    legacy = view.legacy_generation_options
    if legacy:
        name, value = next(iter(legacy.items()))
        raise SpecError(
            f"the model's config says {name}={value!r}, which transformers no longer obeys and refuses; delete it, "
            f"del model._module.config.{name}, and write options in the call"
        )


def _same(value: Any, plain: Any) -> bool:
    """Whether a value says no more than plain greedy search does; None says nothing, and False nothing beside None."""
    if value is None or (value is False and plain is None):
        return True
    same = value == plain
    return (
        is_bool(same)
        and getattr(same, "shape", ()) == ()
        and bool(same)
        and isinstance(value, bool) == isinstance(plain, bool)
    )
