"""Figures: one function for each recipe's frame, and maps over pictures. Each returns a matplotlib `Figure`."""

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

__all__ = [
    "Overlay",
    "answer_map",
    "answer_windows",
    "attention_share",
    "claims",
    "draw_overlay",
    "draw_overlays",
    "knockout_routes",
    "knockout_windows",
    "patch_grounding",
    "prompt_ablation",
    "query_patching",
]
