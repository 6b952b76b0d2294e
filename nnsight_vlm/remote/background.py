"""Long work on a server: send it, go home, and pick the result up later.

Every function that takes `remote=` also takes `blocking=False`, and then returns a `Job` at once. What the job is to
do, the ids of what was sent and every answer that came home lie in its folder: when this computer is switched off,
`resume` goes on from there.

A job of several rounds (answers first, then what the answers' words look at) sends the next round when it is asked
after, with `done` or `result`.
"""

from __future__ import annotations

import functools
import inspect
import io
import json
import pickle
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from nnsight import TransformersModel

from ..errors import RemoteError, SpecError
from ..families import view_of
from ..loading import load
from ..storage import atomic_write
from .batching import Computation
from .events import Traffic, counting
from .job import Job as Sent
from .job import SimulatedJob, make_job, parts
from .job_store import storing_jobs

__all__ = ["Job", "RemoteError", "Traffic", "counting", "resume", "submit"]

FOLDER = Path("nnsight-vlm-jobs")
"""Where jobs are kept unless told otherwise."""
PLAN, TENSORS, MODELS = "plan.pickle", "tensors.pt", "models.json"
PLAIN = {
    "builtins": {"set", "frozenset", "range", "slice", "bytearray", "complex"},
    "collections": {"OrderedDict"},
    "pathlib": {"Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
    "numpy": {"ndarray", "dtype"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "torch": {"device", "Size", "float32", "float16", "bfloat16", "float64", "int64", "int32", "bool"},
}
"""What a plan may hold beside values of this package and pictures."""

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Job(Generic[T]):
    """Work on a server that nobody waits for. It lives in the thread that made it, and in its folder.

    Attributes:
        path: its folder; `resume(path)` makes it anew, in any process.
    """

    def __init__(self, path: Path, compute: Callable[[], T]) -> None:
        self.path = path
        self._compute = compute
        self._result: list[T] = []
        self._start()

    def _start(self) -> None:
        self._worker = Computation(self._compute)
        self._sent: list[Sent | SimulatedJob] = []

    @property
    def status(self) -> str:
        """What the server last said."""
        if self._result:
            return "done"
        return "; ".join(sent.status for sent in self._sent) or "not sent yet"

    def done(self) -> bool:
        """Whether the result is there; asks the server, sends what comes next, and does not wait.

        Raises:
            RemoteError: there will be none unless it is asked for again; what came home is kept.
        """
        if not self._result:
            self._go_on()
        return bool(self._result)

    def result(self, timeout: float | None = None) -> T:
        """The result, as the same call without `blocking=False` gives it; waits for it.

        Args:
            timeout: seconds; default for ever.

        Raises:
            RemoteError: see `done`.
            TimeoutError: it is not there yet; ask again.
        """
        end = None if timeout is None else time.monotonic() + timeout
        pause = 0.02
        while not self.done():
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"the job is not done after {timeout} seconds ({self.status}); ask again later")
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
        return self._result[0]

    def cancel(self) -> bool:
        """Give the work up: nothing more is sent or fetched. Whether the server stopped what it has already.

        NDIF's has no way to be told (0.1.2), so this is False there: what it runs, it runs to its end.
        """
        (self.path / "cancelled").touch()
        self._start()
        return False

    def _go_on(self) -> None:
        if (self.path / "cancelled").exists():
            raise RemoteError(f"the job in {self.path} was cancelled; send it anew")
        try:
            with storing_jobs(self.path / "jobs"):
                self._rounds()
        except BaseException:
            self._start()  # from the beginning, with all that is recorded
            raise

    def _rounds(self) -> None:
        """Let the computation run from question to question, as far as there are answers."""
        answers: tuple[list[Any], ...] = ()
        while True:
            if not self._sent:
                told = self._worker.switch(*answers)
                if self._worker.dead:
                    self._result = [told]
                    return
                self._sent = [make_job(*part) for part in parts(told)]
            found = [sent.poll() for sent in self._sent]
            if any(one is None for one in found):
                return
            answers, self._sent = ([answer for one in found for answer in one or ()],), []


def submit(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Job[T]:
    """Start a call on a server, and do not wait for it: `submit(nv.sweep, model, prompt, variants, answer="red")`.

    Args:
        function: one of this package that takes `remote=`.
        args, kwargs: its arguments; `remote=True` unless said otherwise.

    Raises:
        SpecError: `remote=False`; something that cannot be kept on disk.
        RemoteError: see `Job.done`.
    """
    return _submit(function, args, dict(kwargs), None)


def _submit(function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], path: Any) -> Job[T]:
    kwargs = {"remote": True, **kwargs}
    if kwargs["remote"] is False:
        raise SpecError("blocking=False is for work on a server; write remote=True as well, or leave it out")
    folder = Path(path) if path is not None else FOLDER / f"{function.__name__}-{uuid.uuid4().hex[:8]}"
    if (folder / PLAN).exists():
        raise SpecError(
            f"{folder} holds a job already; write nv.remote.resume({str(folder)!r}), or choose another path"
        )
    _write_plan(folder, function, args, kwargs)
    job = Job(folder, functools.partial(function, *args, **kwargs))
    job.done()
    return job


def resume(path: str | Path, *, model: Any = None) -> Job[Any]:
    """The job in a folder, as it was: what came home is not asked for again.

    Args:
        path: `Job.path`.
        model: the model that the job is about; default the one of its name, loaded without weights.

    Raises:
        SpecError: there is no job, or its plan is not one of this package's.
    """
    folder = Path(path)
    if not (folder / PLAN).exists():
        raise SpecError(f"there is no job in {str(folder)!r}; a job's path is job.path")
    function, args, kwargs = _read_plan(folder, model)
    return Job(folder, functools.partial(function, *args, **kwargs))


def can_run_in_background(function: F) -> F:
    """Make `blocking=False` and `path=`, which a function declares, start a job instead of waiting for the server.

    With `blocking=False` the function returns a `Job` of what it gives; `submit` says the same to a type checker.
    """
    declared = inspect.signature(function).parameters
    if not {"remote", "blocking", "path"} <= set(declared):
        raise TypeError(f"{function.__name__} must declare remote=, blocking= and path=")

    @functools.wraps(function)
    def either(*args: Any, blocking: bool = True, path: str | Path | None = None, **kwargs: Any) -> Any:
        if blocking:
            if path is not None:
                raise SpecError("path= is where a job is kept; write blocking=False as well")
            return function(*args, **kwargs)
        return _submit(cast(F, either), args, {"remote": False, **kwargs}, path)

    return cast(F, either)


# what a job is to do, on disk -----------------------------------------------------------------


class _Writer(pickle.Pickler):
    """Writes a plan; models by name, tensors beside it."""

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.tensors: list[torch.Tensor] = []
        self.models: list[Any] = []

    def persistent_id(self, value: Any) -> tuple[str, int] | None:
        kind, kept = ("tensor", self.tensors) if isinstance(value, torch.Tensor) else ("model", self.models)
        if kind == "model" and not isinstance(value, TransformersModel):
            return None
        known = [number for number, one in enumerate(kept) if one is value]
        if not known:
            kept.append(value)
        return kind, known[0] if known else len(kept) - 1


class _Reader(pickle.Unpickler):
    """Reads a plan, and nothing that could be something else."""

    def __init__(self, file: Any, tensors: Sequence[torch.Tensor], models: Sequence[Any]) -> None:
        super().__init__(file)
        self._kept = {"tensor": tensors, "model": models}

    def persistent_load(self, name: tuple[str, int]) -> Any:
        return self._kept[name[0]][name[1]]

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".", maxsplit=1)[0] in ("nnsight_vlm", "PIL") or name in PLAIN.get(module, ()):
            return super().find_class(module, name)
        raise SpecError(
            f"a job on disk cannot hold {module}.{name}; give functions of nnsight_vlm and plain values, or wait for "
            "the result (blocking=True)"
        )


