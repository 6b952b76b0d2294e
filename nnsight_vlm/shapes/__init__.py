"""A small trained vision-language model that ships with the package, and the synthetic world it was trained on.

`scene` and `pair` draw images whose every object is known; `questions` and `ask` make questions with their answers;
`parse` and `score` read a description and hold it against the truth; `checkpoint` is the folder of the trained model,
an ordinary `LlavaForConditionalGeneration`:

>>> from transformers import AutoProcessor
>>> processor = AutoProcessor.from_pretrained(checkpoint("shapes"))
>>> scene(3).description.split(", ")[0]
'a small blue triangle at top-left'

How it was trained and what it can do: `README.md` beside this file, `train.py` and `evaluate.py`.
"""

from .language import FAMILIES, Mention, Question, Score, ask, parse, questions, score
from .model import CHECKPOINTS, checkpoint
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
    "pair",
    "parse",
    "questions",
    "scene",
    "score",
]
