"""What a readout asks of one row of the batch, as the functions of `device.readouts` take it."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from ..families import HeadCall
from ..prompts.ranges import Ranges
from .writes import HeadChoice


class AttentionRequest(NamedTuple):
    """Attention probabilities from `queries` to `keys` in some heads (None is all).

    `reduce` is a reduction of `nv.Attention`, and `top` how many keys the reduction `"top"` gives. `changes` are what
    the plan does to this attention behind the softmax, see `device.weights`.
    """

    row: int
    queries: Ranges
    keys: Ranges
    heads: tuple[int, ...] | None
    reduce: str
    top: int
    changes: tuple[Any, ...] = ()

    def plain(self) -> tuple[Any, ...]:
        """For `readouts.attention_rows` and `readouts.edges_used`."""
        return self.row, self.queries.pairs, self.keys.pairs, self.heads, (self.reduce, self.top), self.changes


class ContributionRequest(NamedTuple):
    """What keys add to queries through the output projection, in some heads (None is all).

    `over` says over what vectors are summed before their norm is taken, `"heads"` and `"keys"`; `gate` is the call that
    gives the factors of the heads' outputs, empty where there are none; `changes` as in `AttentionRequest`.
    """

    row: int
    queries: Ranges
    keys: Ranges
    heads: tuple[int, ...] | None
    over: tuple[str, ...]
    gate: str
    changes: tuple[Any, ...] = ()

    def plain(self) -> tuple[Any, ...]:
        """For `device.contributions`."""
        return self.row, self.queries.pairs, self.keys.pairs, self.heads, (self.over, self.gate), self.changes


class StateRequest(NamedTuple):
    """Hidden states at positions; at a site of heads, of these heads."""

    row: int
    positions: Ranges
    heads: HeadChoice | None = None

    def plain(self) -> tuple[Any, ...]:
        """For `readouts.hidden_rows`, `embedding_rows` and `feature_rows`, and the readouts of `attention_parts`."""
        heads = () if self.heads is None else (tuple(self.heads),)
        return (self.row, self.positions.pairs, *heads)


class WordRequest(NamedTuple):
    """Words that states at positions stand for: the `top` most probable, or `tokens` where there are some.

    `at_once` is how many states' logits exist at a time, and `head` how they are computed.
    """

    row: int
    positions: Ranges
    top: int
    tokens: tuple[int, ...]
    at_once: int
    head: HeadCall

    def plain(self) -> tuple[Any, ...]:
        """For `lenses.word_rows`."""
        return self.row, self.positions.pairs, (self.top, self.tokens), self.at_once, tuple(self.head.settings)


ReadOfRow: TypeAlias = AttentionRequest | ContributionRequest | StateRequest | WordRequest
"""What is asked of one row in one layer."""


class LogitRequest(NamedTuple):
    """Logits at some of the columns that a forward keeps."""

    row: int
    columns: tuple[int, ...]

    def plain(self) -> tuple[Any, ...]:
        """For `readouts.logit_rows`."""
        return tuple(self)


class ScoreRequest(NamedTuple):
    """The score of a token at one of the columns that a forward keeps."""

    row: int
    column: int
    token: int

    def plain(self) -> tuple[Any, ...]:
        """For `readouts.answer_scores`."""
        return tuple(self)
