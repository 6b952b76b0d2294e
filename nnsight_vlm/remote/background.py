"""Jobs in the background: send long work to a server, and collect the result later, in this process or another.

Functions that take `blocking=False` then return a `Job` at once. The job's folder
holds what it is to do, the ids of what was sent, and every answer received so far. When this process ends, `resume`
continues from there.

Some jobs have several rounds: a recipe may first let the model write answers and then look at the attention of their
words. The next round is sent when `done` or `result` is called.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar, cast

from ..arguments import flag, known_names, number, text
from ..arguments import folder as folder_given
from ..errors import RemoteError, SpecError
from ..families import view_of
from .batching import Computation, make_job, split_into_jobs
from .job import ServerJob
from .job_files import StoredCall, name_of, read_job, write_job
from .job_store import storing_jobs
from .model_call import check_remote
from .simulate import SimulatedJob

DEFAULT_FOLDER = Path("nnsight-vlm-jobs")
"""Jobs without a path of their own are kept in new folders inside this one."""
CANCELLED = "cancelled"
"""An empty file of this name marks a cancelled job."""

P = ParamSpec("P")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class Job(Generic[T]):
    """Work on a server that nobody waits for. Use it in the thread in which it was made.

    Attributes:
        path: the job's folder; `resume(path)` gives the job again, in any process.
    """

    def __init__(self, path: Path, compute: Callable[[], T]) -> None:
        self.path = path
        self._compute = compute
        self._result: list[T] = []
        self._thread = threading.get_ident()
        self._restart()

    def _restart(self) -> None:
        """Begin the computation anew; answers that are stored in the folder are not asked for again."""
        self._worker = Computation(self._compute)
        self._waiting_for: list[ServerJob | SimulatedJob] = []
        self._begun: list[Any] = []

    def begin(self) -> None:
        """Compute up to the first question, and send nothing: arguments are checked on the way.

        Raises:
            SpecError: as the call does without `blocking=False`.
        """
        self._begun = [self._worker.switch()]

    @property
    def status(self) -> str:
        """The last status that the server reported."""
        if self._result:
            return "done"
        if (self.path / CANCELLED).exists():
            return "cancelled; a server may still finish what was sent to it"
        return "; ".join(job.status for job in self._waiting_for) or "not sent yet"

    def done(self) -> bool:
        """Whether the result is there. Polls the server, sends the next round if there is one, and does not wait.

        Raises:
            RemoteError: the job failed. Answers received so far are kept, and another call of `done` or `result` tries
                again.
            SpecError: the job was made in another thread.
        """
        if not self._result:
            self._advance()
        return bool(self._result)

    def result(self, timeout: float | None = None) -> T:
        """Wait for the result: what the same call gives without `blocking=False`, with a list for an iterator.

        Args:
            timeout: seconds; by default there is no limit.

        Raises:
            RemoteError: see `done`.
            TimeoutError: the result is not there yet; ask again later.
        """
        end = (
            None
            if timeout is None
            else time.monotonic() + number("timeout", timeout, least=0, kind="time to wait", finite=False)
        )
        pause = 0.02
        while not self.done():
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(f"the job is not done after {timeout} seconds ({self.status}); ask again later")
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
        return self._result[0]

    def cancel(self) -> bool:
        """Give the job up: nothing more is sent or fetched, in this process or another.

        It cannot be taken from the server: NDIF (0.1.2) has no request for that, and finishes what was sent to it. Its
        answer is not fetched.

        Returns:
            Whether the job was given up: False if its result is there already, which is then kept, as for
            `concurrent.futures`.
        """
        if self._result:
            return False
        (self.path / CANCELLED).touch()
        self._restart()
        return True

    def _advance(self) -> None:
        if threading.get_ident() != self._thread:  # which its computation cannot leave
            raise SpecError(
                f"the job in {self.path} was made in another thread; ask it there, or write nv.remote.resume(path) here"
            )
        if (self.path / CANCELLED).exists():
            raise RemoteError(f"the job in {self.path} was cancelled; make the call again")
        try:
            with storing_jobs(self.path / "jobs"):
                self._run_rounds()
        except BaseException:
            self._restart()
            raise

    def _run_rounds(self) -> None:
        """Resume the computation with answers, round by round, until it ends or an answer is missing."""
        resume_with: tuple[list[Any], ...] = ()
        while True:
            if not self._waiting_for:
                yielded = self._begun.pop() if self._begun else self._worker.switch(*resume_with)
                if self._worker.dead:
                    self._result = [yielded]
                    return
                self._waiting_for = [make_job(content) for content in split_into_jobs(yielded)]
            polled = [job.poll() for job in self._waiting_for]
            received = [answers for answers in polled if answers is not None]
            if len(received) < len(polled):
                return
            resume_with, self._waiting_for = ([answer for answers in received for answer in answers],), []


def submit(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Job[T]:
    """Start a call on a server without waiting: `submit(nv.sweep, model, prompt, variants, answer="red")`.

    The same as `nv.sweep(..., remote=True, blocking=False)`, with a return type that type checkers know.

    Args:
        function: a function of this package that takes `remote=`.
        args, kwargs: its arguments; `remote=True` is the default.

    Raises:
        SpecError: `remote=False`, or something that cannot be kept on disk, so that the job could not be resumed.
        RemoteError: see `Job.done`.
    """
    return _submit(function, args, dict(kwargs), None)


def _submit(
    function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any], path: str | Path | None
) -> Job[T]:
    kwargs = {"remote": True, **kwargs}
    check_remote(kwargs["remote"])
    if kwargs["remote"] is False:
        raise SpecError("blocking=False is for work on a server; write remote=True as well, or leave it out")
    name = name_of(function)
    kept = None if path is None else folder_given("path", path)
    folder = kept or DEFAULT_FOLDER / f"{name}-{uuid.uuid4().hex[:8]}"
    call = StoredCall(function, args, kwargs)
    job: Job[T] = Job(folder, functools.partial(_compute, call))
    job.begin()  # what cannot be asked leaves no folder behind
    write_job(folder, call)
    job.done()
    return job


def _compute(call: StoredCall) -> Any:
    """What a call returns; an iterator is run to its end, as a list, because the job must ask all that it asks."""
    value = call.function(*call.args, **call.kwargs)
    return list(value) if isinstance(value, Iterator) else value


def resume(path: str | Path, *, model: Any = None, host: str | None = None) -> Job[Any]:
    """The job in a folder, as it was left: answers that came back are not asked for again.

    No code in the folder is run, whoever wrote it; see `job_files`.

    Args:
        path: `Job.path`.
        model: the model of the job; by default it is loaded by its name, without weights. Its name or path, revision,
            dtype and attention must be those of the job; where the job's folder is gone, another path is taken with an
            equal configuration.
        host: the server's address, for a job that was not sent to the server that nnsight is set to. A folder alone
            does not decide where your API key is sent.

    Raises:
        SpecError: there is no job in the folder, it cannot be read, its model cannot be loaded by name, or another
            model was given.
    """
    folder = folder_given("path", path)
    if host is not None:
        check_remote(text("host", host), "host")
    if model is not None:
        view_of(model)
    return Job(folder, functools.partial(_compute, read_job(folder, model=model, host=host)))


def can_run_in_background(function: F) -> F:
    """Decorate a function that declares `blocking=` and `path=`, so that `blocking=False` starts a job.

    The decorated function then returns a `Job`. Its declared return type does not say so; `submit` does.
    """
    signature = inspect.signature(function)
    if not {"remote", "blocking", "path"} <= set(signature.parameters):
        raise TypeError(f"{function.__name__} must declare remote=, blocking= and path=")

    @functools.wraps(function)
    def decorated(*args: Any, blocking: bool = True, path: str | Path | None = None, **kwargs: Any) -> Any:
        _check_call(function.__name__, signature, args, kwargs)
        if "remote" in kwargs:
            check_remote(kwargs["remote"])
        if flag("blocking", blocking):
            if path is not None:
                raise SpecError("path= is where a job is kept; write blocking=False as well")
            return function(*args, **kwargs)
        return _submit(cast(F, decorated), args, {"remote": False, **kwargs}, path)

    return cast(F, decorated)


def _check_call(called: str, signature: inspect.Signature, args: Any, kwargs: Any) -> None:
    """Refuse a call that Python would not carry out: a name that is not known, an argument that is missing or twice.

    Raises:
        SpecError: with how the function is called.
    """
    parameters = signature.parameters.values()
    if not any(each.kind is each.VAR_KEYWORD for each in parameters):
        known_names(called, kwargs, signature.parameters)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        bare = [each.name for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD]
        named = [
            f"{each.name}=..." for each in parameters if each.kind is each.KEYWORD_ONLY and each.default is each.empty
        ]
        raise SpecError(
            f"{called}: {error}; write {called}({', '.join([*bare, *named])}), and other arguments by name"
        ) from None
