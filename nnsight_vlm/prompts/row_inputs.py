"""Inputs of a part of an encoding, and of an encoding that has grown: of one row, and of a prompt with its answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from ..arguments import refuse, whole_number
from ..families import Model, view_of
from ..families.options import Counted
from ..grids import Cells
from .carried import counts_tokens, is_known
from .token_map import TokenMap
from .where import as_tuples

if TYPE_CHECKING:
    from .prompt import Prompt


def _groups_of(value: torch.Tensor, rows: Sequence[TokenMap]) -> list[int]:
    """How many groups of pictures belong to each row, of which `value` says how many pictures each has."""
    sizes, entries = iter(value.tolist()), list[int]()
    for tokens in rows:
        pictures = taken = 0
        while pictures < len(tokens.images):
            pictures, taken = pictures + int(next(sizes)), taken + 1
        entries.append(taken)
    return entries


def _pieces(shown: Sequence[Cells]) -> int:
    return sum(cells.pieces for cells in shown)


def _columns_of(value: torch.Tensor, rows: Sequence[TokenMap]) -> list[int]:
    """How many columns belong to each row, all image tokens having equally many."""
    tokens = [sum(len(places) for places in row.images) for row in rows]
    return [value.shape[-1] * count // max(sum(tokens), 1) for count in tokens]


ENTRIES: dict[Counted, Callable[[torch.Tensor, Sequence[TokenMap]], list[int]]] = {
    "row": lambda _value, rows: [1] * len(rows),
    "image": lambda _value, rows: [len(tokens.images) for tokens in rows],
    "piece": lambda _value, rows: [_pieces(tokens.cells) for tokens in rows],
    "token": lambda _value, rows: [sum(len(cells.places) for cells in tokens.cells) for tokens in rows],
    "group": _groups_of,
    "column": _columns_of,
    "video": lambda _value, rows: [len(tokens.videos) for tokens in rows],
    "video piece": lambda _value, rows: [_pieces(tokens.video_cells) for tokens in rows],
    "shown piece": lambda _value, rows: [_pieces((*tokens.cells, *tokens.video_cells)) for tokens in rows],
}
"""How many entries of such an input belong to each row."""


def counted_dimension(model: Model, name: str) -> int:
    """The dimension along which an input lists its entries."""
    return -1 if view_of(model).family.inputs.get(name) == "column" else 0


def answer_ids(model: Model, name: str, given: Any) -> tuple[int, ...]:
    """The token ids of an answer, as a user gives them.

    Raises:
        SpecError: no list, or no token ids of the model.
    """
    ids, words = as_tuples(given), view_of(model).vocab_size
    if not isinstance(ids, tuple):
        refuse(name, given, "list of token ids", f"{name}=[5, 7]")
    return tuple(whole_number(name, token, least=0, most=words - 1, kind="token id of this model") for token in ids)


def answers_given(prompt: Prompt, given: Any) -> list[tuple[int, ...]]:
    """The token ids of an answer for each row, as a user gives them.

    Raises:
        SpecError: not an answer for each row, or answers of different length.
    """
    listed = as_tuples(given)
    if not isinstance(listed, tuple) or len(listed) != len(prompt):
        refuse("answers", given, f"list of {len(prompt)} answer(s), one a row", "answers=[[5, 7], ...]")
    answers = [answer_ids(prompt.model, f"answers[{row}]", answer) for row, answer in enumerate(listed)]
    if len(set(map(len, answers))) > 1:
        refuse("answers", given, "list of answers of one length", "equally many token ids for every row")
    return answers


def grown_inputs(prompt: Prompt, answers: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The inputs of a prompt with an answer after each row, `[row, token]`; all answers are equally long."""
    family, inputs = view_of(prompt.model).family, dict(prompt.inputs)
    ids = inputs[family.tokens]
    added = torch.tensor([list(answer) for answer in answers], dtype=torch.long, device=ids.device)
    added = added.reshape(len(prompt), -1)
    length = added.shape[1]
    for name, value in inputs.items():
        if name == family.tokens:
            inputs[name] = torch.cat([value, added], dim=1)
        elif name == "position_ids":
            following = 1 + torch.arange(length, device=value.device)
            inputs[name] = torch.cat([value, value[..., -1:] + following], dim=-1)
        elif family.tokens == "input_ids" and counts_tokens(prompt, name):
            extension = _at_generated_tokens(prompt, name, length)
            inputs[name] = torch.cat([value, extension], dim=1)
    return inputs


def _at_generated_tokens(prompt: Prompt, name: str, length: int) -> torch.Tensor:
    """The entries of an input at generated tokens: those of the last token, or the value that the family has."""
    value: torch.Tensor = prompt.inputs[name]
    last = value[:, -1:].expand(-1, length, *value.shape[2:])
    if name == "attention_mask" or value.dim() > 2 or not is_known(prompt, name):
        return last
    return torch.full_like(last, view_of(prompt.model).family.new_token_values.get(name, 0))


def row_input(prompt: Prompt, name: str, number: int) -> Any:
    """The part of an input that belongs to a row, without padding."""
    value, tokens, family = prompt.inputs[name], prompt.rows[number], view_of(prompt.model).family
    if name in family.inputs:
        entries = ENTRIES[family.inputs[name]](value, prompt.rows)
        start, stop = sum(entries[:number]), sum(entries[: number + 1])
        own = value[start:stop] if not counted_dimension(prompt.model, name) else value[..., start:stop]
        if name in family.indices:
            return moved_indices(own, -_places_before(prompt, family.indices[name], number))
        return _without_padded_question(prompt, name, own, number)
    if name == "position_ids":
        return value[..., number : number + 1, tokens.start : tokens.stop]
    if counts_tokens(prompt, name):
        padded = tokens if family.tokens == "input_ids" else tokens.stage("encoder")
        return value[number : number + 1, padded.start : padded.stop]
    return value[number : number + 1] if name == family.tokens else value


def moved_indices(indices: torch.Tensor, by: int) -> torch.Tensor:
    """Indices into an input to which `by` more entries were added in front; -1 stays, which stands for none."""
    return torch.where(indices >= 0, indices + by, indices)


def places_in(value: torch.Tensor) -> int:
    """How many places an input has that another holds indices into: see `Family.indices`."""
    return len(value) * value.shape[1]


def _places_before(prompt: Prompt, name: str, number: int) -> int:
    """How many places of an input belong to rows before a row."""
    value = prompt.inputs[name]
    counted = view_of(prompt.model).family.inputs[name]
    return places_in(value[: sum(ENTRIES[counted](value, prompt.rows)[:number])])


def _without_padded_question(prompt: Prompt, name: str, value: torch.Tensor, number: int) -> torch.Tensor:
    """A row's part of an input; of a question that a stage reads, without the padding behind it.

    Padding before it stays: it is part of what the model computes, because places are counted from it.
    """
    for stage in view_of(prompt.model).family.stages.values():
        if stage.text and name in (stage.text, stage.text_mask):
            real = prompt.inputs[stage.text_mask][number].nonzero()
            return value[:, : int(real.max()) + 1] if len(real) else value
    return value
