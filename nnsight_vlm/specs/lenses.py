"""What words the states of a layer stand for, through the model's final norm and head."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..arguments import as_index, listed, refuse, whole_number
from ..device.lenses import word_rows
from ..errors import SpecError
from ..families import unsupported
from ..lowering.layers import Layers, layer_numbers, require_ascending_layers
from ..lowering.read_requests import WordRequest
from ..lowering.resolve import Resolver
from ..prompts.where import Where, as_tuples, require_ascending
from .measurements import Readout, ReadRequest, some_layers

TOP = 5
"""How many words a lens gives unless told otherwise."""
LEAST, MOST = 2**18, 2**24
"""Within these many logits, those of a block of states exist at once: 1 MiB to 64 MiB in float32."""
SHARE = 24
"""Within them a block is one of so many of all states that are looked at. Smaller ones take the head longer: it is as
fast as it can be with a few hundred states at a time."""


@dataclass(frozen=True)
class Lens(Readout):
    """The words that states of the residual stream stand for: `[layer, position, word, 3]`.

    A layer's output goes through the model's own final norm and head (the logit lens, nostalgebraist 2020; of image
    tokens, Neo et al., arXiv 2410.07149), with all that the model does to its logits: at the last layer the words are
    the model's own. The three numbers of a word are its token, its rank (0 is the most probable; ties count as better)
    and its log-probability, in float32, or float64 as the model.

    All of it is done where the model is, so many states at a time that their logits take a 20th of what all would, and
    64 MiB in float32 at most.

    Args:
        where: group name(s) or positions of the decoder's sequence.
        layers: which layers.
        top: how many words of each state, the most probable first; 5 unless told otherwise.
        tokens: token ids to look at instead, in their order: the rank of an answer by layer.

    Raises:
        SpecError: no such number of words, a token that is no id, or both `top` and `tokens`.
    """

    where: Where
    layers: Layers = field(default="all", kw_only=True)
    top: int | None = field(default=None, kw_only=True)
    tokens: tuple[int, ...] | int | None = field(default=None, kw_only=True)
    stage: str = field(default="decoder", init=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("where", "layers"):
            object.__setattr__(self, name, as_tuples(getattr(self, name)))
        require_ascending(self.where)
        require_ascending_layers(self.layers)
        if self.top is not None:
            object.__setattr__(self, "top", whole_number("top", self.top, least=1, kind="number of words"))
        if self.tokens is not None:
            object.__setattr__(self, "tokens", _token_ids(self.tokens))
            if self.top is not None:
                raise SpecError(
                    f"top={self.top} asks for the most probable words, and tokens={self.tokens!r} for these; write one "
                    "nv.Lens for each"
                )

    def named(self) -> dict[str, Where]:
        return {"where": self.where}

    def lower(self, resolver: Resolver) -> Iterator[ReadRequest]:
        here = resolver.at(self.stage)
        if here.ranges(self.where).outside:
            why = unsupported(here.family)["image lens"]
            raise SpecError(f"where={self.where!r}: {why}; write groups of the text")
        layers, places = some_layers(here.ordered_layers("residual", self.layers)), here.places(self.where)
        head = resolver.head()
        top, tokens = self._asked(head.words)
        at_once = _at_once(len(layers) * len(here.positions(self.where)), head.words)
        request = WordRequest(here.placement.row, places, top, tokens, at_once, head)
        for layer in layers:
            yield ReadRequest(self.stage, layer, "residual", word_rows, request)

    def _asked(self, words: int) -> tuple[int, tuple[int, ...]]:
        """How many of the most probable words, or which tokens, of a model of so many words.

        Raises:
            SpecError: it has fewer, or no such token.
        """
        tokens: Any = self.tokens or ()
        unknown = [token for token in tokens if token >= words]
        if unknown:
            raise SpecError(f"tokens={self.tokens!r}: {unknown[0]} is no token id; the model has 0..{words - 1}")
        top = 0 if tokens else self.top or TOP
        if top > words:
            raise SpecError(f"top={top} words were asked for, and the model has {words}")
        return top, tokens

    def numbers(self, resolver: Resolver) -> int:
        here, tokens = resolver.at(self.stage), self.tokens
        words = len(tokens) if isinstance(tokens, tuple) else self.top or TOP
        return 3 * words * len(layer_numbers(self.layers, here.spec.layer_count)) * len(here.positions(self.where))

    def assemble(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(layers))


def _token_ids(given: Any) -> tuple[int, ...]:
    """Token ids as a user gives them: one or several.

    Raises:
        SpecError: something else, or none.
    """
    alone = as_index(given)
    write = "a token id or several, tokens=[17, 23]"
    some = (given,) if alone is not None else listed("tokens", given, write)
    ids = tuple(as_index(token) for token in some)
    if not ids or any(token is None or token < 0 for token in ids):
        refuse("tokens", given, "list of token ids", write)
    return tuple(token for token in ids if token is not None)


def _at_once(states: int, words: int) -> int:
    """Of how many states the logits exist at a time."""
    return max(1, min(max(states // SHARE, LEAST // words), MOST // words))
