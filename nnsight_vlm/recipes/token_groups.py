"""Which tokens the query and the answer attend to, layer by layer, and how widely they spread over the image.

Kaduri et al. 2024 (arXiv 2411.17491), section 3. Attention weights are not causes: a group with little attention may
matter, and one with much may not. Read this beside `knockout_windows`.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from ..execution.forward import run
from ..families import Model, Reach, view_of
from ..lowering.empty_attention import seen_keys
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.measurements import Attention
from ..statistics import summarise
from ..studies.asked import Columns, Questions
from ..studies.controls import rng_of
from ..studies.given import lengths_given
from ..studies.labels import NONE, RANDOM_GENERATED_TOKENS, RANDOM_POSITIONS, SHARES, UNIFORM
from ..studies.layer_sets import layers_reading
from ..studies.papers import KADURI
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.token_sets import require, spell_token
from ..studies.work import PLAIN, Work
from ..sweeping.answers import generations

Target = Literal["query", "generated"]
"""The tokens whose attention is read: the prompt's text after the image, its last token included, and the answer."""
TARGETS: tuple[Target, ...] = get_args(Target)
SOURCES = ("system", "image", "video", "markup", "query", "generated")
OTHER = "other"
"""Tokens of the decoder's sequence that are in none of these groups, such as the one that the sequence begins with."""
BY = ["target", "source", "layer", "token", "control"]

Groups = Mapping[str, tuple[int, ...]]
"""The positions of every group that a prompt has."""


class SourceLayer(NamedTuple):
    """A source group in one layer."""

    source: str
    layer: int


