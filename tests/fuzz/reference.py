"""The reference of the fuzz: a transformers model whose attention is spelled out, under plain torch hooks, in float64.

Nothing of nnsight or of this package is used: `test_fuzz.py` holds that. Every prompt is run alone, without padding,
without a cache and with nothing shared, whatever the package does with it. Positions of image tokens are found in the
token ids, the image features' places in the model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .paths import MEMBERS, Attends, Stage

CLOSED = -1e4
"""What a mask adds to the score of a closed edge is below this."""


class Spot(NamedTuple):
    """A place in a model: a stage, a site, and a layer, -1 before the first."""

    stage: str
    site: str
    layer: int


FEATURES = Spot("features", "features", -1)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Edges of one attention that are closed: heads (None for all), queries and keys as they index the scores."""

    spot: Spot
    heads: tuple[int, ...] | None
    queries: tuple[int, ...]
    keys: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Write:
    """A state that is replaced: from `[position, width]` of these places to what takes their place."""

    spot: Spot
    places: tuple[int, ...]
    change: Callable[[torch.Tensor], torch.Tensor]


@dataclass(kw_only=True)
class Outcome:
    """What one forward computes: logits `[position, vocabulary]`, states `[position, width]`, attention weights
    `[head, query, key]`, and which edges the model itself leaves open there.
    """

    cuts: Sequence[Cut]
    writes: Sequence[Write]
    attentions: Mapping[int, Spot]
    logits: torch.Tensor = field(init=False)
    states: dict[Spot, torch.Tensor] = field(default_factory=dict)
    weights: dict[Spot, torch.Tensor] = field(default_factory=dict)
    open: dict[Spot, torch.Tensor] = field(default_factory=dict)


RUNNING: list[Outcome] = []
"""The forward that runs now, if any."""


