"""The words that the states of each layer stand for, as one tidy table."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import pandas as pd
import torch

from ..arguments import as_index, listed
from ..errors import NonFiniteWarning, SpecError
from ..execution.emptiness import Empty
from ..execution.forward import run
from ..families import Model, view_of
from ..families.locks import lock_of
from ..lowering.layers import Layers, label
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import Resolver, resolver
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..prompts.token_text import spell
from ..prompts.where import Where
from ..remote.background import Job, can_run_in_background
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.lenses import TOP, Lens
from .wanted import answer_token

Tokens = str | int | Sequence[str | int]
"""One token or several, as text or ids."""


@overload
def lens(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    where: Where = "image",
    layers: Layers = "all",
    top: int | None = None,
    tokens: Tokens | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> pd.DataFrame: ...
@overload
def lens(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    where: Where = "image",
    layers: Layers = "all",
    top: int | None = None,
    tokens: Tokens | None = None,
    empty: Empty = "error",
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
) -> Job[pd.DataFrame]: ...
@can_run_in_background
def lens(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    where: Where = "image",
    layers: Layers = "all",
    top: int | None = None,
    tokens: Tokens | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> pd.DataFrame | Job[pd.DataFrame]:
    """The words that states stand for, layer by layer, through the model's own final norm and head: the logit lens.

    Args:
        model: an nnsight model from `load`.
        prompt: a prompt of one row; of an answer, the prompt that a generation has grown (`out.prompt`).
        intervention: under which the states are read; None is the clean run.
        where, layers: see `Lens`.
        top: how many words of each state, 5 unless told otherwise.
        tokens: words to look at instead, as text that one token spells, or ids: their ranks by layer.
        empty, remote, blocking, path: see `nv.run`.

    Returns:
        One row for each position, layer and word: `position`, `layer`, `rank` (0 is the most probable), `token`,
        `text`, `logprob`. `frame.attrs` says of which model, and what was asked for. States of which a logit is
        infinite or not a number have no words: `rank`, `token` and `text` are missing.

    Raises:
        SpecError: anything wrong with what was asked for, before the model runs.

    Warns:
        NonFiniteWarning: there are states without words.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> frame = nv.lens(model, prompt, where="last", top=1)
    >>> frame["text"].iloc[-1]
    'a'
    """
    prompt = single_prompt(prompt)
    chosen = None if tokens is None else _token_ids(model, tokens)
    read = Lens(where, layers=layers, top=top, tokens=chosen)
    words = run(model, prompt, intervention, reads=read, empty=empty, remote=remote).reads[0]
    frame = _table(model, resolver(model, one_case_per_row(prompt).placements[0]), read, words)
    frame.attrs.update(
        model=str(getattr(model, "repo_id", None) or view_of(model).family.name),
        where=label(read.where),
        layers=label(read.layers),
        **({"top": read.top or TOP} if chosen is None else {"tokens": list(chosen)}),
        intervention="" if intervention is None else repr(intervention),
    )
    return frame


def _token_ids(model: Model, given: Any) -> tuple[int, ...]:
    """Words as a user gives them, as token ids.

    Raises:
        SpecError: a text that is not one token, or no such id; none at all.
    """
    alone = isinstance(given, str) or as_index(given) is not None
    some = (given,) if alone else listed("tokens", given, 'tokens=[" red", 17]')
    if not some:
        raise SpecError('tokens=() names no word to look at; write tokens=[" red", 17], or leave it out')
    return tuple(answer_token(model, token) for token in some)


def _table(model: Model, here: Resolver, read: Lens, words: torch.Tensor) -> pd.DataFrame:
    """The rows of a lens, `[layer, position, word, 3]`, by position, then layer, then word."""
    positions, layers = here.positions(read.where), here.ordered_layers("residual", read.layers)
    numbers = words.transpose(0, 1).flatten(0, 2).double().numpy()
    token, rank, logprob = numbers.T
    known = ~np.isnan(logprob)
    if not known.all():
        warnings.warn(
            f"{int((~known).sum())} of {len(known)} words have no probability: the logits of their states are infinite "
            "or not a number, so they are no words",
            NonFiniteWarning,
            stacklevel=2,
        )
    with lock_of(view_of(model).module):  # a tokenizer serves one thread at a time
        texts = {int(number): spell(model, int(number)) for number in np.unique(token[known])}
    each = words.shape[2]
    return pd.DataFrame(
        {
            "position": np.repeat(positions, len(layers) * each),
            "layer": np.tile(np.repeat(layers, each), len(positions)),
            "rank": _whole(rank, known),
            "token": _whole(token, known),
            "text": [texts[int(number)] if there else None for number, there in zip(token, known, strict=True)],
            "logprob": logprob,
        }
    )


def _whole(numbers: np.ndarray, known: np.ndarray) -> Any:
    """Whole numbers as a column: of plain integers, where none is missing."""
    if known.all():
        return numbers.astype(np.int64)
    return pd.array([int(number) if there else None for number, there in zip(numbers, known, strict=True)], "Int64")