@can_run_in_background
@recipe(
    papers=(KADURI,),
    asks="Which tokens do the question and the answer attend to, layer by layer?",
    method=(
        "The model generated an answer of up to {max_new_tokens} tokens. The attention of question and answer "
        "tokens in the decoder's sequence to each token group was then read in every layer, as a mean over heads. "
        "Controls were the attention that as many random tokens get, equal attention to all image tokens, and random "
        "answer tokens."
    ),
    shows="reads",
    measures=("mass",),
)
def attention_share(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
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
    """Attention mass on each token group, and entropy over the image, by layer; means over heads.

    The model first generates its own answer. Then the attention of query tokens and of generated tokens is read; as in
    a knockout, information flows from `source` to `target`. Targets are tokens of the decoder's sequence, so an
    encoder-decoder has the generated ones only.

    Args:
        model: an nnsight model from `load`.
        prompts: of one row each; several may be about one picture, see `cluster`. Or a table, as `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only the items that the model answers right, see `knockout_windows`.
        max_new_tokens, rows: length of the answers in tokens, and how many are generated in one batch at most, see
            `nv.generations`.
        seed: of the random control.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every image instead of means with intervals.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `target, source, layer, token, control, measure, mean, low, high, images`. Measures:

        - `mass`: share of the target's attention on the source group. Sources outside the decoder's sequence are read
          in layers with cross-attention, all others in layers with self-attention; in each of the two, the masses of
          one target add up to 1. The source `markup` are tokens inside an image that show nothing of it (line breaks,
          tile numbers), `other` those of no group. The control `random positions` is the mass that as many tokens get
          when they are drawn at random from those that the target sees in this layer; it is computed exactly, as
          their share of the tokens seen.
        - `entropy`: of the attention over the image tokens alone, in nats: for every query token (`token` is its
          number and text), and the mean over the tokens of the target (`token` is `all`). Controls: `uniform`, the
          entropy of equal attention to the image tokens that the prompt's last token sees; and where the query is a
          target, `random generated tokens`, as many tokens of the answer as the query has.

    Raises:
        SpecError: a prompt without an image or with several rows, or no prompts.
    """
    max_new_tokens, rows = lengths_given(max_new_tokens, rows)
    study = open_study(
        "attention_share",
        model,
        prompts,
        items=items,
        columns=columns,
        only_correct=only_correct,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(require, where="image"),
    )
    prompts, seed, work = study.prompts, study.seed, study.work

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        wanted = [(prompts[image], None) for image in chunk]
        answers = generations(
            model, wanted, max_new_tokens=max_new_tokens, rows=rows, memory=work.memory, remote=remote
        )
        computations = [
            partial(_rows, model, answer.prompt, image, seed, remote)
            for image, answer in zip(chunk, answers, strict=True)
        ]
        return chain.from_iterable(together(computations, remote))

    return study.frame({"max_new_tokens": max_new_tokens}, measure, summary)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every image."""
    tidy = summarise(frame, BY, ["mass", "entropy"], shares=SHARES)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _groups(prompt: Prompt) -> dict[str, tuple[int, ...]]:
    """The positions of every source group, without those that the prompt has not got.

    Raises:
        SpecError: the prompt has no image.
    """
    require(prompt, "image")
    groups = {source: prompt[source] for source in SOURCES}
    named = {position for positions in groups.values() for position in positions}
    groups[OTHER] = tuple(position for position in prompt["all"] if position not in named)
    return {source: positions for source, positions in groups.items() if positions}


def _rows(model: Model, prompt: Prompt, image: int, seed: int, remote: Remote) -> list[dict[str, Any]]:
    """Rows of one prompt with its answer, from one forward."""
    groups = _groups(prompt)
    targets = [target for target in TARGETS if _in_sequence(groups, target)]
    layers = {source: layers_reading(model, prompt, positions) for source, positions in groups.items()}
    pairs = [(target, source) for target in targets for source in groups]
    mass_reads = [Attention(groups[t], groups[s], layers=layers[s], reduce="mass") for t, s in pairs]
    entropy_reads = [Attention(groups[t], "image", layers=layers["image"], reduce="entropy") for t in targets]
    last_read = Attention("last", "image", layers=layers["image"], reduce="mean")
    *values, last_attention = run(model, prompt, reads=[*mass_reads, *entropy_reads, last_read], remote=remote).reads
    masses, entropies = values[: len(pairs)], values[len(pairs) :]
    rows = list[dict[str, Any]]()
    chance = {target: _chance_masses(model, prompt, groups, target, layers) for target in targets}
    for (target, source), mass in zip(pairs, masses, strict=True):
        for layer, share in zip(layers[source], mass.mean((1, 2)).tolist(), strict=True):
            labels = {"image": image, "target": target, "source": source, "layer": layer, "token": "all"}
            rows.append({**labels, "control": NONE, "mass": share})
            rows.append({**labels, "control": RANDOM_POSITIONS, "mass": chance[target][SourceLayer(source, layer)]})
    uniform = math.log(int((last_attention > 0).any(0).any(0).sum()))
    for target, entropy in zip(targets, entropies, strict=True):
        for layer, by_token in zip(layers["image"], entropy.mean(1).tolist(), strict=True):
            labels = {"image": image, "target": target, "source": "image", "layer": layer, "token": "all"}
            rows += _entropy_rows(prompt, groups, by_token, uniform, labels, rng_of(seed, image))
    return rows


def _in_sequence(groups: Groups, group: str) -> bool:
    """Whether a prompt has a group whose tokens are in the decoder's sequence."""
    return group in groups and min(groups[group]) >= 0


def _chance_masses(
    model: Model, prompt: Prompt, groups: Groups, target: Target, layers: Mapping[str, tuple[int, ...]]
) -> dict[SourceLayer, float]:
    """The mass of each source under equal attention: its share of the tokens seen, mean over the target's tokens."""
    tokens, readers = prompt.rows[0], np.asarray(groups[target])
    masses, seen_by_reach = dict[SourceLayer, float](), dict[Reach, np.ndarray]()
    for source, positions in groups.items():
        for layer in layers[source]:
            key = SourceLayer(source, layer)
            if positions[0] < 0:  # cross-attention sees all that lies outside the sequence
                masses[key] = len(positions) / tokens.outside
                continue
            reach = view_of(model).reach("decoder", layer)
            if reach not in seen_by_reach:
                seen_by_reach[reach] = seen_keys(readers, tokens.stop, tokens, reach)
            seen = seen_by_reach[reach]
            masses[key] = float((seen[:, list(positions)].sum(1) / seen.sum(1)).mean())
    return masses


def _entropy_rows(
    prompt: Prompt,
    groups: Groups,
    by_token: Sequence[float],
    uniform: float,
    labels: Mapping[str, Any],
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Rows of one target in one layer, from the entropy of each of its tokens (NaN where it sees no image token)."""
    present = [value for value in by_token if not math.isnan(value)]
    yield {**labels, "control": NONE, "entropy": float(np.mean(present)) if present else math.nan}
    yield {**labels, "control": UNIFORM, "entropy": uniform}
    if labels["target"] == "query":
        for index, (position, value) in enumerate(zip(groups["query"], by_token, strict=True)):
            yield {**labels, "token": f"{index} {spell_token(prompt, position)}", "control": NONE, "entropy": value}
    elif _in_sequence(groups, "query"):
        drawn = rng.permutation(len(by_token))[: len(groups["query"])]
        mean = float(np.mean([by_token[index] for index in drawn]))
        yield {**labels, "target": "query", "control": RANDOM_GENERATED_TOKENS, "entropy": mean}
