"""Cached generation under an intervention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch

from ..device import runner
from ..errors import SpecError
from ..families import Model, view_of
from ..lowering.layouts import one_case_per_row
from ..lowering.plan import Plan, for_decoding
from ..prompts.carried import check_growing
from ..prompts.given import prompt_given
from ..prompts.pixel_tokens import PixelTokenWatch, has_pixels
from ..prompts.position_ids import passed_whole, positions_by_row
from ..prompts.prompt import Prompt, PromptBatch
from ..prompts.token_text import spell_answer
from ..prompts.where import as_tuples, numbers_in
from ..remote.background import Job, can_run_in_background
from ..remote.batching import ask
from ..remote.model_call import ModelCall, Remote
from ..specs.interventions import Intervention
from ..versions import cache_name
from .caches import ROOM, growing_cache
from .capturing import checked_cases
from .display import batch_lines, generation_line, generations_html
from .emptiness import Empty, check_empty, generating
from .finite import FiniteWatch
from .generation_options import check_options, check_rows, greedy_options, without_padding_to_see
from .listening import listening
from .memory import refuse_large_prompt
from .preparing import prepare


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Generation:
    """What one generation gave of a prompt of one row.

    Attributes:
        text: the answer, special tokens left out.
        tokens: its token ids, padding left out.
        prompt: the prompt grown by the answer, so that `prompt["generated"]` finds it.
    """

    text: str
    tokens: tuple[int, ...]
    prompt: Prompt

    def __repr__(self) -> str:
        return generation_line(self.text, self.tokens)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return generations_html(type(self).__name__, [self.text], [self.prompt])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchGeneration:
    """What one generation gave of a prompt of several rows: every field of `Generation` once a row."""

    text: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    prompt: tuple[Prompt, ...]

    def __repr__(self) -> str:
        lines = [generation_line(*answer) for answer in zip(self.text, self.tokens, strict=True)]
        return batch_lines(type(self).__name__, lines)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return generations_html(type(self).__name__, self.text, self.prompt)


@overload
def generate(
    model: Model,
    prompt: PromptBatch,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    max_new_tokens: int = 64,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
    **options: Any,
) -> BatchGeneration: ...
@overload
def generate(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    max_new_tokens: int = 64,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
    **options: Any,
) -> Generation: ...
@overload
def generate(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    max_new_tokens: int = 64,
    empty: Empty = "error",
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
    **options: Any,
) -> Job[Generation | BatchGeneration]: ...
@can_run_in_background
def generate(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    max_new_tokens: int = 64,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    **options: Any,
) -> Generation | BatchGeneration | Job[Any]:
    """Cached generation under an intervention; greedy unless `options` say otherwise.

    Args:
        model: an nnsight model from `load`.
        prompt: from `encode`, of one row or several.
        intervention: what to change, in the prompt's forward and in every decoded token's; for a prompt of several
            rows also one for each row.
        max_new_tokens: at most this many tokens.
        empty: see `nv.run`; tokens that are generated and then run count as there, which are all but the last.
        remote, blocking, path: see `nv.run`.
        options: for transformers' `generate`. Decoding is greedy whatever the checkpoint's defaults say, which count
            only where plain greedy search heeds them (a repetition penalty does); see `execution.generation_table`.

    Returns:
        A `Generation` for a prompt of one row, a `BatchGeneration` for one of several.

    Raises:
        SpecError: anything wrong with the intervention or the options, before the model runs; a prompt that does not
            fit into what is free.

    Warns:
        NonFiniteWarning: on this machine, logits were infinite or not a number, so that the words mean nothing.
    """
    check_decoding(prompt_given(prompt))
    check_empty(empty)
    options = check_options(model, {"max_new_tokens": max_new_tokens, **options})
    check_rows(model, prompt.rows, options)
    call = generating(options["max_new_tokens"], empty)
    refuse_large_prompt(model, prompt, remote, room=min(ROOM, options["max_new_tokens"]))
    cases, values = checked_cases(model, prompt, intervention, remote, call)
    lines = decode(model, prompt, prepare(model, one_case_per_row(prompt), cases, values), options, remote).tolist()
    ends = end_tokens(model, options)
    answers = [as_generation(model, prompt.row(row), line, ends) for row, line in enumerate(lines)]
    if len(prompt) == 1:
        return answers[0]
    return BatchGeneration(
        text=tuple(answer.text for answer in answers),
        tokens=tuple(answer.tokens for answer in answers),
        prompt=tuple(answer.prompt for answer in answers),
    )


def end_tokens(model: Model, options: dict[str, Any]) -> set[int]:
    """The token ids that end an answer."""
    ends = options.get("eos_token_id", view_of(model).generating_config.eos_token_id)
    return set(numbers_in(as_tuples(ends)))


def as_generation(model: Model, prompt: Prompt, tokens: Sequence[int], ends: set[int]) -> Generation:
    """An answer, cut behind the token that ends it, with its text and the prompt that it makes."""
    length = next((number + 1 for number, token in enumerate(tokens) if token in ends), len(tokens))
    answer = tuple(tokens[:length])
    return Generation(text=spell_answer(model, answer), tokens=answer, prompt=prompt.grown(answer))


def decode(
    model: Model,
    prompt: Prompt,
    plan: Plan,
    options: dict[str, Any],
    remote: Remote,
    cache: Any = None,
    *,
    names: Sequence[str] = (),
) -> torch.Tensor:
    """The token ids that one cached generation adds, `[row, token]`; greedy unless `options` say otherwise.

    Args:
        model: an nnsight model.
        prompt: what is given.
        plan: what is changed.
        options: of the call, checked by `check_options`.
        remote: see `nv.run`.
        cache: holds the tokens of all rows that were run already.
        names: what a warning calls the rows.

    Warns:
        NonFiniteWarning: on this machine, logits were infinite or not a number.
    """
    options = greedy_options(model, prompt, options)
    if cache is None and remote is False and _can_use_growing_cache(model, options):
        config = view_of(model).config.get_text_config(decoder=True)
        cache = growing_cache(config, min(ROOM, options["max_new_tokens"]))
    inputs = {**without_padding_to_see(model, prompt, options), **({} if cache is None else {cache_name(): cache})}
    watch, family = FiniteWatch(), view_of(model).family
    watched = {**options, **watch.options()} if remote is False else options
    stopping = listening(prompt.width) if remote is False else []
    if remote is False and options["use_cache"] is False and has_pixels(prompt) and not family.generator:
        stopping.append(PixelTokenWatch(prompt, prompt.width + options["max_new_tokens"]))
    if stopping:
        watched["stopping_criteria"] = stopping
    tokens: torch.Tensor = _decoded(model, runner.decode, prompt, inputs, plan, watched, remote)
    watch.warn(names)
    return tokens


def decode_logits(
    model: Model,
    prompt: Prompt,
    plan: Plan,
    steps: int,
    remote: Remote,
    cache: Any = None,
    *,
    unsaid: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """What cached greedy decoding chooses, `[row, step]`, and its logits, float32 `[row, step, vocab]`.

    A `cache` holds the tokens of all rows that were run already. The tokens `unsaid` are never chosen; their logits are
    the model's own.
    """
    length: dict[str, Any] = {"max_new_tokens": steps, "min_new_tokens": steps}
    if unsaid:
        also = view_of(model).generating_config.suppress_tokens or ()
        length["suppress_tokens"] = sorted({*unsaid, *also})
    returned = {"output_logits": True, "return_dict_in_generate": True}
    options = {**greedy_options(model, prompt, length), **returned}
    inputs = {**prompt.inputs, **({} if cache is None else {cache_name(): cache})}
    tokens, logits = _decoded(model, runner.decode_logits, prompt, inputs, plan, options, remote)
    return tokens, logits


def _decoded(
    model: Model,
    task: Callable[..., Any],
    prompt: Prompt,
    inputs: dict[str, Any],
    plan: Plan,
    options: dict[str, Any],
    remote: Remote,
) -> Any:
    rest = (for_decoding(model, plan).edits, options, prompt.width)
    inputs = {**inputs, **positions_by_row(prompt)}
    inputs |= passed_whole(inputs)
    return ask(model, ModelCall(task=task, inputs=inputs, rest=rest, needs=plan.needs), remote)


def _can_use_growing_cache(model: Model, options: dict[str, Any]) -> bool:
    """Whether `generate` would make a plain cache that grows, so that ours can stand in for it."""
    plain = options["use_cache"] and options["cache_implementation"] is None
    return plain and "encoder" not in view_of(model).family.stages


def check_decoding(prompt: Prompt) -> None:
    """Refuse generation from rows that are padded on the right, or at all where the model cannot do that.

    Raises:
        SpecError: saying so.
    """
    if any(row.stop != prompt.width for row in prompt.rows):
        raise SpecError("generation needs padding on the left; this encoding is padded on the right")
    check_growing(prompt)
    family = view_of(prompt.model).family
    reason = family.limitations.get("padded generation")
    if reason and any(row.start > 0 for row in prompt.rows):
        raise SpecError(f"{family.name!r} models cannot generate from padded rows: {reason}; give one at a time")
