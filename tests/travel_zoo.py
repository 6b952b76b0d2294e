"""The server's end of `travel` for the models of the zoo, in float64; run as a script, it answers requests to them.

It imports nnsight, transformers and the modules of the zoo, none of which import this package. `zoo/__init__.py` does,
so an empty package takes its place.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from float64 import float64
from nnsight import TransformersModel
from travel import ImportBlocker, answer

TESTS = Path(__file__).parent


def serve(requests_file: str, answers_file: str) -> None:
    """Answer a file of `{(module, member): (attention, {name: request})}` with `{(module, member): {name: answer}}`."""
    torch.set_num_threads(1)
    answers: dict[tuple[str, str], dict[str, Any]] = {}
    for (module, member_name), (attention, requests) in pickle.loads(Path(requests_file).read_bytes()).items():
        member = next(each for each in importlib.import_module(module).MEMBERS if each.name == member_name)
        wide = member.module(attention).double()
        model = TransformersModel(wide, task="image-text-to-text", processor=member.processor())
        answers[module, member_name] = {name: answer(model, payload) for name, payload in requests.items()}
    torch.save(answers, answers_file)


if __name__ == "__main__":
    sys.path.remove(str(TESTS))  # it was there for importing `travel` only
    del sys.modules["travel"], sys.modules["float64"]
    sys.modules["zoo"] = ModuleType("zoo")
    sys.modules["zoo"].__path__ = [str(TESTS / "zoo")]
    sys.meta_path.insert(0, ImportBlocker())
    with float64():
        serve(*sys.argv[1:])
