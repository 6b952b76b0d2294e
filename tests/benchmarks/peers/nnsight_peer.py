"""Plain nnsight as its documentation writes it: one trace a condition, in our own environment, without nnsight_vlm."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from common import Case, load, serve
from hooks import closed_mask
from nnsight import TransformersModel


def opened(folder: str, case: str) -> tuple[Any, Case]:
    found = load(folder, "eager" if case == "share" else "sdpa")
    model = TransformersModel(found.module, task="image-text-to-text", processor=SimpleNamespace())
    return model, found


def clean(given: tuple[Any, Case]) -> Any:
    model, case = given
    with model.trace(**case.inputs, logits_to_keep=1):
        answer = model.lm_head.output[0, -1, case.answer].save()
    return answer


def empty(given: tuple[Any, Case]) -> Any:
    model, case = given
    with model.trace(**case.inputs, logits_to_keep=1):
        logits = model.output.logits.save()
    return logits[0, -1, case.answer]


def cut(given: tuple[Any, Case], layers: Any) -> Any:
    """One trace, in which the masks of some layers are replaced."""
    model, case = given
    decoder, keys, queries = model.model.language_model.layers, list(case.image), list(case.text)
    with model.trace(**case.inputs, logits_to_keep=1):
        for layer in layers:
            args, kwargs = decoder[layer].self_attn.inputs
            mask = closed_mask(kwargs["attention_mask"], kwargs["hidden_states"], 0, keys, queries)
            decoder[layer].self_attn.inputs = (args, {**kwargs, "attention_mask": mask})
        answer = model.lm_head.output[0, -1, case.answer].save()
    return answer


def sweep(given: tuple[Any, Case]) -> Any:
    return torch.stack([cut(given, [layer]) for layer in range(given[1].layers)])


def share(given: tuple[Any, Case]) -> Any:
    model, case = given
    decoder, keys, queries = model.model.language_model.layers, list(case.image), list(case.text)
    with model.trace(**case.inputs, logits_to_keep=1):
        found = []
        for layer in range(case.layers):
            weights = decoder[layer].self_attn.output[1]
            found.append(weights[0][:, queries][..., keys].sum(-1))
        found = torch.stack(found).save()
    return found


CASES = {
    "clean": clean,
    "sweep": sweep,
    "all layers": lambda given: cut(given, range(given[1].layers)),
    "share": share,
}

if __name__ == "__main__":
    serve(CASES, opened)
