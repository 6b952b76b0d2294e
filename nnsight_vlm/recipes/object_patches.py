"""Which patches an answer hangs on: hide them one neighbourhood at a time.

The patch-level form of the attention knockout (Geva et al. 2023, arXiv 2304.14767); like every
knockout it shows where the answer *could not* do without a patch, not where it looks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import SpecError
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..prompts.token_map import Where
from ..remote.background import can_run_in_background
from ..remote.model_call import Remote
from ..specs.knockouts import Knockout
from ..sweeping.table import sweep
from .controls import patch_source


@can_run_in_background
def patch_knockout(
    model: Any,
    prompt: Prompt,
    *,
    answer: str | int,
    target: Where | None = None,
    layers: Layers = "attention",
    size: int = 3,
    image: int = 0,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> pd.DataFrame:
    """Change of the answer's log-probability when `target` cannot see a patch and its neighbours.

    Where image tokens are latents without a place (BLIP-2), what is hidden are the patches that a
    Q-Former or resampler reads, from its queries: then nothing behind it sees them, whatever token.

    Args:
        model, remote: see `nv.run`.
        prompt: a prompt of one row.
        answer: one token, as text or id.
        target, layers: see `nv.Knockout`; tokens and layers of the stage that reads the patches. Default
            `last`, or all queries of a Q-Former, in all layers that read.
        size: side of the square of patches that is hidden around each patch, odd.
        image: which picture of the prompt.

    Returns:
        One row per patch, without tokens that saw no place: `token` (its position), `tile, row, column,
        x0, y0, x1, y1` (its pixels), `hidden` (how many patches were hidden, all of its tile) and
        `logprob_change`.

    Raises:
        SpecError: an even or negative size, image tokens whose patches cannot be known, and whatever
            `nv.sweep` raises.
    """
    if size < 1 or size % 2 == 0:
        raise SpecError(f"size={size} is no odd number of patches; write size=1 or size=3")
    stage, grid = patch_source(prompt, image)
    readers = ("last" if stage == "decoder" else "query") if target is None else target
    tiles, cells, places = np.asarray(grid.tiles), np.asarray(grid.cells), np.asarray(grid.positions)
    around = [
        tuple(places[(tiles == tile) & (np.abs(cells - cell).max(1) <= size // 2)].tolist())
        for tile, cell in zip(tiles, cells, strict=True)
    ]
    cuts = [Knockout(hidden, readers, layers=layers, stage=stage) for hidden in around]
    found = sweep(model, prompt, cuts, answer=answer, remote=remote)
    frame = pd.DataFrame(grid.boxes, columns=["x0", "y0", "x1", "y1"])
    labels = {"token": places, "tile": tiles, "row": cells[:, 0], "column": cells[:, 1]}
    for at, (name, values) in enumerate(labels.items()):
        frame.insert(at, name, values)
    return frame.assign(
        hidden=[len(hidden) for hidden in around], logprob_change=found["logprob"] - found["clean_logprob"]
    )
