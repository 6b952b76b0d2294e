"""A stand-in for an NDIF server: requests as bytes, opened by a process that has never heard of this package.

`Captured` is the client's end: a backend that keeps the bytes of each request, runs it here as well and keeps what was
saved. This file, run as a script, is the server's end: it loads the model from a folder with nnsight alone, opens every
request as `ndif` does, and hands back what was saved. It imports nothing of ours.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import torch
from cloudpickle.cloudpickle import subimport
from nnsight import TransformersModel
from nnsight.intervention.serialization import CustomCloudUnpickler
from nnsight.ndif import pull_env
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import _saves, dec, inc

OURS = ("nnsight_vlm", "tiny", "reference", "conftest", "travel")


class Captured(Backend):
    """Keeps `(the bytes of a request, what it saves here)` of every trace."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, dict[str, Any]]] = []

    def __call__(self, tracer: Any) -> None:
        pull_env()
        payload = RequestModel.serialize(tracer)
        tracer.execute(tracer.info.code)
        self.requests.append((payload, saved(tracer)))


def saved(tracer: Any) -> dict[str, Any]:
    """What a finished trace marked to be handed back."""
    marked = _saves()
    return {name: value for name, value in dict(tracer.info.frame.f_locals).items() if id(value) in marked}


def names_in(payload: bytes, model: Any) -> tuple[set[tuple[str, str]], set[str]]:
    """Every `(module, name)` that a request asks its reader to import, and every module that it asks for whole."""
    names: set[tuple[str, str]] = set()
    modules: set[str] = set()

    def note(name: str) -> Any:
        modules.add(name)
        return subimport(name)

    class Reader(CustomCloudUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            names.add((module, name))
            return note if name == "subimport" else super().find_class(module, name)

    RequestModel.deserialize(payload, model._remoteable_persistent_objects(), unpickler=Reader)
    return names, modules


def serve_elsewhere(folder: Path, requests: dict[tuple[str, str], bytes]) -> dict[tuple[str, str], Any]:
    """What a process without this package saves for each request `(attention, name)`; errors come back as text."""
    asked, answered = folder / "requests.pickle", folder / "answers.pt"
    asked.write_bytes(pickle.dumps(requests))
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    clean |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__, str(folder), str(asked), str(answered)]
    finished = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return torch.load(answered, weights_only=False)


class Stranger(MetaPathFinder):
    """Makes this package and its tests impossible to import."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def answer(model: Any, payload: bytes) -> Any:
    """Open a request and run it on the model, as a server does."""
    inc()
    try:
        tracer = RequestModel.deserialize(payload, model._remoteable_persistent_objects())
        tracer.execute(tracer.info.code)
        return saved(tracer)
    except Exception:
        return traceback.format_exc()
    finally:
        dec()


def serve(folder: str, asked: str, answered: str) -> None:
    """Answer a file of requests."""
    from transformers import AutoProcessor

    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(folder)
    models = {
        attention: TransformersModel(
            folder,
            task="image-text-to-text",
            processor=processor,
            dispatch=True,
            dtype=torch.float32,
            attn_implementation=attention,
        )
        for attention in ("sdpa", "eager")
    }
    requests = pickle.loads(Path(asked).read_bytes())
    answers = {(attention, name): answer(models[attention], load) for (attention, name), load in requests.items()}
    torch.save(answers, answered)


if __name__ == "__main__":
    sys.meta_path.insert(0, Stranger())
    serve(*sys.argv[1:])
