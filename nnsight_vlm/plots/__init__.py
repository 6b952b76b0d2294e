"""Figures of frames, and maps and words over pictures. Each function draws into `ax=` and returns the axes.

With `ax=` a function draws one panel there and returns these axes; it makes no other figure and no other axes (a colour
scale is an inset). A recipe whose figure has several panels takes a word that chooses one: `route=`, `group=`,
`target=`, `measure=`, `claim=`. Without `ax=` it makes a figure of its own, one column of a journal (3.3 inches) wide:
a figure of panels comes back as an array of axes, any other as its axes. `axes.figure` is the figure, and
`axes[0].figure` that of an array.

- `layer_lines`: any tidy frame, that of `nv.sweep` too, as lines over layers: intervals are bands, controls grey.
- `dot_rows`: any tidy frame as rows of dots with intervals.
- `heat_map`: any tidy frame as a map, layers by groups, positions or heads, with the range of its scale written.
- One function for each recipe's frame, by the recipe's name; `answer_windows` and `knockout_routes` are other views of
  the frame of `knockout_windows`, and `claims` shows what `nv.report.judge` returns.
- `Overlay`, `draw_overlay`, `draw_overlays`, `answer_map`, `image_words`: maps and words over a picture.
"""

from .ablated_tokens import ablation
from .answers import answer_map, patch_knockout
from .attributions import attribution_map
from .dots import dot_rows
from .grounding import patch_grounding
from .groups import attention_share, information_flow, query_patching
from .interchanges import causal_trace, pair_routes, patching_map
from .kept_tokens import compressed_context
from .lenses import image_lens
from .lines import layer_lines
from .located import heads
from .maps import heat_map
from .overlays import Overlay, draw_overlay, draw_overlays
from .parts import claims, prompt_ablation
from .path_map import path_patching
from .route_dots import joint_routes
from .said import object_score
from .windows import answer_windows, knockout_routes, knockout_windows
from .words import image_words

__all__ = [
    "Overlay",
    "ablation",
    "answer_map",
    "answer_windows",
    "attention_share",
    "attribution_map",
    "causal_trace",
    "claims",
    "compressed_context",
    "dot_rows",
    "draw_overlay",
    "draw_overlays",
    "heads",
    "heat_map",
    "image_lens",
    "image_words",
    "information_flow",
    "joint_routes",
    "knockout_routes",
    "knockout_windows",
    "layer_lines",
    "object_score",
    "pair_routes",
    "patch_grounding",
    "patch_knockout",
    "patching_map",
    "path_patching",
    "prompt_ablation",
    "query_patching",
]
