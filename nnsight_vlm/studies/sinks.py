"""Visual attention sinks: image tokens that draw attention whatever the text asks.

Kang et al. 2025 (arXiv 2503.03321). In a few fixed dimensions, the hidden states of a text's first token are far larger
than in all others. Image tokens with large values in the same dimensions draw attention in the same way, and show no
part of the picture that matters. A token is a sink of a layer if, in the hidden state that enters the layer, one of
these dimensions is at least tau = 20 times the root mean square over all dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..arguments import is_bool, number
from ..errors import SpecError
from ..prompts.prompt import Prompt
from ..specs.measurements import Residual
from .image_patches import PatchSource

TAU = 20.0
"""The paper's threshold, for hidden states of 4096 to 5120 dimensions."""


def sinks_given(sinks: Any, width: int) -> float | None:
    """The threshold of sinks as a user asks for it: True for the paper's, or a number; None for no sinks.

    Args:
        sinks: as the user gave it.
        width: of the model's hidden states. One dimension is never more than its square root times the root mean
            square.

    Raises:
        SpecError: neither, or a threshold that no hidden state of this width can reach.
    """
    if is_bool(sinks):
        if not sinks:
            return None
        tau = TAU
    else:
        tau = number("sinks", sinks, above=0, kind="threshold", write="sinks=True, sinks=False or a number above 0")
    if tau > math.sqrt(width):
        raise SpecError(
            f"sinks={sinks!r} looks for a dimension of {tau:g} times the root mean square, and in hidden states of "
            f"{width} dimensions none can be above {math.sqrt(width):.3g} times; write a smaller number: the paper's "
            f"20 in a model of 4096 dimensions corresponds to sinks={TAU * math.sqrt(width / 4096):.3g}"
        )
    return tau


def check_sinks(source: PatchSource) -> None:
    """Refuse to look for sinks among patches that have no hidden state in the decoder.

    Raises:
        SpecError: image tokens are latents, or lie outside the decoder's sequence.
    """
    if source.stage != "decoder" or min(source.grid.positions) < 0:
        raise SpecError(
            "sinks= looks for patches by their hidden states in the decoder, and here patches have none there; leave "
            "it out"
        )


def sink_reads(prompt: Prompt, patches: Sequence[int], layers: Sequence[int]) -> list[Residual]:
    """What is read to find sinks: the hidden states that enter the layers, of the first token and of every patch.

    Args:
        prompt: of one row.
        patches: the positions of the patches in the decoder.
        layers: their numbers.
    """
    places = _places(prompt, patches)
    before = [layer - 1 for layer in layers if layer > 0]
    embedding = [Residual(places, site="embedding")] if 0 in layers else []
    return [*embedding, *([Residual(places, layers=before)] if before else [])]


def find_sinks(prompt: Prompt, patches: Sequence[int], read: Sequence[torch.Tensor], tau: float) -> np.ndarray:
    """Which patches are sinks of each layer, bool `[layer, patch]`.

    Args:
        prompt, patches: as in `sink_reads`.
        read: what `sink_reads` gave, `[position, width]` and `[layer, position, width]`.
        tau: the threshold.
    """
    states = torch.cat([each if each.dim() == 3 else each[None] for each in read]).double()
    sizes = (states.abs() / states.square().mean(-1, keepdim=True).sqrt()).nan_to_num(0.0)
    places = _places(prompt, patches)
    large = (sizes[:, places.index(prompt.rows[0].start)] >= tau).any(0)
    of_patches = sizes[:, [places.index(position) for position in patches]]
    found: np.ndarray = (of_patches[..., large] >= tau).any(-1).numpy()
    return found


def listed_sinks(rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The sinks of every image and layer that has some, as `{"image", "layer", "patches"}`.

    Args:
        rows: with `image`, `layer` and `sinks`, the patches as a table shows them.
    """
    some = rows[rows["sinks"].fillna("").astype(bool)].drop_duplicates(["image", "layer"])
    found: list[dict[str, Any]] = (
        some[["image", "layer", "sinks"]].rename(columns={"sinks": "patches"}).to_dict("records")
    )
    return found


def _places(prompt: Prompt, patches: Sequence[int]) -> list[int]:
    """The first token of the prompt and the patches, in order."""
    return sorted({prompt.rows[0].start, *patches})
