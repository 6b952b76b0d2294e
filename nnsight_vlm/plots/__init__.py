"""Figures: one function for each recipe's frame, maps and words over pictures. Each returns a matplotlib `Figure`.

`image_words` draws into axes, and returns these.
"""

from .figures import (
    answer_windows,
    attention_share,
    claims,
    knockout_routes,
    knockout_windows,
    patch_grounding,
    prompt_ablation,
    query_patching,
)
from .overlays import Overlay, answer_map, draw_overlay, draw_overlays
from .path_map import path_patching
from .route_dots import joint_routes
from .words import image_words

__all__ = [
    "Overlay",
    "answer_map",
    "answer_windows",
    "attention_share",
    "claims",
    "draw_overlay",
    "draw_overlays",
    "image_words",
    "joint_routes",
    "knockout_routes",
    "knockout_windows",
    "patch_grounding",
    "path_patching",
    "prompt_ablation",
    "query_patching",
]
