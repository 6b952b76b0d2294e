"""The server's end of `travel` for the whole zoo: run as a script, it answers requests to its models.

It knows nnsight, transformers and the zoo's rooms, which are free of this package; `zoo/__init__.py` is not, and is not
run.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from nnsight import TransformersModel
from travel import Stranger, answer

HERE = Path(__file__).parent


def serve(asked: str, answered: str) -> None:
    """Answer a file of `{(room, member): (attention, {name: request})}`."""
    torch.set_num_threads(1)
    answers: dict[tuple[str, str], dict[str, Any]] = {}
    for (room, name), (attention, requests) in pickle.loads(Path(asked).read_bytes()).items():
        member = next(each for each in importlib.import_module(room).MEMBERS if each.name == name)
        model = TransformersModel(member.module(attention), task="image-text-to-text", processor=member.processor())
        answers[room, name] = {ask: answer(model, payload) for ask, payload in requests.items()}
    torch.save(answers, answered)


if __name__ == "__main__":
    sys.path.remove(str(HERE))  # it was there for `travel` alone
    del sys.modules["travel"]
    sys.modules["zoo"] = ModuleType("zoo")
    sys.modules["zoo"].__path__ = [str(HERE / "zoo")]
    sys.meta_path.insert(0, Stranger())
    serve(*sys.argv[1:])
