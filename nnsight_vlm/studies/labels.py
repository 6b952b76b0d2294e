"""The words in the columns of the recipes' tables, and what each of them means.

The tables are tidy: a measurement and its controls are rows of one frame, told apart by these words.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

Control = Literal[
    "none",
    "random positions",
    "random edges",
    "random sender",
    "random layers",
    "query of another image",
    "another image",
    "random image tokens",
    "random patches",
    "random patches, again",
    "random heads",
    "random heads, same layers",
    "other object",
    "object's patches",
    "other object's words",
    "another answer",
    "uniform",
    "random generated tokens",
]
"""The column `control`: which control a row is.

- `none`: no control, but the measurement itself.
- `random positions`: as many tokens as the group has, drawn at random from the rest of the prompt.
- `random edges`: as many attention edges, drawn at random from those that belong to no route of the study.
- `random sender`: as many other heads of the same layer, or other tokens, send in the sender's place.
- `random layers`: as many layers as the window has, drawn at random for every image.
- `query of another image`: the query tokens' hidden states come from a run on another picture.
- `another image`: patched hidden states come from a third picture, whose answers are different ones; of a description,
  it is compared with the objects of another picture.
- `random image tokens`: as many image tokens, drawn at random out of all of the picture.
- `random patches`: as many image patches as the object covers, drawn at random outside it (for the rest of the image:
  out of all patches); `random patches, again` is a second, independent draw.
- `random heads`: as many other heads, drawn at random; `random heads, same layers`: as many others of each layer.
- `other object`: the attention peak is compared with the other objects of the same picture; of an ablation, as many of
  their image tokens.
- `object's patches`: the patches that show the object, where `none` are those that a word attends to most.
- `other object's words`: of a lens, the words of another object of the same picture on this object's tokens.
- `another answer`: of a lens, the answer of another prompt in place of this one's.
- `uniform`: equal attention to every image token.
- `random generated tokens`: as many generated tokens as the query has.
"""
NONE: Final = "none"
RANDOM_POSITIONS: Final = "random positions"
RANDOM_EDGES: Final = "random edges"
RANDOM_SENDER: Final = "random sender"
RANDOM_LAYERS: Final = "random layers"
QUERY_OF_ANOTHER_IMAGE: Final = "query of another image"
ANOTHER_IMAGE: Final = "another image"
RANDOM_TOKENS: Final = "random image tokens"
RANDOM_PATCHES: Final = "random patches"
RANDOM_PATCHES_AGAIN: Final = "random patches, again"
RANDOM_HEADS: Final = "random heads"
HEADS_OF_LAYERS: Final = "random heads, same layers"
OTHER_OBJECT: Final = "other object"
OBJECT_PATCHES: Final = "object's patches"
OTHER_WORDS: Final = "other object's words"
ANOTHER_ANSWER: Final = "another answer"
UNIFORM: Final = "uniform"
RANDOM_GENERATED_TOKENS: Final = "random generated tokens"

Form = Literal["block", "allow"]
"""How a route is cut in a window of layers: `block` closes it in the window; `allow` closes it in all other layers."""
FORMS: tuple[Form, ...] = get_args(Form)

Condition = Literal["block", "allow", "clean", "blind"]
"""The column `form` of `knockout_windows`: a form, or one of the two baselines.

- `clean`: no intervention.
- `blind`: no token other than the image's own can attend to the image, in any layer. Kaduri et al. 2024
  (arXiv 2411.17491) compare with this lower bound: whatever is left comes from the text alone.
"""

Access = Literal["direct", "none"]
"""The column `access` of `prompt_ablation`: whether generated tokens attend to the image (`direct`) or not (`none`)."""

COULD: Final = "could"
DOES: Final = "does"
"""The column `shows`: of a cut, what the model could do without; of an interchange, what its answer does follow."""

ReadAt = Literal["predicting", "word"]
"""Where a generated word's attention is read.

- `predicting`: at the position before the word, whose output predicts the word.
- `word`: at the word's own position, whose output predicts the next word.
"""
READ_AT: tuple[ReadAt, ...] = get_args(ReadAt)

AgreementMeasure = Literal["precision", "recall", "f1", "precision_true", "recall_true", "f1_true"]
"""How well the objects that a description names agree with others.

- `precision`, `recall`, `f1`: with those of the model's own description of the same picture without intervention.
- `precision_true`, `recall_true`, `f1_true`: with the objects that are really in the picture.
"""
AGREEMENT: tuple[AgreementMeasure, ...] = ("precision", "recall", "f1")
TRUE_AGREEMENT: tuple[AgreementMeasure, ...] = ("precision_true", "recall_true", "f1_true")

NAMES: Final = "names"
JUDGE: Final = "judge"
BOTH_SCORERS: Final = "names and judge"
"""The column `scorer` of `object_score`: objects are found by their names, or by a judge; or how far both agree."""

SHARES: tuple[str, ...] = (
    *(*AGREEMENT, *TRUE_AGREEMENT, "hit", "iou", "top_mass", "top_tenth", "mass", "kept", "flipped", "overlap"),
    *("yes", "named", "named_first", "first", "probability", "box_iou", "box_hit", "registers", "sink_mass"),
    *("hallucinated", "chair_i", "chair_s", "agree", "accuracy"),
    *("mask_iou", "attention", "selected"),
)
"""The measures of all recipes that lie between 0 and 1 by what they mean, which their intervals follow."""

MIDDLE_HALF: Final = "middle half"
OUTER_HALF: Final = "outer half"
"""Windows that are halves of the depth: the second and third quarter of the layers; the first and last quarter."""

OBJECT: Final = "object"
REST: Final = "rest of the image"
"""Parts of an image: the image tokens of the object that the question is about, and all others that show part of it."""
