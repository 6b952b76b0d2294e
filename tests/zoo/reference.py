"""Any family's forward with its attention spelled out by hand: what the tests of all families compare with.

Nothing of nnsight is used, and of nnsight_vlm the family row only: module paths. Attention is scores, the model's own
mask, -inf where an edge is cut, softmax, values. States are written and read by plain forward hooks. Generation is
greedy and without a cache: one forward over the whole sequence for every token.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from float64 import computing_in
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nnsight_vlm.families import Family, Stage
from nnsight_vlm.families.columns import config_value

Spot = tuple[str, str, int]
"""`(stage, "attention" or "cross", layer)`, or `(stage, site, layer)`; what has no layer has layer -1.

States of heads, at `"query"`, `"key"`, `"value"`, `"head"` and those of cross-attention, `"cross query"` and so on, are
`[row, position, head, head_dim]`.
"""
Cut = tuple[int, Sequence[int] | None, Sequence[int], Sequence[int]]
"""`(row, heads or None for all, queries, keys)`, as they index the scores."""
Write = Callable[[torch.Tensor], torch.Tensor]
"""From a state `[row, position, ...]`, features `[1, token, width]`, to the state that takes its place."""

FEATURES: Spot = ("features", "features", -1)
CLOSED = -1e4


@dataclass(kw_only=True)
class Reference:
    """One forward: what was changed in it, and everything that it computes.

    Attributes:
        cuts, writes: what is changed; `changes` of attention probabilities `[row, head, query, key]`.
        attentions: the modules that call attention, by `id`.
        logits: `[row, position, vocabulary]`.
        states: after any write, `[row, position, ...]`.
        weights: attention probabilities `[row, head, query, key]`.
    """

    cuts: Mapping[Spot, Sequence[Cut]]
    writes: Mapping[Spot, Write]
    changes: Mapping[Spot, Write]
    attentions: Mapping[int, Spot]
    logits: torch.Tensor = field(init=False)
    states: dict[Spot, torch.Tensor] = field(default_factory=dict)
    weights: dict[Spot, torch.Tensor] = field(default_factory=dict)


RUNNING: list[Reference] = []
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
    **others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention as transformers asks for it: `([row, query, head, width], [row, head, query, key])`."""
    assert not others.get("dropout") and others.get("s_aux") is None, "the reference has no dropout and no sinks"
    run = RUNNING[-1] if RUNNING else None
    spot = run.attentions.get(id(module)) if run else None
    if spot:
        query, key, value = (settled(run, spot, *part) for part in (("query", query), ("key", key), ("value", value)))
    share = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
    scores = query @ key.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if position_bias is not None:
        scores = scores + position_bias
    if mask is not None:
        assert mask.dtype != torch.bool, "masks are built as eager attention wants them"
        scores = (scores + mask).masked_fill(mask < CLOSED, float("-inf"))
    for row, heads, queries, keys in run.cuts.get(spot, ()) if run else ():
        for head in range(scores.shape[1]) if heads is None else heads:
            for place in queries:
                scores[row, head, place, list(keys)] = float("-inf")
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)  # who may read nothing reads nothing
    if spot and spot in run.changes:
        weights = run.changes[spot](weights.clone())
    if spot:
        run.weights[spot] = weights
    return (weights @ value).transpose(1, 2).contiguous(), weights


def settled(run: Reference, spot: Spot, part: str, handed: torch.Tensor) -> torch.Tensor:
    """A query, key or value `[row, head, position, head_dim]`, written and recorded as `[row, position, head, ...]`."""
    stage, kind, layer = spot
    at = stage, part if kind == "attention" else f"cross {part}", layer
    held = handed.transpose(1, 2)
    held = run.writes[at](held.clone()) if at in run.writes else held
    run.states[at] = held
    return held.transpose(1, 2)


ALL_ATTENTION_FUNCTIONS.register("reference", attention)
ALL_MASK_ATTENTION_FUNCTIONS.register("reference", eager_mask)


def prepare(module: Any, family: Family) -> Any:
    """The module with `attention` in every stage of its family."""
    for stage in family.stages.values():
        for part in (module.get_submodule(stage.entry or stage.layers), module.get_submodule(stage.layers)):
            for child in part.modules():
                if hasattr(child, "config"):
                    child.config._attn_implementation_internal = "reference"
    module.config.get_text_config()._attn_implementation_internal = "reference"
    return module


def layers(module: Any, stage: Stage) -> list[Any]:
    """The layers of a stage; some have one, in no list."""
    part = module.get_submodule(stage.layers)
    return list(part) if stage.layer_count else [part]


def plain(path: str) -> str:
    """A path as torch spells it: nnsight has another name for modules that are called `output`."""
    return path.replace("E_output", "output")


