"""Analyses of published papers, each a function `(model, prompts, ...)` that returns one tidy DataFrame.

Every recipe takes many images (one prompt each), reports bootstrap intervals over images, and puts
matched random controls beside what it measures (column `control`; `"none"` is the measurement).
`per_image=True` gives the rows behind the means.
"""

from .attention_share import attention_share
from .common import Work
from .knockout_windows import knockout_windows
from .patch_grounding import patch_grounding
from .patch_knockout import patch_knockout
from .prompt_ablation import prompt_ablation
from .query_patching import Pair, query_patching
from .words import Thing, content_words, shape_objects, shape_truth, vocabulary

__all__ = [
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
