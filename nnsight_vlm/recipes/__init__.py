"""Analyses of published papers, each a function `(model, prompts, ...)` that returns one tidy DataFrame.

Every recipe takes many prompts, reports means over images with intervals, and puts matched random controls beside what
it measures: the column `control` is `"none"` for the measurement and names the control otherwise (`studies.labels`).
Prompts about one picture are one image; `cluster=` says otherwise which prompts belong together (`studies.clusters`).
With `per_image=True` a recipe returns the rows behind the means, with the columns `image` (the prompt's number) and
`cluster` (the number of the first prompt about this image).
"""

from ..studies.box_formats import BoxScore, box_scores, boxes_in
from ..studies.coco_names import coco_objects
from ..studies.judging import Judge
from ..studies.named_objects import object_names
from ..studies.pairs import Pair
from ..studies.places import Place
from ..studies.words import Objects, Thing, content_words, shape_objects, shape_truth, vocabulary
from ..studies.work import Work
from .carried_states import path_patching
from .compressed_answers import compressed_context
from .edge_cuts import information_flow
from .estimated_places import attribution_map
from .image_tokens import ablation
from .layer_windows import knockout_windows
from .lens_words import image_lens
from .localising_heads import heads
from .object_patches import patch_knockout
from .prompt_parts import prompt_ablation
from .query_states import query_patching
from .restored_states import causal_trace
from .route_shares import joint_routes
from .said_objects import object_score
from .state_maps import patching_map
from .text_mediation import pair_routes
from .token_groups import attention_share
from .word_patches import patch_grounding

__all__ = [
    "BoxScore",
    "Judge",
    "Objects",
    "Pair",
    "Place",
    "Thing",
    "Work",
    "ablation",
    "attention_share",
    "attribution_map",
    "box_scores",
    "boxes_in",
    "causal_trace",
    "coco_objects",
    "compressed_context",
    "content_words",
    "heads",
    "image_lens",
    "information_flow",
    "joint_routes",
    "knockout_windows",
    "object_names",
    "object_score",
    "pair_routes",
    "patch_grounding",
    "patch_knockout",
    "patching_map",
    "path_patching",
    "prompt_ablation",
    "query_patching",
    "shape_objects",
    "shape_truth",
    "vocabulary",
]
