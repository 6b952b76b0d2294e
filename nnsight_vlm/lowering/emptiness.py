"""What a write can change: whether it has a place to write to, or an edge to close that is open in a clean run.

It follows from positions and layers alone; whether numbers move is another question, which `verify` answers with
`Proof.moved`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..families import ModelView
from ..prompts.ranges import Ranges
from ..prompts.token_map import TokenMap
from .empty_attention import may_look
from .sites import MASK_OF
from .writes import EdgeCut, PlannedWrite

QUERIES_AT_ONCE = 64
"""How many queries are looked at together, from the last one on, until one of them can see a source."""
TEXT_TO_IMAGE = "cross_attention_mask"
"""The input that says which tiles of which images a token sees, `[row, token, image, tile]`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reachable:
    """What a call reaches of one row: the tokens that it has, or will have, and the edges that are open between them.

    Attributes:
        view: the model.
        inputs: the encoding.
        tokens: the row's token map.
        row: which row of the encoding it is.
        decoded: how many tokens follow at most that are generated and then run. One is enough to tell of a cut: what
            lies closest to it lies further from all that come later. Of a limit, one more than are kept.
    """

    view: ModelView
    inputs: Mapping[str, Any]
    tokens: TokenMap
    row: int
    decoded: int

    def stop(self, stage: str, decoded: int = 1) -> int:
        """One past the last position of a stage's sequence, with so many decoded tokens at most."""
        return self.tokens.stage(stage).stop + (min(self.decoded, decoded) if stage == "decoder" else 0)

    def holds(self, stage: str, ranges: Ranges) -> bool:
        """Whether any of the positions is there, in the sequence or outside it."""
        return any(start < (self.stop(stage) if stop is None else stop) for start, stop in ranges)

    def last_taken(self, stage: str) -> int:
        """The last layer of a stage whose output is taken from it: of a vision tower not always the last one."""
        spec = self.view.stage(stage)
        return max(spec.taken, default=spec.layer_count - 1)

    def is_changed(self, planned: PlannedWrite) -> bool:
        """Whether a write has a position that is there, or an edge that is open."""
        write = planned.write
        if planned.stage == "features":
            return bool(write.targets)
        if write.heads is not None and not write.heads.numbers:
            return False
        if planned.layer > self.last_taken(planned.stage):
            return False
        if not isinstance(write, EdgeCut):
            return self.holds(planned.stage, write.targets)
        stop = self.stop(planned.stage, 1 + write.top)
        queries, keys = (np.asarray(part.positions(stop), dtype=np.int64) for part in (write.targets, write.sources))
        blocks = (queries[first : first + QUERIES_AT_ONCE] for first in range(0, len(queries), QUERIES_AT_ONCE))
        return any((self._open(planned, some, keys).sum(1) > write.top).any() for some in reversed(list(blocks)))

    def _open(self, planned: PlannedWrite, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """`[query, key]`: which edges are open in a clean run."""
        tokens = self.tokens.stage(planned.stage)
        if MASK_OF[planned.site] != "cross mask":
            return may_look(queries, keys, tokens, self.view.reach(planned.stage, planned.layer))
        if planned.stage == "decoder" and TEXT_TO_IMAGE in self.inputs:
            return self._image_tiles_seen(queries, keys)
        real = np.ones(len(keys), dtype=bool)
        if planned.stage == "decoder" and "encoder" in dict(tokens.stages):
            encoder = tokens.stage("encoder")
            real = (encoder.start <= keys + tokens.outside) & (keys + tokens.outside < encoder.stop)
        return np.broadcast_to(real, (len(queries), len(keys)))

    def _image_tiles_seen(self, queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Edges to the tiles of images; a token that may see no tile is shown all of them by transformers."""
        seen = torch.as_tensor(self.inputs[TEXT_TO_IMAGE][self.row]).cpu().numpy() > 0
        seen = seen.reshape(len(seen), -1)  # [token, tile]
        seen = seen | ~seen.any(1, keepdims=True)
        tiles = (keys + self.tokens.outside) * seen.shape[1] // self.tokens.outside
        return np.asarray(seen[np.minimum(queries, len(seen) - 1)][:, tiles])