def modules(module: Any, family: Family, site: str) -> Iterator[tuple[Spot, Any]]:
    """Where a site of states, or an `"attention call"` or `"cross call"`, is; in layers that have it."""
    for name, stage in family.stages.items():
        attends = {"attention": stage.attention, "cross": stage.cross}.get(site.partition(" ")[0])
        if site not in ("residual", "mlp") and attends is None:
            continue
        path = {"residual": "", "mlp": stage.mlp}.get(site) if attends is None else attends.output
        for number, layer in enumerate(layers(module, stage)):
            if path is None or (attends is not None and part_at(layer, plain(attends.module)) is None):
                continue
            if attends is not None and attends.layers == "none":
                continue
            inside = {"call": attends.module, "projection": attends.projection} if attends else {}
            part = part_at(layer, plain(inside.get(site.partition(" ")[2], path)))
            assert part is not None, (name, site, number)
            yield (name, site.partition(" ")[0], number), part


def part_at(layer: Any, path: str) -> Any:
    """The module at a path in a layer, the layer itself at an empty one, or None."""
    for name in filter(None, path.split(".")):
        layer = None if layer is None else layer._modules.get(name)
    return layer


def folded(state: torch.Tensor, rows: int) -> torch.Tensor:
    """A state as `[row, position, ...]`: without rows of its own, or with several streams in front."""
    if state.dim() == 2:
        return state.unflatten(0, (rows, -1))
    return state if state.dim() == 3 else state.permute(1, 2, 0, 3)


