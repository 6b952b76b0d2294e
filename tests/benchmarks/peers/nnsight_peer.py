"""Plain nnsight, written as in its documentation: one trace per condition, in our environment, without nnsight_vlm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from common import Case, load, serve
from hooks import Cut, closed_mask
from nnsight import TransformersModel


class Wrapped(NamedTuple):
    """A saved case, and its model in nnsight."""

    model: Any
    case: Case


def wrapped(folder: str, name: str) -> Wrapped:
    case = load(folder, "eager" if name == "share" else "sdpa")
    return Wrapped(TransformersModel(case.module, task="image-text-to-text", processor=SimpleNamespace()), case)


def clean(on: Wrapped) -> Any:
    model, case = on
    with model.trace(**case.inputs, logits_to_keep=1):
        answer = model.lm_head.output[0, -1, case.answer].save()
    return answer


def cut(on: Wrapped, layers: Any) -> Any:
    """One trace that replaces the masks of these layers."""
    model, case = on
    decoder, edges = model.model.language_model.layers, Cut(keys=list(case.image), queries=list(case.text))
    with model.trace(**case.inputs, logits_to_keep=1):
        for layer in layers:
            args, kwargs = decoder[layer].self_attn.inputs
            mask = closed_mask(kwargs["attention_mask"], kwargs["hidden_states"], 0, edges)
            decoder[layer].self_attn.inputs = (args, {**kwargs, "attention_mask": mask})
        answer = model.lm_head.output[0, -1, case.answer].save()
    return answer


def sweep(on: Wrapped) -> Any:
    return torch.stack([cut(on, [layer]) for layer in range(on.case.layers)])


def share(on: Wrapped) -> Any:
    model, case = on
    decoder, keys, queries = model.model.language_model.layers, list(case.image), list(case.text)
    with model.trace(**case.inputs, logits_to_keep=1):
        shares = []
        for layer in range(case.layers):
            weights = decoder[layer].self_attn.output[1]
            shares.append(weights[0][:, queries][..., keys].sum(-1))
        shares = torch.stack(shares).save()
    return shares


CASES = {
    "clean": clean,
    "sweep": sweep,
    "all layers": lambda on: cut(on, range(on.case.layers)),
    "share": share,
}

if __name__ == "__main__":
    serve(CASES, wrapped)
