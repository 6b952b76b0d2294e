"""Plain transformers with forward hooks, one full forward a condition: what many papers' code does.

Runs in any environment with torch and transformers. `cases.py` uses the same functions, in our own process, as the
naive way that our figures are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

Cut = tuple[Sequence[int], Sequence[int]]
"""`(keys, queries)`: positions that are read, and positions that may no longer read them."""


def layers_of(module: Any) -> Any:
    return module.model.language_model.layers


@contextmanager
def knocked(module: Any, cuts: Mapping[int, Cut]) -> Iterator[None]:
    """While this is open, attention has no edges from the queries to the keys in the layers that `cuts` name."""
    hooks = [
        layers_of(module)[layer].self_attn.register_forward_pre_hook(_closing(layer, *cut), with_kwargs=True)
        for layer, cut in cuts.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _closing(layer: int, keys: Sequence[int], queries: Sequence[int]) -> Callable[..., Any]:
    def close(attention: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden, cache = kwargs["hidden_states"], kwargs.get("past_key_values")
        done = cache.get_seq_length(layer) if cache is not None else 0
        mask = closed_mask(kwargs.get("attention_mask"), hidden, done, keys, queries)
        return args, {**kwargs, "attention_mask": mask}

    return close


def closed_mask(given: Any, hidden: torch.Tensor, done: int, keys: Sequence[int], queries: Sequence[int]) -> Any:
    """The mask with the edges closed; sdpa is given none where it is plainly causal, so then it is built."""
    count = hidden.shape[1]
    if given is None:
        rows = torch.arange(done, done + count)[:, None]
        given = torch.zeros(1, 1, count, done + count)
        given = given.masked_fill(torch.arange(done + count)[None, :] > rows, float("-inf"))
    here = [query - done for query in queries if done <= query < done + count]
    mask = given.clone()
    mask[:, :, torch.tensor(here, dtype=torch.long)[:, None], torch.tensor(list(keys))[None, :]] = (
        False if mask.dtype == torch.bool else float("-inf")
    )
    return mask


@contextmanager
def patched(module: Any, layer: int, positions: Sequence[int], values: torch.Tensor) -> Iterator[None]:
    """While this is open, a layer's output holds `values` `[position, width]` at the positions."""

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
    """What every layer gave in a clean run, `[position, width]` each."""
    found: list[torch.Tensor] = []

    def keep(_: Any, __: Any, output: Any) -> None:
        found.append((output[0] if isinstance(output, tuple) else output)[0])

    hooks = [layer.register_forward_hook(keep) for layer in layers_of(module)]
    module(**inputs, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    return found


def answer_logit(module: Any, inputs: Mapping[str, Any], answer: int) -> float:
    return float(module(**inputs, logits_to_keep=1).logits[0, -1, answer])


def knock_outs(module: Any, inputs: Mapping[str, Any], answer: int, cuts: Iterable[Mapping[int, Cut]]) -> list[float]:
    """The answer's logit under every condition, one forward each."""
    found = []
    for cut in cuts:
        with knocked(module, cut):
            found.append(answer_logit(module, inputs, answer))
    return found


def shares(module: Any, inputs: Mapping[str, Any], queries: Sequence[int], keys: Sequence[int]) -> torch.Tensor:
    """Attention of queries to keys, `[layer, head, query]`, from the whole matrices that eager attention returns."""
    weights = module(**inputs, logits_to_keep=1, output_attentions=True).attentions
    return torch.stack([layer[0][:, list(queries)][..., list(keys)].sum(-1) for layer in weights])


def _sweep(case: Any) -> list[float]:
    cuts = [{layer: (case.image, case.text)} for layer in range(case.layers)]
    return knock_outs(case.module, case.inputs, case.answer, cuts)


def _all_layers(case: Any) -> list[float]:
    cut = dict.fromkeys(range(case.layers), (case.image, case.text))
    return knock_outs(case.module, case.inputs, case.answer, [cut])


CASES = {
    "clean": lambda case: answer_logit(case.module, case.inputs, case.answer),
    "sweep": _sweep,
    "all layers": _all_layers,
    "share": lambda case: shares(case.module, case.inputs, case.text, case.image),
}

if __name__ == "__main__":
    from common import load, serve

    serve(CASES, lambda folder, case: load(folder, "eager" if case == "share" else "sdpa"))
