"""A small trained vision-language model that ships with the package, and the synthetic world it was trained on.

`scene` and `pair` draw images whose every object is known, and `color_pairs` makes a table of pairs. `questions` and
`ask` make questions with their answers; `parse` and `score` read a description and compare it with the truth.
`checkpoint` is the folder of the trained model, an ordinary `LlavaForConditionalGeneration`:

>>> from transformers import AutoProcessor
>>> processor = AutoProcessor.from_pretrained(checkpoint("shapes"))
>>> scene(3).description.split(", ")[0]
'a small blue triangle at top-left'

`README.md` in this folder says what the model can do and how it was trained; `evaluate.py` measures it again and
`train.py` trains it again.
"""

from .embedded import CHECKPOINTS, checkpoint
from .language import FAMILIES, Question, ask, questions
from .pair_table import color_pairs
from .scoring import Mention, Score, parse, score
from .world import CHANGES, Object, Scene, pair, scene

__all__ = [
    "CHANGES",
    "CHECKPOINTS",
    "FAMILIES",
    "Mention",
    "Object",
    "Question",
    "Scene",
    "Score",
    "ask",
    "checkpoint",
    "color_pairs",
    "pair",
    "parse",
    "questions",
    "scene",
    "score",
]
