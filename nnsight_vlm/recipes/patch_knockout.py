"""Which patches an answer hangs on: hide them one neighbourhood at a time.

The patch-level form of the attention knockout (Geva et al. 2023, arXiv 2304.14767); like every
knockout it shows where the answer *could not* do without a patch, not where it looks.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..errors import SpecError
from ..interventions import Knockout
from ..layers import Layers
from ..prompts import Prompt
from ..rows import Where
from ..sweep import sweep


def patch_knockout(
    model: Any,
    prompt: Prompt,
    *,
    answer: str | int,
    target: Where = "last",
    layers: Layers = "all",
    size: int = 3,
    image: int = 0,
    remote: bool | str = False,
) -> pd.DataFrame:
    """Change of the answer's log-probability when `target` cannot see a patch and its neighbours.

    Args:
        model, remote: see `nv.run`.
        prompt: a prompt of one row.
        answer: one token, as text or id.
        target, layers: see `nv.Knockout`.
        size: side of the square of patches that is hidden around each patch, odd.
        image: which picture of the prompt.

    Returns:
        One row per image token: `token` (its position), `row, column, x0, y0, x1, y1` (its pixels),
        `hidden` (how many patches were hidden) and `logprob_change`.

    Raises:
        SpecError: an even or negative size, and whatever `nv.sweep` raises.
    """
    if size < 1 or size % 2 == 0:
        raise SpecError(f"size={size} is no odd number of patches; write size=1 or size=3")
    grid = prompt.grid(image)
    reach = size // 2
    around = [
        tuple(
            place
            for place, (row, column) in zip(grid.positions, grid.cells, strict=True)
            if max(abs(row - r), abs(column - c)) <= reach
        )
        for r, c in grid.cells
    ]
    found = sweep(
        model, prompt, [Knockout(places, target, layers=layers) for places in around], answer=answer, remote=remote
    )
    frame = pd.DataFrame(grid.boxes, columns=["x0", "y0", "x1", "y1"])
    frame.insert(0, "column", [column for _, column in grid.cells])
    frame.insert(0, "row", [row for row, _ in grid.cells])
    frame.insert(0, "token", grid.positions)
    return frame.assign(
        hidden=[len(places) for places in around], logprob_change=found["logprob"] - found["clean_logprob"]
    )