def _write_plan(folder: Path, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> None:
    """Write a plan, and read it back at once, so that it can be read when it is needed."""
    file = io.BytesIO()
    writer = _Writer(file)
    try:
        writer.dump((function, args, kwargs))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SpecError(
            f"this call cannot be kept on disk ({error}); give functions that have a name in a module, or wait for the "
            "result (blocking=True)"
        ) from error
    _Reader(io.BytesIO(file.getvalue()), writer.tensors, writer.models).load()
    names = [_name_of(model) for model in writer.models]
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / TENSORS) as fresh:
        torch.save([tensor.detach().cpu() for tensor in writer.tensors], fresh)
    with atomic_write(folder / MODELS) as fresh:
        fresh.write_text(json.dumps(names) + "\n")
    with atomic_write(folder / PLAN) as fresh:
        fresh.write_bytes(file.getvalue())


def _read_plan(folder: Path, model: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    try:
        tensors = torch.load(folder / TENSORS, map_location="cpu", weights_only=True)
        names = json.loads((folder / MODELS).read_text())
        models = [_loaded(name) if model is None else model for name in names]
        with (folder / PLAN).open("rb") as file:
            function, args, kwargs = _Reader(file, tensors, models).load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"the plan in {folder} is broken ({error}); send the job anew") from error
    return function, args, kwargs


def _name_of(model: Any) -> dict[str, Any]:
    """What `load` needs to make the model again."""
    if view_of(model).edits:
        raise SpecError("a model with edits of its own cannot be kept on disk; compose what they do with |")
    options = {"revision": model.revision, "attn_implementation": model.attn_implementation}
    options |= {"trust_remote_code": True} if model.kwargs.get("trust_remote_code") else {}
    return {"name": model.repo_id, "options": {key: value for key, value in options.items() if value is not None}}


def _loaded(name: dict[str, Any]) -> Any:
    return load(name["name"], dispatch=False, **name["options"])
