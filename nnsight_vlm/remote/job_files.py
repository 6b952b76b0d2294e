"""What a background job is to do, on disk: the function, its arguments, and how to load its models again.

`job.json` holds all but the contents of tensors, arrays and pictures. These lie in `data-<digest>.safetensors`, which
is named by its content, so that two jobs cannot mix their files. Neither file can make this package run code, so a
folder that somebody else wrote can be resumed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import nnsight
import numpy as np

from ..errors import SpecError
from ..storage import atomic_write
from .job_models import check_description, describe_model, load_described, require_described
from .model_call import Remote
from .value_reader import ValueReader
from .value_table import FUNCTIONS, job_function
from .value_writer import ValueWriter

FORMAT = 3
"""Version of the files; 1 was a pickle, 2 did not say which configuration a model has."""
JOB, DATA = "job.json", "data-{}.safetensors"
DIGEST = re.compile("[0-9a-f]{64}")
"""What `job.json` may say of its data; the file's name is made of it."""
OLD_JOB = "plan.pickle"
THIS_COMPUTER = ("127.0.0.1", "::1", "localhost")


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
        raise _holds_a_job(folder)
    if (folder / OLD_JOB).exists():
        raise SpecError(f"{folder} holds a job of an older version of nnsight_vlm; choose another path")
    content, data = _serialized(call)
    data_file = folder / _data_name(content)
    with atomic_write(data_file) as fresh:
        fresh.write_bytes(data)
    if not _write_once(folder / JOB, content + "\n"):
        if _data_name((folder / JOB).read_text()) != data_file.name:
            data_file.unlink(missing_ok=True)
        raise _holds_a_job(folder)


def _holds_a_job(folder: Path) -> SpecError:
    return SpecError(f"{folder} holds a job already; write nv.remote.resume({str(folder)!r}), or choose another path")


def _data_name(content: str) -> str:
    """The name of the data file that belongs to a `job.json`.

    Raises:
        ValueError: the file names no digest.
    """
    name = json.loads(content)["data"]
    if not isinstance(name, str) or not DIGEST.fullmatch(name):
        raise ValueError(f"{name!r} is not the digest of its data")
    return DATA.format(name)


def _write_once(path: Path, text: str) -> bool:
    """Write a file completely unless it exists; of several processes that try, one succeeds.

    Returns:
        Whether this call wrote it.
    """
    staged = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with atomic_write(staged) as fresh:
        fresh.write_text(text)
    try:
        os.link(staged, path)
    except FileExistsError:
        return False
    except OSError:  # a file system without links: there the last of several writers stays
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)
    return True


def read_job(folder: Path, *, model: Any = None, host: str | None = None) -> StoredCall:
    """The call that a folder holds.

    Args:
        folder: where `write_job` kept it.
        model: stands for all models of the job, which must be this one, see `job_models.require_described`; by default
            each is loaded by its name, without weights.
        host: an address to which the job may be sent, besides nnsight's configured server.

    Raises:
        SpecError: there is no job, its files are broken or of an older version, or ask for what a file may not decide;
            or the job is about another model.
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
            require_described(model, description)
            return model
        name = json.dumps(description, sort_keys=True)
        if name not in loaded:
            loaded[name] = load_described(description)
        return loaded[name]

    try:
        content = (folder / JOB).read_text()
        _check_format(content)
        call = _deserialized(content, (folder / _data_name(content)).read_bytes(), model_of)
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


def _check_format(content: str) -> None:
    written = json.loads(content)["format"]
    if written != FORMAT:
        raise SpecError(
            f"the job was written in format {written!r} by another version of nnsight_vlm, and this version reads "
            f"format {FORMAT}; make the call again, with another path"
        )


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


def name_of(function: Callable[..., Any]) -> str:
    """What a function that can run as a job is called.

    Raises:
        SpecError: it cannot.
    """
    name = getattr(function, "__name__", "")
    if name not in FUNCTIONS or function is not job_function(name):
        raise SpecError(
            f"{name or function!r} cannot run as a job; functions that can are {', '.join(sorted(FUNCTIONS))}"
        )
    return name


def _serialized(call: StoredCall) -> tuple[str, bytes]:
    """What the two files hold of a call, tried out."""
    from safetensors.numpy import save

    function = name_of(call.function)
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
    if hashlib.sha256(data).hexdigest() != content["data"]:
        raise ValueError("the data is not what was written")
    arrays = load_blobs(data)
    blobs = [arrays[str(number)].tobytes() for number in range(len(arrays))]
    args, kwargs = ValueReader(content["entries"], blobs, model_of).read(content["arguments"])
    if not isinstance(args, tuple) or not isinstance(kwargs, dict) or {"blocking", "path"} & set(kwargs):
        raise ValueError("the arguments are not those of a job")
    if kwargs.get("remote") is not True and not isinstance(kwargs.get("remote"), str):
        raise ValueError("remote= is neither True nor an address")
    return StoredCall(job_function(content["function"]), args, kwargs)
