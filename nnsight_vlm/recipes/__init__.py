"""Analyses of published papers, each a function `(model, prompts, ...)` that returns one tidy DataFrame.

Every recipe takes many prompts, reports means over images with intervals, and puts matched random controls beside what
it measures: the column `control` is `"none"` for the measurement and names the control otherwise (`recipes.labels`).
Prompts about one picture are one image; `cluster=` says otherwise which prompts belong together (`recipes.clusters`).
With `per_image=True` a recipe returns the rows behind the means, with the columns `image` (the prompt's number) and
`cluster` (the number of the first prompt about this image).
"""

from .layer_windows import knockout_windows
from .object_patches import patch_knockout
from .pairs import Pair
from .prompt_parts import prompt_ablation
from .query_states import query_patching
from .token_groups import attention_share
from .word_patches import patch_grounding
from .words import Objects, Thing, content_words, shape_objects, shape_truth, vocabulary
from .work import Work

__all__ = [
    "Objects",
    "Pair",
    "Thing",
    "Work",
    "attention_share",
    "content_words",
    "knockout_windows",
    "patch_grounding",
    "patch_knockout",
    "prompt_ablation",
    "query_patching",
    "shape_objects",
    "shape_truth",
    "vocabulary",
]
