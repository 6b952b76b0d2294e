"""Analyses of published papers, each a function `(model, prompts, ...)` that returns one tidy DataFrame.

Every recipe takes many prompts, reports means over images with intervals, and puts matched random controls beside what
it measures: the column `control` is `"none"` for the measurement and names the control otherwise (`studies.labels`).
Prompts about one picture are one image; `cluster=` says otherwise which prompts belong together (`studies.clusters`).
With `per_image=True` a recipe returns the rows behind the means, with the columns `image` (the prompt's number) and
`cluster` (the number of the first prompt about this image).
"""

from ..studies.pairs import Pair
from ..studies.words import Objects, Thing, content_words, shape_objects, shape_truth, vocabulary
from ..studies.work import Work
from .edge_cuts import information_flow
from .layer_windows import knockout_windows
from .object_patches import patch_knockout
from .prompt_parts import prompt_ablation
from .query_states import query_patching
from .token_groups import attention_share
from .word_patches import patch_grounding

__all__ = [
    "Objects",
    "Pair",
    "Thing",
    "Work",
    "attention_share",
    "content_words",
    "information_flow",
    "knockout_windows",
    "patch_grounding",
    "patch_knockout",
    "prompt_ablation",
    "query_patching",
    "shape_objects",
    "shape_truth",
    "vocabulary",
]