def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    position_bias: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as transformers asks for it; tensors are `[row, head, position, width]`."""
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key)
    scores = scores * (scaling if scaling is not None else query.shape[-1] ** -0.5)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if position_bias is not None:
        scores = scores + position_bias
    closed = torch.zeros_like(scores, dtype=torch.bool)
    if mask is not None:
        scores, closed = scores + mask, closed | (mask < CLOSED)
    outcome = RUNNING[-1] if RUNNING else None
    spot = None if outcome is None else outcome.attentions.get(id(module))
    if outcome is not None and spot is not None:
        outcome.open[spot] = ~closed[0]
        for cut in outcome.cuts:
            if cut.spot == spot:
                heads = range(scores.shape[1]) if cut.heads is None else cut.heads
                edges = torch.meshgrid(*map(torch.tensor, (list(heads), cut.queries, cut.keys)), indexing="ij")
                closed[0][edges] = True
    weights = torch.softmax(scores.masked_fill(closed, -torch.inf), dim=-1).nan_to_num(0.0)
    if outcome is not None and spot is not None:
        outcome.weights[spot] = weights[0]
    return torch.einsum("bhqk,bhkd->bqhd", weights, value).contiguous(), weights


ALL_ATTENTION_FUNCTIONS.register("fuzz_reference", attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("fuzz_reference", eager_mask)


def gated(number: int, layer: Any) -> Any:
    """The forward of Mllama's layers with cross-attention, because what they add no module returns:
    `x + tanh(gate) * cross(norm(x))`, then `x + tanh(gate) * rows * mlp(norm(x))`.
    """

    def settle(site: str, state: torch.Tensor) -> torch.Tensor:
        return settled(RUNNING[-1], Spot("decoder", site, number), state) if RUNNING else state

    def forward(
        hidden_states: torch.Tensor,
        cross_attention_states: Any,
        cross_attention_mask: Any,
        full_text_row_masked_out_mask: Any,
        **options: Any,
    ) -> torch.Tensor:
        taken = {name: value for name, value in options.items() if name in ("cache", "past_key_values")}
        mixed, _ = layer.cross_attn(
            hidden_states=layer.input_layernorm(hidden_states),
            cross_attention_states=cross_attention_states,
            attention_mask=cross_attention_mask,
            **taken,
        )
        after = hidden_states + settle("cross", layer.cross_attn_attn_gate.tanh() * mixed)
        added = layer.mlp(layer.post_attention_layernorm(after))
        if full_text_row_masked_out_mask is not None:
            added = added * full_text_row_masked_out_mask[:, 0]
        return after + settle("mlp", layer.cross_attn_mlp_gate.tanh() * added)

    return forward


class Reference:
    """A member of the zoo under the reference's attention.

    Args:
        name: of the member.
        module: the transformers model, for the reference alone, in float64.
    """

    def __init__(self, name: str, module: Any) -> None:
        self.module, self.paths = module, MEMBERS[name]
        for stage in self.paths.stages.values():
            for part in module.get_submodule(stage.layers).modules():
                if hasattr(part, "config"):
                    part.config._attn_implementation_internal = "fuzz_reference"
            above = stage.layers.rpartition(".")[0]  # masks are made there
            if not stage.one and hasattr(module.get_submodule(above), "config"):
                module.get_submodule(above).config._attn_implementation_internal = "fuzz_reference"
        module.config.get_text_config()._attn_implementation_internal = "fuzz_reference"
        for stage in self.paths.stages.values():
            for number, layer in enumerate(self.layers(stage)) if stage.gated else ():
                if hasattr(layer, "cross_attn"):
                    layer.forward = gated(number, layer)
        self.attentions = {
            id(part): spot for spot, part in self._parts(lambda attends: attends.calls, ("attention", "cross"))
        }

    def layers(self, stage: Stage) -> list[Any]:
        part = self.module.get_submodule(stage.layers)
        return [part] if stage.one else list(part)

    def _parts(self, path: Callable[[Attends], str], sites: Sequence[str]) -> list[tuple[Spot, Any]]:
        """The modules of a kind of site, in the layers that have them."""
        found = []
        for name, stage in self.paths.stages.items():
            for site in sites:
                attends = getattr(stage, site)
                for number, layer in enumerate(self.layers(stage)) if attends is not None else ():
                    parts = dict(layer.named_modules())
                    if parts.get(attends.calls) is not None:
                        found.append((Spot(name, site, number), parts[path(attends)]))
        return found

    def states(self) -> list[tuple[Spot, Any]]:
        """The modules whose outputs are states; a gated layer's own forward gives its states, see `gated`."""
        found = self._parts(lambda attends: attends.adds, ("attention", "cross"))
        for name, stage in self.paths.stages.items():
            for number, layer in enumerate(self.layers(stage)):
                found.append((Spot(name, "residual", number), layer))
                if stage.mlp is not None:
                    found.append((Spot(name, "mlp", number), layer.get_submodule(stage.mlp)))
        if self.paths.projector is not None:
            found.append((FEATURES, self.module.get_submodule(self.paths.projector)))
        return found

    def _factor(self, spot: Spot) -> float:
        """By what a layer multiplies what a module returns before it adds it (Granite)."""
        if spot.site not in ("attention", "mlp"):
            return 1.0
        layer = self.layers(self.paths.stages[spot.stage])[spot.layer]
        return float(getattr(layer, "residual_multiplier", 1.0))

    def _gives_itself(self, spot: Spot) -> bool:
        stage = self.paths.stages.get(spot.stage)
        if stage is None or not stage.gated or spot.site not in ("cross", "mlp"):
            return False
        return hasattr(self.layers(stage)[spot.layer], "cross_attn")

    @torch.no_grad()
    def forward(self, inputs: Mapping[str, Any], cuts: Sequence[Cut] = (), writes: Sequence[Write] = ()) -> Outcome:
        """One forward of one prompt, with edges closed and states written, in the order of `writes` at each place."""
        outcome = Outcome(cuts=cuts, writes=writes, attentions=self.attentions)
        RUNNING.append(outcome)
        try:
            with ExitStack() as stack:
                for spot, part in self.states():
                    if self._gives_itself(spot):
                        continue
                    hook = leaving(outcome, spot, self._factor(spot))
                    stack.callback(part.register_forward_hook(hook).remove)
                for name, stage in self.paths.stages.items():
                    if stage.embedding:
                        hook = entering(outcome, Spot(name, "embedding", -1))
                        first = self.layers(stage)[0]
                        stack.callback(first.register_forward_pre_hook(hook, with_kwargs=True).remove)
                outcome.logits = self.module(**inputs, use_cache=False).logits[0]
        finally:
            RUNNING.pop()
        return outcome

    def feature_rows(self, inputs: Mapping[str, Any], stage: str, image: Sequence[int]) -> dict[int, int]:
        """From image tokens to rows of the projector's output; tokens that come from no row are left out.

        Found in the model: rows whose number has a bit are changed, and the tokens change with them.
        """
        first = Spot(stage, "embedding", -1)
        clean = self.forward(inputs).states
        count = len(clean[FEATURES])

        def changed(rows: Sequence[int]) -> set[int]:
            write = Write(spot=FEATURES, places=tuple(rows), change=lambda state: state.flip(-1) * 2 + 1)
            found = self.forward(inputs, writes=[write]).states[first]
            return {place for place in image if not torch.equal(found[place], clean[first][place])}

        there = changed(range(count))
        bits = [changed([row for row in range(count) if row >> bit & 1]) for bit in range(max(1, count.bit_length()))]
        return {place: sum(1 << bit for bit, some in enumerate(bits) if place in some) for place in sorted(there)}


def settled(outcome: Outcome, spot: Spot, state: torch.Tensor) -> torch.Tensor:
    """A state, written where the case says so, and recorded."""
    if spot in outcome.states and spot == FEATURES:
        return state  # a table of embeddings that is asked again, for the marks around an image
    streams = state.dim() == 4 and spot != FEATURES  # Gemma 3n
    flat = state.permute(1, 2, 0, 3).flatten(2) if streams else state
    held = flat.reshape(-1, flat.shape[-1]) if spot == FEATURES or flat.dim() == 2 else flat[0]
    held = held.clone()
    for write in outcome.writes:
        if write.spot == spot:
            held[list(write.places)] = write.change(held[list(write.places)])
    outcome.states[spot] = held
    if streams:
        return held[None].unflatten(2, (state.shape[0], -1)).permute(2, 0, 1, 3)
    return held.reshape(state.shape) if spot == FEATURES or state.dim() == 2 else torch.cat([held[None], state[1:]])


def leaving(outcome: Outcome, spot: Spot, factor: float) -> Any:
    """A hook on a module whose output, times a factor, is a state."""

    def settle(output: torch.Tensor) -> torch.Tensor:
        return settled(outcome, spot, output) if factor == 1 else settled(outcome, spot, output * factor) / factor

    def hook(_: Any, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return settle(output[0]), *output[1:]
        return settle(output)

    return hook


def entering(outcome: Outcome, spot: Spot) -> Any:
    def hook(_: Any, args: Any, kwargs: Any) -> Any:
        if kwargs.get("hidden_states") is not None:
            return args, {**kwargs, "hidden_states": settled(outcome, spot, kwargs["hidden_states"])}
        return (settled(outcome, spot, args[0]), *args[1:]), kwargs

    return hook
