"""What a background job is to do, on disk: the function, its arguments, and how to load its models again.

`job.json` holds all but the contents of tensors, arrays and pictures, which lie in `data.safetensors`. Neither file can
make this package run code, so a folder that somebody else wrote can be resumed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import nnsight
import numpy as np

from ..errors import SpecError
from ..families import view_of
from ..loading import load
from ..storage import atomic_write
from .model_call import Remote
from .value_reader import ValueReader
from .value_table import FUNCTIONS, TORCH_DTYPES, job_function, refuse_code
from .value_writer import ValueWriter

FORMAT = 2
"""Version of the files; 1 was a pickle."""
JOB, DATA = "job.json", "data.safetensors"
OLD_JOB = "plan.pickle"
LOADED_ELSEWHERE = {
    *("attn_implementation", "dtype", "torch_dtype", "revision"),
    *("device_map", "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage", "quantization_config"),
    *("token", "cache_dir", "local_files_only", "use_safetensors"),
}
"""Options of `nv.load` that are kept by other means, or only say where and how weights lie on this computer."""
THIS_COMPUTER = ("127.0.0.1", "::1", "localhost")
ATTENTION = re.compile(r"\w+")
"""An attention implementation of transformers itself; others are repositories, whose code transformers would run."""


class StoredCall(NamedTuple):
    """A call of one of this package's functions."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def write_job(folder: Path, call: StoredCall) -> None:
    """Keep a call in a folder; it is read back first, so that what is written can be resumed.

    Raises:
        SpecError: something cannot be kept on disk, or the folder holds a job already. Nothing is written then.
    """
    if (folder / JOB).exists():
        raise SpecError(
            f"{folder} holds a job already; write nv.remote.resume({str(folder)!r}), or choose another path"
        )
    if (folder / OLD_JOB).exists():
        raise SpecError(f"{folder} holds a job of an older version of nnsight_vlm; choose another path")
    content, data = _serialized(call)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / DATA) as fresh:
        fresh.write_bytes(data)
    with atomic_write(folder / JOB) as fresh:
        fresh.write_text(content + "\n")


def read_job(folder: Path, *, model: Any = None, host: str | None = None) -> StoredCall:
    """The call that a folder holds.

    Args:
        folder: where `write_job` kept it.
        model: stands for all models of the job; by default each is loaded by its name, without weights.
        host: an address to which the job may be sent, besides nnsight's configured server.

    Raises:
        SpecError: there is no job, its files are broken or of an older version, or ask for what a file may not decide.
    """
    if not (folder / JOB).exists():
        if (folder / OLD_JOB).exists():
            raise SpecError(
                f"the job in {folder} was written by an older version of nnsight_vlm, as a pickle, which could run any "
                "code and is not opened any more; make the call again, with another path"
            )
        raise SpecError(f"there is no job in {str(folder)!r}; a job's path is job.path")
    loaded: dict[str, Any] = {}

    def model_of(description: Mapping[str, Any]) -> Any:
        check_description(description)
        if model is not None:
            return model
        name = json.dumps(description, sort_keys=True)
        if name not in loaded:
            loaded[name] = load_described(description)
        return loaded[name]

    try:
        content, data = (folder / JOB).read_text(), (folder / DATA).read_bytes()
        call = _deserialized(content, data, model_of)
    except SpecError:
        raise
    except OSError as error:
        raise SpecError(f"the job in {folder} cannot be resumed: {error}") from error
    except Exception as error:  # a foreign file can make a reader raise anything
        raise SpecError(
            f"the job in {folder} is broken ({type(error).__name__}: {error}); make the call again, with another path"
        ) from error
    _check_host(folder, call.kwargs["remote"], host)
    return call


def _check_host(folder: Path, remote: Remote, host: str | None) -> None:
    """Refuse to send a request, and with it the user's API key, to another computer that only the file names."""
    if not isinstance(remote, str) or remote == "local" or urlsplit(remote).hostname in THIS_COMPUTER:
        return
    if remote not in (nnsight.CONFIG.API.HOST, host):
        raise SpecError(
            f"the job in {folder} is for the server at {remote}, and nnsight is set to {nnsight.CONFIG.API.HOST}; if "
            f"you trust that server with your API key, write nv.remote.resume({str(folder)!r}, host={remote!r})"
        )


# the two files --------------------------------------------------------------------------------


