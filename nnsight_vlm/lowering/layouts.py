"""Layouts: where each case sits in the sequence that the model runs.

A *case* is one prompt under one intervention. Lowering an intervention needs to know one thing about how it will be
executed: which row of the batch, and which place in that row, a position of its prompt has: its `Placement`.
Running cases one by one, as rows of a batch, or packed behind one shared prefix are three layouts; nothing else differs
between them, and no intervention, kernel or recipe knows which one it runs in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..families import VISION, view_of
from ..prompts.carried import counts_tokens, settings
from ..prompts.position_ids import position_ids
from ..prompts.prompt import Prompt
from ..prompts.stacking import stack
from ..prompts.token_map import TokenMap
from ..versions import cache_name
from .answer_trees import AnswerTree
from .placements import Placement

NO_ANSWERS = AnswerTree()


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A prompt to run, and where the cases sit in it.

    Attributes:
        prompt: what the model is given.
        placements: one for each case.
        packing: `(prefix, length, parents)` of the copies behind a shared prefix, each of which ends with the tokens of
            an `AnswerTree` with these parents; or None.
        start: the first place that runs; what lies before it is in a cache.
        depth: the first layer that runs; layers before it are skipped.
        entering: what enters that layer, `[row, place, width]`.
    """

    prompt: Prompt
    placements: tuple[Placement, ...]
    packing: tuple[int, int, tuple[int, ...]] | None = None
    start: int = 0
    depth: int = 0
    entering: torch.Tensor | None = None

    def stage_tokens(self, name: str) -> TokenMap:
        """A token map of a stage: of any row that has it, because all rows of its batch are equally long.

        Raises:
            SpecError: no row has it.
        """
        there = (tokens for tokens in self.prompt.rows if name in dict(tokens.stages))
        return next(there, self.prompt.rows[0]).stage(name)

    @property
    def tower_maps(self) -> tuple[TokenMap, ...]:
        """The token maps of the vision tower, one after the other as they lie in its batch."""
        maps = (dict(tokens.stages).get(VISION) for tokens in self.prompt.rows)
        return tuple(tokens for tokens in maps if tokens is not None)


# cases and their own rows -------------------------------------------------------------------------


def one_case_per_row(prompt: Prompt) -> Layout:
    """Every row of a prompt is a case."""
    placements, features, vision = [], 0, 0
    for number, tokens in enumerate(prompt.rows):
        placements.append(Placement(tokens=tokens, row=number, features=features, vision=vision))
        tower = dict(tokens.stages).get(VISION)
        features, vision = features + tokens.feature_rows, vision + (0 if tower is None else tower.stop)
    return Layout(prompt=prompt, placements=tuple(placements))


def padded_batch(prompts: Sequence[Prompt]) -> Layout:
    """Each prompt (of one row) is a row of one batch, padded on the left."""
    stacked = one_case_per_row(stack(prompts))
    placements = [
        replace(
            placement,
            tokens=prompt.rows[0],
            batch=placement.tokens,
            shift=stacked.prompt.width - prompt.width,
            outside=placement.tokens.outside - prompt.rows[0].outside,
        )
        for placement, prompt in zip(stacked.placements, prompts, strict=True)
    ]
    return replace(stacked, placements=tuple(placements))


# many cases of one prompt -------------------------------------------------------------------------


def packed(prompt: Prompt, cases: int, branch: int, tree: AnswerTree = NO_ANSWERS) -> Layout:
    """One sequence: the tokens before `branch` once, then for every case a copy of the rest, and answers behind it.

    Copies keep their original position ids; `device.kernels.packed_mask` closes them to each other, and the branches of
    the tree.
    """
    tokens = prompt.rows[0]
    grown = prompt.grown(tree.longest) if tree.tokens else prompt
    copy = torch.tensor([*range(branch, tokens.stop), *(tokens.stop + depth for depth in tree.depths)])
    order = torch.cat([torch.arange(branch), copy.repeat(cases)])
    inputs = {name: value[:, order] if counts_tokens(grown, name) else value for name, value in grown.inputs.items()}
    inputs["position_ids"] = position_ids(grown)[..., order]
    if tree.tokens:
        _put_answers(inputs["input_ids"][0, branch:].unflatten(0, (cases, -1)), tree)
    placements = tuple(
        Placement(tokens=tokens, branch=branch, shift=case * len(copy), shared=True, answers=len(tree.tokens))
        for case in range(cases)
    )
    packed_tokens = tuple(inputs["input_ids"][0].tolist())
    row = replace(tokens, tokens=packed_tokens, stop=len(order), answer=len(order))
    return Layout(
        prompt=replace(prompt, inputs=inputs, rows=(row,)),
        placements=placements,
        packing=(branch, len(copy), tree.parents),
    )


