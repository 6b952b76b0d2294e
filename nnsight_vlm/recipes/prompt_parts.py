"""What the words of the request are for: drop parts of the prompt, with and without direct access to the image.

Kaduri et al. 2024 (arXiv 2411.17491): if the query tokens carry the picture, a description that is generated without
direct access to the image needs these tokens; one that is generated with access may not.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import refuse, text
from ..errors import SpecError
from ..families import Model
from ..prompts.prompt import Prompt
from ..prompts.token_map import is_group
from ..prompts.where import Where, as_tuples
from ..remote.background import can_run_in_background
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN, Intervention
from ..specs.knockouts import Knockout
from ..statistics import summarise
from ..studies.asked import Columns, Questions
from ..studies.controls import blind_cut, random_positions, rng_of
from ..studies.given import lengths_given, objects_given
from ..studies.labels import AGREEMENT, NONE, RANDOM_POSITIONS, SHARES, TRUE_AGREEMENT, Access, Control
from ..studies.methods import only
from ..studies.papers import KADURI
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.token_sets import require, same_axis_positions, spell_token
from ..studies.words import Objects, Thing
from ..studies.work import PLAIN, Case, Work
from ..sweeping.answers import generations
from .layer_windows import score_texts

BY = ["part", "access", "control"]
LONGEST = 12
"""Most tokens of a question that is also dropped token by token."""


@can_run_in_background
@recipe(
    papers=(KADURI,),
    asks="What are the words of the request for, with and without direct access to the image?",
    method=(
        "Parts of the prompt were dropped by closing all attention to them, with and without attention from "
        "the answer to the image.",
        only("The parts were {parts}.", parts=True),
        "The control dropped as many random tokens outside the part. Descriptions had up to {max_new_tokens} tokens.",
    ),
    shows="could",
    measures=("f1",),
)
def prompt_ablation(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    parts: Mapping[str, Where] | None = None,
    truths: Sequence[Sequence[Thing]] | None = None,
    objects: Objects | None = None,
    max_new_tokens: int = 64,
    rows: int | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Drop parts of the prompt and score the description against the one of the full prompt.

    A part is dropped by closing every attention edge from it to any other token, so that all else stays as it was,
    position ids included. A part outside the decoder's sequence is dropped in the encoder, and as keys of the
    decoder's cross-attention. Only attention is closed: layers of a hybrid decoder that carry a state through the
    sequence still carry the part, and InstructBLIP's Q-Former still reads the question.

    Args:
        model: an nnsight model from `load`.
        prompts: of one row each; several may be about one picture, see `cluster`. Or a table, as `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only the items that the model answers right, see `knockout_windows`.
        parts: names of parts and what they stand for: a group, positions, or words that the prompt contains.
            Default: `system` without the prompt's first token, `question` (the query without the prompt's last token,
            which must predict the answer) and, where the question is short, each of its tokens.
        truths, objects, max_new_tokens, rows, seed: see `knockout_windows`.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every image instead of means with intervals.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `part, access, control, measure, mean, low, high, images`; measures as in `knockout_windows`. `access` is
        `direct`, or `none` where generated tokens do not attend to the image. Besides the named parts there are
        `nothing` (the full prompt) and `blind` (no token other than the image's own attends to the image). The control
        `random positions` drops as many tokens from outside the part, of the same sequence, in the same way; there is
        no such row where too few tokens lie outside.

    Raises:
        SpecError: a part that is not in the prompt or that holds its last token; no prompts; truths of another number
            than the prompts.
    """
    max_new_tokens, rows = lengths_given(max_new_tokens, rows)
    objects = objects_given(model, objects)
    parts = None if parts is None else _parts_given(parts)
    study = open_study(
        "prompt_ablation",
        model,
        prompts,
        items=items,
        columns=columns,
        only_correct=only_correct,
        truths=truths,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(_check, parts),
    )
    prompts, truths, seed, work = study.prompts, study.truths, study.seed, study.work
    settings = {"parts": parts, "objects": objects, "max_new_tokens": max_new_tokens}

    def measure(chunk: range) -> Iterator[dict[str, Any]]:
        of_chunk = {image: prompts[image] for image in chunk}
        cases = {image: cases_of(prompt, parts, seed, image) for image, prompt in of_chunk.items()}
        wanted = [(of_chunk[image], case.intervention) for image in chunk for case in cases[image]]
        generated = generations(
            model, wanted, max_new_tokens=max_new_tokens, rows=rows, memory=work.memory, remote=remote
        )
        for image in chunk:
            texts = [next(generated).text for _ in cases[image]]
            yield from score_texts(cases[image], texts, None if truths is None else truths[image], objects, image)

    return study.frame(settings, measure, summary)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every image."""
    measures = [name for name in (*AGREEMENT, *TRUE_AGREEMENT, "objects") if name in frame]
    tidy = summarise(frame, BY, measures, shares=SHARES)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _parts_given(given: Any) -> dict[str, Where]:
    """Names of parts and what they stand for, as a user gives them."""
    write = 'parts={"question": "question", "the noun": "dog"}'
    if not isinstance(given, Mapping) or not given:
        refuse("parts", given, "mapping from names to parts of the prompt", write)
    return {text("a name in parts", part, write): as_tuples(where) for part, where in given.items()}


def _check(parts: Mapping[str, Where] | None, prompt: Prompt) -> None:
    """Refuse a prompt without an image, or without one of the parts."""
    require(prompt, "image")
    _positions_of_parts(prompt, parts)


def cases_of(prompt: Prompt, parts: Mapping[str, Where] | None, seed: int, image: int) -> list[Case]:
    """The conditions of one image: the full prompt with direct access first, which is the clean run."""
    require(prompt, "image")
    no_access, rng = Knockout("image", "generated", layers="attention"), rng_of(seed, image)
    cases = [
        _case("nothing", "direct", CLEAN),
        _case("nothing", "none", no_access),
        _case("blind", "none", blind_cut(prompt)),
    ]
    for part, positions in _positions_of_parts(prompt, parts).items():
        sequence = same_axis_positions(prompt, positions)
        kept = {sequence[0], *prompt["last"]}
        candidates = [position for position in sequence if position not in {*positions, *kept}]
        drops: dict[Control, Intervention] = {NONE: dropped(prompt, positions)}
        if len(candidates) >= len(positions):
            drops[RANDOM_POSITIONS] = dropped(prompt, random_positions(candidates, len(positions), rng))
        for control, drop in drops.items():
            cases.append(_case(part, "direct", drop, control))
            cases.append(_case(part, "none", drop | no_access, control))
    return cases


def _case(part: str, access: Access, intervention: Intervention, control: Control = NONE) -> Case:
    return Case(labels={"part": part, "access": access, "control": control}, intervention=intervention)


def dropped(prompt: Prompt, positions: Sequence[int]) -> Intervention:
    """No other token attends to these positions; they still attend to each other."""
    tokens, others = prompt.rows[0], set(prompt["all"]).difference(positions)
    readers = tuple(other for other in sorted(others) if tokens.last_seen(other) >= min(positions))
    cut = Knockout(tuple(positions), (*readers, "generated"), layers="attention")
    in_encoder = tuple(position + tokens.outside for position in positions if position < 0)
    if not in_encoder:
        return cut
    encoder = dict(tokens.stages)["encoder"]
    encoder_others = tuple(sorted(set(range(encoder.start, encoder.stop)).difference(in_encoder)))
    return cut | Knockout(in_encoder, encoder_others, layers="attention", stage="encoder")


def _positions_of_parts(prompt: Prompt, parts: Mapping[str, Where] | None) -> dict[str, tuple[int, ...]]:
    if parts is None:
        return _default_parts(prompt)
    positions = {}
    for part, where in parts.items():
        is_words = isinstance(where, str) and not is_group(where)
        positions[part] = prompt.find(str(where)) if is_words else prompt[where]
        if not positions[part] or prompt["last"][0] in positions[part]:
            raise SpecError(
                f"part {part!r} is empty or holds the prompt's last token, which must predict the answer; "
                "leave that out"
            )
    return positions


def _default_parts(prompt: Prompt) -> dict[str, tuple[int, ...]]:
    question = prompt["question"]
    parts = {"system": prompt["system"][1:], "question": question}
    if len(question) <= LONGEST:
        parts |= {f"{index} {spell_token(prompt, position)}": (position,) for index, position in enumerate(question)}
    return {part: positions for part, positions in parts.items() if positions}
