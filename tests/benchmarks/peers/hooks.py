"""Plain transformers with forward hooks and one full forward per condition, as the code of many papers does it.

This runs in any environment with torch and transformers. `cases.py` uses the same functions in our own process, as the
naive way that this package is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch


class Cut(NamedTuple):
    """A knockout in one layer: the queries may no longer attend to the keys (both are positions)."""

    keys: Sequence[int]
    queries: Sequence[int]


def layers_of(module: Any) -> Any:
    return module.model.language_model.layers


@contextmanager
def knocked_out(module: Any, cuts: Mapping[int, Cut]) -> Iterator[None]:
    """A context in which attention has no edges from the queries to the keys of each layer's cut."""
    hooks = [
        layers_of(module)[layer].self_attn.register_forward_pre_hook(_mask_hook(layer, cut), with_kwargs=True)
        for layer, cut in cuts.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _mask_hook(layer: int, cut: Cut) -> Callable[..., Any]:
    def close_edges(attention: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden, cache = kwargs["hidden_states"], kwargs.get("past_key_values")
        cached = cache.get_seq_length(layer) if cache is not None else 0
        return args, {**kwargs, "attention_mask": closed_mask(kwargs.get("attention_mask"), hidden, cached, cut)}

    return close_edges


def closed_mask(mask: Any, hidden: torch.Tensor, cached: int, cut: Cut) -> Any:
    """A copy of the mask with the edges closed.

    Args:
        mask: what attention was given; None where it is implicitly causal (sdpa), then the causal mask is built.
        hidden: the states that attention was given, `[batch, query, width]`.
        cached: how many positions come before the first query.
        cut: the edges to close.
    """
    count = hidden.shape[1]
    if mask is None:
        positions = torch.arange(cached, cached + count)[:, None]
        mask = torch.zeros(1, 1, count, cached + count)
        mask = mask.masked_fill(torch.arange(cached + count)[None, :] > positions, float("-inf"))
    closed, keys = mask.clone(), torch.tensor(list(cut.keys))
    running = [query - cached for query in cut.queries if cached <= query < cached + count]
    closed[:, :, torch.tensor(running, dtype=torch.long)[:, None], keys[None, :]] = (
        False if closed.dtype == torch.bool else float("-inf")
    )
    return closed


@contextmanager
def steered(module: Any, layer: int, start: int, vector: torch.Tensor) -> Iterator[None]:
    """A context in which a vector is added to a layer's output from position `start` on, decoded tokens too."""
    passed = [0]

    def write(_: Any, __: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[:, max(0, start - passed[0]) :] += vector
        passed[0] += hidden.shape[1]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = layers_of(module)[layer].register_forward_hook(write)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def patched(module: Any, layer: int, positions: Sequence[int], values: torch.Tensor) -> Iterator[None]:
    """A context in which a layer's output is `values` `[position, width]` at the positions."""

    def write(_: Any, __: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        hidden[0, list(positions)] = values
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    hook = layers_of(module)[layer].register_forward_hook(write)
    try:
        yield
    finally:
        hook.remove()


def layer_outputs(module: Any, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The output of every layer in a clean run, `[position, width]` each."""
    outputs: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        outputs.append((output[0] if isinstance(output, tuple) else output)[0])

    hooks = [layer.register_forward_hook(keep) for layer in layers_of(module)]
    module(**inputs, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return outputs


@contextmanager
def head_patched(
    module: Any, layer: int, positions: Sequence[int], columns: slice, values: torch.Tensor
) -> Iterator[None]:
    """A context in which some columns of what an output projection is handed are `values` `[position, column]`."""

    def write(_: Any, args: Any) -> Any:
        heads = args[0].clone()
        heads[0, list(positions), columns] = values
        return (heads, *args[1:])

    hook = layers_of(module)[layer].self_attn.o_proj.register_forward_pre_hook(write)
    try:
        yield
    finally:
        hook.remove()


def head_outputs(module: Any, inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """What every output projection is handed in a clean run, `[position, width]` each."""
    outputs: list[torch.Tensor] = []
    parts = [layer.self_attn.o_proj for layer in layers_of(module)]
    hooks = [part.register_forward_pre_hook(lambda _, args: outputs.append(args[0][0])) for part in parts]
    module(**inputs, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return outputs


def attribution(
    module: Any, inputs: Mapping[str, Any], source: Mapping[str, Any], answer: int, heads: int
) -> list[torch.Tensor]:
    """What patching each layer's output, and each head, at each position would do to the answer, to first order.

    Two forwards and one backward: for each layer `[position]` of its output, then for each `[position, head]`.
    """

    def states(some: Mapping[str, Any]) -> tuple[list[torch.Tensor], torch.Tensor]:
        kept: list[torch.Tensor] = []
        layers = layers_of(module)
        hooks = [layer.register_forward_hook(lambda _, __, output: kept.append(_first(output))) for layer in layers]
        hooks += [
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args: kept.append(args[0])) for layer in layers
        ]
        if torch.is_grad_enabled():
            hooks += [layers[0].register_forward_pre_hook(lambda _, args: (args[0].requires_grad_(), *args[1:]))]
        logits = module(**some, logits_to_keep=1).logits[0, -1, answer]
        for hook in hooks:
            hook.remove()
        return kept, logits

    with torch.no_grad():
        wanted, _ = states(source)
    with torch.enable_grad():
        found, logit = states(inputs)
        slopes = torch.autograd.grad(logit, found)
    with torch.no_grad():
        moved = [(there - here) * slope for there, here, slope in zip(wanted, found, slopes, strict=True)]
    residual, mixed = moved[1::2], moved[::2]
    return [each[0].sum(-1) for each in residual] + [each[0].unflatten(-1, (heads, -1)).sum(-1) for each in mixed]


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


def answer_logit(module: Any, inputs: Mapping[str, Any], answer: int) -> float:
    return float(module(**inputs, logits_to_keep=1).logits[0, -1, answer])


def knockout_logits(
    module: Any, inputs: Mapping[str, Any], answer: int, conditions: Iterable[Mapping[int, Cut]]
) -> list[float]:
    """The answer's logit under every condition (each layer's cut), one forward each."""
    logits = []
    for cuts in conditions:
        with knocked_out(module, cuts):
            logits.append(answer_logit(module, inputs, answer))
    return logits


def answer_logprob(module: Any, inputs: Mapping[str, Any], answer: Sequence[int], cuts: Mapping[int, Cut]) -> float:
    """The log-probability of an answer's tokens in one forward; cuts of the last text token cut the answer's too."""
    ids = inputs["input_ids"]
    width, given = ids.shape[1], torch.tensor([answer[:-1]])
    grown = {**inputs, "input_ids": torch.cat([ids, given], 1)}
    grown["attention_mask"] = torch.ones_like(grown["input_ids"])
    own = list(range(width, width + given.shape[1]))
    further = {
        layer: Cut(cut.keys, [*cut.queries, *own] if width - 1 in cut.queries else cut.queries)
        for layer, cut in cuts.items()
    }
    with knocked_out(module, further):
        logits = module(**grown, logits_to_keep=len(answer)).logits[0].double()
    return float(logits.log_softmax(-1)[range(len(answer)), list(answer)].sum())


def attention_shares(
    module: Any, inputs: Mapping[str, Any], queries: Sequence[int], keys: Sequence[int]
) -> torch.Tensor:
    """Attention of queries to keys `[layer, head, query]`, from the full matrices that eager attention returns."""
    weights = module(**inputs, logits_to_keep=1, output_attentions=True).attentions
    return torch.stack([layer[0][:, list(queries)][..., list(keys)].sum(-1) for layer in weights])


def contributions(module: Any, inputs: Mapping[str, Any], query: int, keys: Sequence[int]) -> torch.Tensor:
    """Norms of what keys add to a query's row through the output projection, `[layer, head, key]`.

    From the full matrices that eager attention returns, and the values.
    """
    values: list[torch.Tensor] = []
    parts = [layer.self_attn.v_proj for layer in layers_of(module)]
    hooks = [part.register_forward_hook(lambda _, __, output: values.append(output[0, list(keys)])) for part in parts]
    attentions = module(**inputs, logits_to_keep=1, output_attentions=True).attentions
    for hook in hooks:
        hook.remove()
    found = []
    for layer, weights, value in zip(layers_of(module), attentions, values, strict=True):
        rows, attention = weights[0, :, query, list(keys)], layer.self_attn
        by_head = attention.o_proj.weight.unflatten(1, (len(rows), -1)).transpose(0, 1)  # [head, width, head_dim]
        own = value.unflatten(1, (-1, attention.head_dim)).transpose(0, 1)
        own = own.repeat_interleave(len(rows) // len(own), 0)
        found.append(rows * torch.matmul(own, by_head.transpose(1, 2)).norm(dim=-1))
    return torch.stack(found)


def _sweep(case: Any) -> list[float]:
    conditions = [{layer: Cut(case.image, case.text)} for layer in range(case.layers)]
    return knockout_logits(case.module, case.inputs, case.answer, conditions)


def _all_layers(case: Any) -> list[float]:
    cuts = dict.fromkeys(range(case.layers), Cut(case.image, case.text))
    return knockout_logits(case.module, case.inputs, case.answer, [cuts])


CASES = {
    "clean": lambda case: answer_logit(case.module, case.inputs, case.answer),
    "sweep": _sweep,
    "all layers": _all_layers,
    "share": lambda case: attention_shares(case.module, case.inputs, case.text, case.image),
}

if __name__ == "__main__":
    from common import load, serve

    serve(CASES, lambda folder, case: load(folder, "eager" if case == "share" else "sdpa"))