def _put_answers(copies: torch.Tensor, tree: AnswerTree) -> None:
    """Write the tokens of answers behind each of some copies `[copy, token]`."""
    copies[:, -len(tree.tokens) :] = torch.tensor(tree.tokens, device=copies.device)


def answering(prompt: Prompt, tree: AnswerTree) -> Prompt:
    """A prompt with answers behind it, as rows are made of; see `answered`."""
    if not tree.tokens:
        return prompt
    return prompt.grown(tree.tokens) if tree.is_chain else packed(prompt, 1, prompt.rows[0].stop, tree).prompt


def answered(layout: Layout, tokens: TokenMap, tree: AnswerTree) -> Layout:
    """A layout of rows with answers behind them, whose cases are those of the prompt: the answers are generated."""
    if not tree.tokens:
        return layout
    number = len(tree.tokens)
    placements = tuple(replace(placement, tokens=tokens, answers=number) for placement in layout.placements)
    packing = None if tree.is_chain else (tokens.stop, number, tree.parents)
    return replace(layout, placements=placements, packing=packing)


def _repeated(prompt: Prompt, cases: int, inputs: dict[str, Any]) -> Layout:
    """The same prompt in every row, given as these inputs, which contain its image already (in a cache or embedded)."""
    placements = tuple(Placement(tokens=prompt.rows[0], row=case) for case in range(cases))
    batch = replace(prompt, inputs=inputs, rows=prompt.rows * cases, images=(), videos=())
    return Layout(prompt=batch, placements=placements)


def repeated_rows(prompt: Prompt, cases: int) -> Layout:
    """The same prompt in every row of a batch without its image: for rows that begin in a cache."""
    inputs = {
        name: value.repeat_interleave(cases, dim=0)
        for name, value in prompt.inputs.items()
        if counts_tokens(prompt, name) and _behind_cache(prompt, name)
    }
    ids = position_ids(prompt)
    if ids.dim() > 2 or "position_ids" in prompt.inputs:  # transformers would count them by itself, without the image
        inputs["position_ids"] = ids.repeat_interleave(cases, dim=ids.dim() - 2)
    return _repeated(prompt, cases, {**settings(prompt), **inputs})


def repeated_embeddings(prompt: Prompt, cases: int, embedded: torch.Tensor) -> Layout:
    """The same prompt in every row of a batch, given as what enters the decoder."""
    inputs = {
        name: value.repeat_interleave(cases, dim=0)
        for name, value in prompt.inputs.items()
        if counts_tokens(prompt, name) and name != "input_ids"
    }
    ids = position_ids(prompt)
    inputs["position_ids"] = ids.repeat_interleave(cases, dim=ids.dim() - 2)
    inputs["inputs_embeds"] = embedded.repeat_interleave(cases, dim=0)
    return _repeated(prompt, cases, {**settings(prompt), **inputs})


# what need not run --------------------------------------------------------------------------------


def after_prefix(layout: Layout, prefix: int, cache: Any) -> Layout:
    """A layout of which the tokens before `prefix`, which have been run, are in a cache."""
    prompt = layout.prompt
    inputs = settings(prompt) | {
        name: value[:, prefix:]
        for name, value in prompt.inputs.items()
        if counts_tokens(prompt, name) and _behind_cache(prompt, name)
    }
    inputs["attention_mask"] = prompt.inputs["attention_mask"]
    inputs |= {"position_ids": position_ids(prompt)[..., prefix:], cache_name(): cache, "use_cache": True}
    return replace(layout, prompt=replace(prompt, inputs=inputs), start=prefix)


def _behind_cache(prompt: Prompt, name: str) -> bool:
    """Whether tokens behind a cache are given an input `[row, token, ...]`.

    Which tokens are an image's is left out, because none of them is; but layers may treat the marks around it so too.
    """
    named = ("input_ids", "attention_mask", *view_of(prompt.model).family.token_kinds)
    return prompt.inputs[name].dim() > 2 or name in named


def from_layer(layout: Layout, depth: int, states: torch.Tensor) -> Layout:
    """A layout that skips the layers before `depth`: `states` `[position, width]` stand in for their output."""
    rows, cases = len(layout.prompt), len(layout.placements)
    return replace(layout, depth=depth, entering=states.repeat(cases // rows, 1).expand(rows, -1, -1))
