"""A stand-in for an NDIF server: a process without this package opens requests from their bytes and runs them.

`CapturingBackend` is the client's end: an nnsight backend that keeps the bytes of each request, runs it in this process
as well, and keeps what it saved. This file, run as a script, is the server's end: it loads the model from a folder with
nnsight alone, in float64; opens every request as `ndif` does, and returns what it saved. It imports nothing of this
package.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import traceback
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from cloudpickle.cloudpickle import subimport
from nnsight import TransformersModel
from nnsight.intervention.serialization import CustomCloudUnpickler
from nnsight.ndif import pull_env
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend
from nnsight.tracing.tracer import _saves, dec, inc

CLIENT_MODULES = ("nnsight_vlm", "tiny", "reference", "conftest", "travel")
"""What the server must not be able to import."""
Attention = Literal["sdpa", "eager"]


class CapturedRequest(NamedTuple):
    """A request as bytes, and what it saved when it ran in this process."""

    payload: bytes
    saved: dict[str, Any]


class RequestNames(NamedTuple):
    """What a request makes its reader import: `(module, name)` pairs, and whole modules."""

    names: set[tuple[str, str]]
    modules: set[str]


class CapturingBackend(Backend):
    """Keeps every request, and runs it in this process."""

    def __init__(self) -> None:
        self.requests: list[CapturedRequest] = []

    def __call__(self, tracer: Any) -> None:
        pull_env()
        payload = RequestModel.serialize(tracer)
        tracer.execute(tracer.info.code)
        self.requests.append(CapturedRequest(payload, saved(tracer)))


def saved(tracer: Any) -> dict[str, Any]:
    """The values that a finished trace called `.save()` on, by name."""
    saved_ids = _saves()
    return {name: value for name, value in dict(tracer.info.frame.f_locals).items() if id(value) in saved_ids}


def names_in(payload: bytes, model: Any) -> RequestNames:
    """Open a request, and note what it imports."""
    names: set[tuple[str, str]] = set()
    modules: set[str] = set()

    def noting_subimport(name: str) -> Any:
        modules.add(name)
        return subimport(name)

    class Reader(CustomCloudUnpickler):
        def find_class(self, module: str, name: str) -> Any:
            names.add((module, name))
            return noting_subimport if name == "subimport" else super().find_class(module, name)

    RequestModel.deserialize(payload, model._remoteable_persistent_objects(), unpickler=Reader)
    return RequestNames(names, modules)


def serve_elsewhere(
    folder: Path, requests: dict[tuple[Attention, str], bytes]
) -> dict[tuple[Attention, str], dict[str, Any] | str]:
    """Run requests in a process without this package.

    Args:
        folder: the model's folder; the files that the processes exchange are written there too.
        requests: the bytes of each request, by the attention that its model has and its name.

    Returns:
        What each request saved, or the traceback of its error.
    """
    requests_file, answers_file = folder / "requests.pickle", folder / "answers.pt"
    requests_file.write_bytes(pickle.dumps(requests))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", __file__, str(folder), str(requests_file), str(answers_file)]
    finished = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return torch.load(answers_file, weights_only=False)


class ImportBlocker(MetaPathFinder):
    """Makes this package and its tests impossible to import."""

    def find_spec(self, name: str, *_: Any) -> None:
        if name.partition(".")[0] in CLIENT_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def answer(model: Any, payload: bytes) -> dict[str, Any] | str:
    """Open a request and run it on the model, as a server does; what it saved, or the traceback of its error."""
    inc()
    try:
        tracer = RequestModel.deserialize(payload, model._remoteable_persistent_objects())
        tracer.execute(tracer.info.code)
        return saved(tracer)
    except Exception:
        return traceback.format_exc()
    finally:
        dec()


def serve(folder: str, requests_file: str, answers_file: str) -> None:
    """Answer the requests in one file, and write the answers to another."""
    from transformers import AutoProcessor

    torch.set_num_threads(1)
    processor = AutoProcessor.from_pretrained(folder)
    models = {
        attention: TransformersModel(
            folder,
            task="image-text-to-text",
            processor=processor,
            dispatch=True,
            dtype=torch.float64,
            attn_implementation=attention,
        )
        for attention in ("sdpa", "eager")
    }
    requests = pickle.loads(Path(requests_file).read_bytes())
    answers = {(attention, name): answer(models[attention], payload) for (attention, name), payload in requests.items()}
    torch.save(answers, answers_file)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    from float64 import float64

    sys.path.pop(0)  # no other module of the tests can be imported
    del sys.modules["float64"]
    sys.meta_path.insert(0, ImportBlocker())
    with float64():
        serve(*sys.argv[1:])
