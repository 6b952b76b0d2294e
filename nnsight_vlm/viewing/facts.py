"""What a page says of where it comes from, and of what its rows mean."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from ..families import Model, view_of
from ..remote.model_call import Remote
from ..showing import visible
from ..specs.interventions import Intervention
from ..studies.provenance import model_facts, spelled_or, without_secrets
from .asking import Asked, Quantity

ROW = (
    "A word of the answer is read where the model wrote it: at the position before each of its tokens, the mean over "
    "its tokens. A word of the prompt is read at its own tokens, the mean over them."
)
LATENTS = (
    "Image tokens of this model are latents. A row is the word's attention to each latent times the latent's own "
    "attention to the patches, the mean over that stage's heads and layers, summed over the latents."
)
TITLES: dict[Quantity, str] = {
    "weight": "attention weight",
    "contribution": "contribution",
    "gradient": "gradient",
    "causal": "causal effect",
}
UNITS: dict[Quantity, str] = {
    "weight": "share of the row",
    "contribution": "length of the vector",
    "gradient": "length of the gradient (nats per unit)",
    "causal": "nats lost",
}
ABOUT: dict[Quantity, str] = {  # the page itself says below them that attention is not a cause
    "weight": "How much of the word's attention goes to each patch, the mean over heads or one head.",
    "contribution": (
        "How long the vector is that each patch adds to the word's row, through the value and the output projection "
        "(arXiv 2004.10102); the mean is that of all heads together."
    ),
    "gradient": (
        "How fast the word's log-probability changes with the image features of each patch, to first order: the length "
        "of its gradient."
    ),
    "causal": (
        "What the word loses, in nats of log-probability, when this one patch is hidden from the answer in all layers. "
        "Below 0 the word gains. It shows what the model could do without the patch; another may stand in for it."
    ),
}
MOST_LETTERS = 300
"""Most letters of an intervention that are shown."""


def facts_of(model: Model, asked: Asked, remote: Remote) -> list[list[str]]:
    """What the page says below its pictures, as pairs of a label and a text."""
    known = model_facts(view_of(model), remote)
    versions = ", ".join(f"{name} {version}" for name, version in known["versions"].items() if version)
    facts = {
        "model": known["model"],
        "architecture": known["architecture"],
        "revision": known["revision"],
        "weights": known["weights"],
        "adapter": known["adapter"],
        "precision": known["dtype"],
        "attention": ", ".join(f"{part} {how}" for part, how in known["attention"].items()),
        "runs on": known["device"],
        "versions": versions,
        "intervention": "" if asked.intervention is None else spelled_out(asked.intervention),
        "answer": "that was given" if asked.answered else f"greedy, {asked.max_new_tokens} tokens at most",
        "a row": ROW if asked.shown.stage == "decoder" else f"{ROW} {LATENTS}",
        "patches": f"{len(asked.shown.positions):,} image tokens, as keys of the {asked.shown.stage}'s attention",
    }
    return [[label, visible(str(text))] for label, text in facts.items() if text]


def spelled_out(intervention: Intervention) -> str:
    """An intervention as it is written, `Knockout('image', 'last', layers=nv.window(2, 8))`, without its defaults."""
    text = without_secrets(" | ".join(map(_spelled, intervention.parts)))
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} ..."


def _spelled(part: Any) -> str:
    written = []
    for each in fields(part):
        value = getattr(part, each.name)
        is_default = each.default is not MISSING and isinstance(value, type(each.default)) and value == each.default
        if each.init and not is_default:
            spelling = spelled_or(each.name, value)
            written.append(f"{each.name}={spelling}" if each.kw_only else spelling)
    return f"{type(part).__name__}({', '.join(written)})"
