"""Figures: one function for each recipe's frame, maps and words over pictures. Each returns a matplotlib `Figure`.

`image_words` and `ablation` draw into axes, and return these.
"""

from .ablated_tokens import ablation
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
from .words import image_words

__all__ = [
    "Overlay",
    "ablation",
    "answer_map",
    "answer_windows",
    "attention_share",
    "claims",
    "draw_overlay",
    "draw_overlays",
    "image_words",
    "knockout_routes",
    "knockout_windows",
    "patch_grounding",
    "prompt_ablation",
    "query_patching",
]
