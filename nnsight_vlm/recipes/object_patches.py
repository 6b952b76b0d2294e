"""Which patches an answer needs: hide them one neighbourhood at a time.

The attention knockout of Geva et al. 2023 (arXiv 2304.14767), patch by patch. Like every knockout it shows where the
model cannot do without a patch, not where it looks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..arguments import whole_number
from ..errors import SpecError
from ..execution.checking import check
from ..families import Model
from ..lowering.layers import Layers
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..prompts.where import Where, as_tuples
from ..remote.background import can_run_in_background
from ..remote.model_call import Remote
from ..specs.knockouts import Knockout
from ..studies.image_patches import patch_source
from ..studies.papers import GEVA
from ..studies.registry import recipe
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token


@can_run_in_background
@recipe(
    papers=(GEVA,),
    asks="Which patches does an answer need?",
    method=(
        "Each patch was hidden together with its neighbours, in squares of {size} x {size} patches, and the "
        "change of the answer's log-probability was measured."
    ),
    shows="could",
)
def patch_knockout(
    model: Model,
    prompt: Prompt,
    *,
    answer: str | int,
    target: Where | None = None,
    layers: Layers = "attention",
    size: int = 3,
    image: int = 0,
    frame: int | None = None,
    memory: int | None = None,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> pd.DataFrame:
    """Change of the answer's log-probability when `target` cannot attend to a patch and its neighbours.

    Where image tokens are latents without a place in the picture (BLIP-2), the patches are hidden from the queries of
    the Q-Former or resampler that reads them, and so from every token after it.

    Args:
        model: an nnsight model from `load`.
        prompt: a prompt of one row.
        answer: one token, as text or id.
        target, layers: see `nv.Knockout`; tokens and layers of the stage that reads the patches. Default the prompt's
            `last` token, or all queries of a Q-Former, in all layers that read patches.
        size: side of the square of patches that is hidden around each patch, odd.
        image: which picture of the prompt.
        frame: in its place, which frame of the prompt's videos, counted through all of them. A family whose tokens show
            several neighbouring frames hides all of these.
        memory: see `nv.sweep`.
        remote, blocking, path: see `nv.run`.

    Returns:
        One row for each patch: `token` (its position), `tile, row, column` (its place in the grid), `x0, y0, x1, y1`
        (its pixels), `hidden` (how many patches were hidden, all of its tile) and `logprob_change` in nats. Image
        tokens without a place (line breaks between patches) have no row.

    Raises:
        SpecError: an even or negative size, a target that sees no patch at all (single patches may be out of its reach,
            with a change of 0), image tokens whose patches are not known, and whatever `nv.sweep` raises.
    """
    size, token = whole_number("size", size, least=1, kind="number of patches"), answer_token(model, answer)
    if size % 2 == 0:
        raise SpecError(f"size={size} is no odd number of patches; write size=1 or size=3")
    image = whole_number("image", image, kind="number of a picture")
    stage, grid = patch_source(single_prompt(prompt), image, frame)
    target, layers = as_tuples(target), as_tuples(layers)
    if target is None:
        target = "last" if stage == "decoder" else "query"
    tiles, cells, positions = np.asarray(grid.tiles), np.asarray(grid.cells), np.asarray(grid.positions)
    neighbourhoods = [
        tuple(positions[(tiles == tile) & (np.abs(cells - cell).max(1) <= size // 2)].tolist())
        for tile, cell in zip(tiles, cells, strict=True)
    ]
    cuts = [Knockout(hidden, target, layers=layers, stage=stage) for hidden in neighbourhoods]
    check(model, prompt, Knockout(tuple(sorted(positions.tolist())), target, layers=layers, stage=stage))
    scores = sweep(model, prompt, cuts, answer=token, memory=memory, empty="ignore", remote=remote)
    columns = {"token": positions, "tile": tiles, "row": cells[:, 0], "column": cells[:, 1]}
    columns |= dict(zip(("x0", "y0", "x1", "y1"), grid.boxes.T, strict=True))
    return pd.DataFrame(columns).assign(
        hidden=[len(hidden) for hidden in neighbourhoods],
        logprob_change=scores["logprob"] - scores["clean_logprob"],
    )