def _serialized(call: StoredCall) -> tuple[str, bytes]:
    """What `job.json` and `data.safetensors` hold of a call, tried out."""
    from safetensors.numpy import save

    function = getattr(call.function, "__name__", "")
    if function not in FUNCTIONS or call.function is not job_function(function):
        raise SpecError(
            f"{function or call.function!r} cannot run as a job; functions that can are {', '.join(sorted(FUNCTIONS))}"
        )
    writer = ValueWriter(describe_model)
    arguments = writer.write((call.args, call.kwargs))
    data = save({str(number): np.frombuffer(blob, np.uint8) for number, blob in enumerate(writer.blobs)})
    content = {
        "format": FORMAT,
        "function": function,
        "arguments": arguments,
        "data": hashlib.sha256(data).hexdigest(),
        "entries": writer.entries,
    }
    text = json.dumps(content, allow_nan=False)
    try:
        _deserialized(text, data, check_description)
    except SpecError:
        raise
    except Exception as error:
        raise SpecError(
            f"this call cannot be kept on disk ({type(error).__name__}: {error}); wait for the result (blocking=True)"
        ) from error
    return text, data


def _deserialized(text: str, data: bytes, model_of: Callable[[dict[str, Any]], Any]) -> StoredCall:
    from safetensors.numpy import load as load_blobs

    content = json.loads(text)
    if content["format"] != FORMAT:
        raise SpecError(
            f"the job was written in format {content['format']!r} by another version of nnsight_vlm, and this version "
            f"reads format {FORMAT}; make the call again, with another path"
        )
    if hashlib.sha256(data).hexdigest() != content["data"]:
        raise ValueError(f"{DATA} is not the file that was written")
    arrays = load_blobs(data)
    blobs = [arrays[str(number)].tobytes() for number in range(len(arrays))]
    args, kwargs = ValueReader(content["entries"], blobs, model_of).read(content["arguments"])
    if not isinstance(args, tuple) or not isinstance(kwargs, dict) or {"blocking", "path"} & set(kwargs):
        raise ValueError("the arguments are not those of a job")
    if kwargs.get("remote") is not True and not isinstance(kwargs.get("remote"), str):
        raise ValueError("remote= is neither True nor an address")
    return StoredCall(job_function(content["function"]), args, kwargs)


# models ---------------------------------------------------------------------------------------


def describe_model(model: Any) -> dict[str, Any]:
    """What is needed to load a model again: its name, revision, dtype and attention.

    Raises:
        SpecError: more would be needed, or what a file may not ask for.
    """
    view = view_of(model)
    if view.edits:
        raise SpecError(
            "a job on disk cannot hold a model with edits of its own; give the model that it was made from, and "
            "compose what the edits do with |"
        )
    if not isinstance(model.repo_id, str) or not model.repo_id:
        raise SpecError(
            "a job on disk cannot hold a model that was made in memory, because nothing could load it again; load it "
            "by its name on the hub or by its folder, nv.load(name), or wait for the result (blocking=True)"
        )
    refuse_code(name for name, value in model.kwargs.items() if value)
    others = {name for name, value in model.kwargs.items() if value} - LOADED_ELSEWHERE - {"trust_remote_code"}
    if others or getattr(model, "peft", None) is not None:
        raise SpecError(
            f"a job on disk cannot hold a model that was loaded with {', '.join(sorted(others)) or 'peft'}=; wait for "
            "the result (blocking=True)"
        )
    attention = model.kwargs.get("attn_implementation") or view.attention_implementation
    description = {
        "name": model.repo_id,
        "revision": model.revision,
        "dtype": str(view.dtype).removeprefix("torch."),
        "attention": attention,
    }
    check_description(description)
    return description


def check_description(description: Mapping[str, Any]) -> None:
    """Refuse a description that asks for more than a plain model.

    Raises:
        SpecError: saying what.
    """
    refuse_code(description)
    attention = description.get("attention")
    parts = attention.values() if isinstance(attention, dict) else [attention]
    plain = all(isinstance(part, str) and ATTENTION.fullmatch(part) for part in parts)
    named = isinstance(description.get("name"), str) and isinstance(description.get("revision"), (str, type(None)))
    if set(description) != {"name", "revision", "dtype", "attention"} or not named or not plain:
        raise SpecError(
            f"a job on disk cannot hold a model described as {dict(description)!r}; it is loaded by name, revision, "
            "dtype and one of transformers' own attention implementations"
        )
    if description["dtype"] not in TORCH_DTYPES:
        raise SpecError(f"a job on disk names the dtype {description['dtype']!r}, which torch has not got")


def load_described(description: Mapping[str, Any]) -> Any:
    """A model by its description, without weights and without any code of its repository.

    Raises:
        SpecError: it cannot be loaded in this way.
    """
    options = {"revision": description["revision"]} if description["revision"] else {}
    try:
        return load(
            description["name"],
            dispatch=False,
            dtype=TORCH_DTYPES[description["dtype"]],
            attn_implementation=description["attention"],
            trust_remote_code=False,
            **options,
        )
    except Exception as error:  # of transformers, the hub or the file system
        raise SpecError(
            f"the job's model {description['name']!r} cannot be loaded by its name alone ({error}); load it yourself, "
            "and write nv.remote.resume(path, model=model)"
        ) from error