def unfolded(state: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of `folded`."""
    return state.permute(2, 0, 1, 3) if like.dim() == 4 else state.reshape(like.shape)


def gated_layer(
    layer: Any,
    stage: str,
    number: int,
    settle: Callable[[Spot, torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    cross_attention_states: Any,
    cross_attention_mask: Any,
    attention_mask: Any,
    full_text_row_masked_out_mask: Any,
    position_ids: Any = None,
    use_cache: Any = None,
    position_embeddings: Any = None,
    **others: Any,
) -> torch.Tensor:
    """Mllama's layers with cross-attention: what they add is behind a gate, which no module returns."""
    mixed, _ = layer.cross_attn(
        hidden_states=layer.input_layernorm(hidden),
        attention_mask=cross_attention_mask,
        cross_attention_states=cross_attention_states,
        **others,
    )
    hidden = hidden + settle((stage, "cross", number), torch.tanh(layer.cross_attn_attn_gate) * mixed)
    mixed = layer.mlp(layer.post_attention_layernorm(hidden))
    if full_text_row_masked_out_mask is not None:
        mixed = full_text_row_masked_out_mask[:, 0] * mixed
    return hidden + settle((stage, "mlp", number), torch.tanh(layer.cross_attn_mlp_gate) * mixed)


def multiplier(module: Any, family: Family, spot: Spot) -> float:
    """By what a layer multiplies what a module returns before it adds it (Granite)."""
    stage, site, number = spot
    if site not in ("attention", "mlp"):
        return 1.0
    return float(getattr(layers(module, family.stages[stage])[number], "residual_multiplier", 1.0))


GATED = {"MllamaCrossAttentionDecoderLayer": gated_layer}
"""Layers that are written out by hand, by the name of their class."""


@contextmanager
def hooked(module: Any, family: Family, run: Reference, rows: int) -> Iterator[None]:
    """Hooks that write and record every state."""

    def settle(spot: Spot, state: torch.Tensor) -> torch.Tensor:
        if spot == FEATURES and spot in run.states:
            return state  # a table of embeddings is asked for the image's marks too, behind the image
        held = state.reshape(1, -1, state.shape[-1]) if spot == FEATURES else folded(state, rows)
        held = run.writes[spot](held.clone()) if spot in run.writes else held
        run.states[spot] = held
        return held.reshape(state.shape) if spot == FEATURES else unfolded(held, state)

    def leaving(spot: Spot) -> Any:
        factor = multiplier(module, family, spot)

        def settled(state: torch.Tensor) -> torch.Tensor:
            return settle(spot, state) if factor == 1 else settle(spot, state * factor) / factor

        def hook(_: Any, __: Any, output: Any) -> Any:
            if isinstance(output, list):
                return None  # of each tile: no site
            if isinstance(output, tuple):
                return settled(output[0]), *output[1:]
            return settled(output)

        return hook

    def entering(spot: Spot) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> Any:
            for name in ("inputs_embeds", "hidden_states"):
                if kwargs.get(name) is not None:
                    return args, {**kwargs, name: settle(spot, kwargs[name])}
            return (settle(spot, args[0]), *args[1:]), kwargs

        return hook

    def projecting(spot: Spot, count: int) -> Any:
        def hook(_: Any, args: Any) -> Any:
            held = folded(args[0], rows).unflatten(-1, (count, -1))
            held = run.writes[spot](held.clone()) if spot in run.writes else held
            run.states[spot] = held
            return (held.flatten(-2).reshape(args[0].shape), *args[1:])

        return hook

    with ExitStack() as stack:
        for site in ("attention", "cross"):
            for (name, _, number), part in modules(module, family, f"{site} projection"):
                config = config_value(module.config, family.stages[name].config)
                spot = name, "head" if site == "attention" else "cross head", number
                hook = projecting(spot, getattr(config, family.stages[name].head_count))
                stack.callback(part.register_forward_pre_hook(hook).remove)
        by_hand = set[Spot]()
        for (name, _, number), part in modules(module, family, "residual"):
            if type(part).__name__ in GATED:
                forward = functools.partial(GATED[type(part).__name__], part, name, number, settle)
                stack.enter_context(patch.object(part, "forward", forward))
                by_hand |= {(name, "cross", number), (name, "mlp", number)}
        for site in ("residual", "attention", "cross", "mlp"):
            for spot, part in modules(module, family, site):
                if spot not in by_hand:
                    stack.callback(part.register_forward_hook(leaving(spot)).remove)
        for name, stage in family.stages.items():
            if stage.embedding is not None:
                part = module.get_submodule(stage.embedding)
                hook = entering((name, "embedding", -1))
                stack.callback(part.register_forward_pre_hook(hook, with_kwargs=True).remove)
        if family.projector is not None:
            stack.callback(module.get_submodule(family.projector).register_forward_hook(leaving(FEATURES)).remove)
        yield


@torch.no_grad()
def forward(
    module: Any,
    family: Family,
    inputs: Mapping[str, Any],
    cuts: Mapping[Spot, Sequence[Cut]] | None = None,
    writes: Mapping[Spot, Write] | None = None,
    changes: Mapping[Spot, Write] | None = None,
) -> Reference:
    """One forward of an encoding, without a cache."""
    calls = {
        id(part): spot
        for kind in ("attention call", "cross call")
        for spot, holder in modules(module, family, kind)
        for part in holder.modules()
    }
    run = Reference(cuts=cuts or {}, writes=writes or {}, changes=changes or {}, attentions=calls)
    RUNNING.append(run)
    try:
        with hooked(module, family, run, len(inputs[family.tokens])):
            run.logits = module(**inputs, use_cache=False).logits
    finally:
        RUNNING.pop()
    return run


def greedy(
    module: Any,
    family: Family,
    steps: int,
    grown: Callable[[Sequence[int]], Mapping[str, Any]],
    planned: Callable[[int], tuple[Mapping[Spot, Sequence[Cut]], Mapping[Spot, Write]]],
) -> tuple[list[int], torch.Tensor]:
    """The tokens that follow, and the logits `[step, vocabulary]` that chose them.

    `grown` gives the encoding with an answer behind it, `planned` the cuts and writes behind so many tokens of it.
    """
    never = module.generation_config.suppress_tokens or []
    tokens, logits = list[int](), list[torch.Tensor]()
    for step in range(steps):
        logits.append(forward(module, family, grown(tokens), *planned(step)).logits[0, -1])
        allowed = logits[-1].clone()
        allowed[never] = float("-inf")
        tokens.append(int(allowed.argmax()))
    return tokens, torch.stack(logits)


def feature_rows(
    module: Any, family: Family, inputs: Mapping[str, Any], places: Sequence[int], stage: str = "decoder"
) -> list[int]:
    """For each image token its row of the projector's output, -1 for none.

    Found in the model: rows whose number has a bit are changed, and tokens change with them.
    """
    clean = forward(module, family, inputs).states
    length = clean[FEATURES].shape[1]

    def changed(rows: Sequence[int]) -> torch.Tensor:
        values = clean[FEATURES][0, rows].flip(-1) + 1
        found = forward(module, family, inputs, writes={FEATURES: setter(0, rows, values)}).states
        held, was = (states[stage, "embedding", -1][0, list(places)] for states in (found, clean))
        return (held != was).any(-1).long()

    there = changed(range(length))
    bits = [changed([n for n in range(length) if n >> bit & 1]) << bit for bit in range((length - 1).bit_length())]
    return torch.where(there == 1, torch.stack(bits).sum(0), -1).tolist()


def setter(row: int, places: Sequence[int], values: torch.Tensor | float) -> Write:
    """A write of `values` at places of a row."""

    def write(state: torch.Tensor) -> torch.Tensor:
        state[row, list(places)] = values
        return state

    return write


def mean(row: int, places: Sequence[int]) -> Write:
    """A write of the mean over places of a row."""

    def write(state: torch.Tensor) -> torch.Tensor:
        state[row, list(places)] = state[row, list(places)].mean(0)
        return state

    return write


def cuts(
    layers: Sequence[int],
    targets: Sequence[int],
    sources: Sequence[int],
    heads: Mapping[int, Sequence[int]] | None = None,
    stage: str = "decoder",
    kind: str = "attention",
) -> dict[Spot, list[Cut]]:
    """Edges of row 0 along which targets read sources, in these layers; `heads` by layer, or all."""
    if not targets or not sources:
        return {}
    chosen = dict.fromkeys(layers) if heads is None else {layer: heads[layer] for layer in layers if layer in heads}
    return {(stage, kind, layer): [(0, some, targets, sources)] for layer, some in chosen.items()}


@functools.cache
def load(name: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Family]:
    """A member of the zoo for the reference only, and its family, whose vision tower is left as it is."""
    from nnsight_vlm.families.lookup import family_of

    from . import ZOO
    from .parts import in_dtype

    with computing_in(dtype):
        module = in_dtype(ZOO[name].module(ZOO[name].implementations[0]), dtype)
    family = replace(family_of(module.config), tower=None, towers={})
    return prepare(module, family), family
