"""A job: several requests that go to a server together, and how their answers come home.

A job is packed once and sent until there is an answer, or no more hope of one: a line that breaks, a server that
starts anew and a job that is lost are waited for and sent again, a bounded number of times. Which of several tries
answers does not matter, because a job is a pure function of what it asks: nothing is counted twice.

Nothing here holds a connection open while a job waits: it is sent, and then asked after.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import torch
import zstandard
from nnsight import save
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.intervention.backends.remote import RemoteError as ServerError
from nnsight.ndif import pull_env
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status
from nnsight.tracing.backend import Backend

from ..device.runner import carry_out
from ..errors import RemoteError, SpecError
from ..identity import digest
from .events import count, has_listener, tell
from .job_store import JobStore, current_store
from .model_call import Asked, ModelCall, Remote, in_order
from .packing import Packed, RowPool, packed
from .server_errors import explain

FORMAT = 1
"""Raise when what travels, or what it gives, changes its meaning: old answers are then asked for anew."""
PAYLOAD = 64 * 2**20
"""Bytes of input tensors in one job; what is more goes into the next."""
ANSWER = 256 * 2**20
"""Bytes that one job may bring home."""
TRIES = 5
"""How often a job is sent."""
PAUSE = 1.0
"""Seconds before a job is sent again; twice as long each time."""
LOST = 60.0
"""Seconds to wait for news of a job from a server that was away; four times as long each time."""
AWAY = 600.0
"""Seconds that a server may be away."""


def answer_all(asked: Sequence[Asked]) -> list[Any]:
    """The answers to requests, in order, from as few jobs as their lanes and their size permit.

    Raises:
        RemoteError: the server, or the line to it, has failed for good; what came home is in the open record.
        SpecError: a request that would bring home more than `ANSWER` bytes.
    """
    jobs = [make_job(model, requests, remote) for model, requests, remote in parts(asked)]
    for job in jobs:
        job.poll()  # all are sent before the first is waited for
    return [answer for job in jobs for answer in job.wait()]


def parts(asked: Sequence[Asked]) -> Iterator[tuple[Any, list[ModelCall], Remote]]:
    """Requests in groups of one model, server and lane, of bounded payload and answer."""
    group, pools, answer = list[ModelCall](), RowPool(), 0
    last: tuple[Any, ...] = ()
    for model, request, remote, lane in asked:
        numbers = 4 * request.numbers
        if numbers > ANSWER:
            raise SpecError(
                f"this would bring {numbers / 2**20:.0f} MiB home from the server, and one job may bring "
                f"{ANSWER / 2**20:.0f}; read fewer layers or positions at a time, or reduce on the server "
                '(nv.Attention(..., reduce="mean"))'
            )
        pools.add_all([request])
        full = pools.nbytes > PAYLOAD or answer + numbers > ANSWER
        if group and (full or last[0] is not model or last[1:] != (remote, lane)):
            yield last[0], group, last[1]
            group, pools, answer = [], RowPool(), 0
            pools.add_all([request])
        group.append(request)
        answer, last = answer + numbers, (model, remote, lane)
    if group:
        yield last[0], group, last[1]


# one job --------------------------------------------------------------------------------------


class Job:
    """Requests on their way to a server and back.

    Attributes:
        mark: a digest of what is asked.
        status: the last that the server said of it, in words.
    """

    def __init__(self, model: Any, requests: Sequence[ModelCall], remote: Remote) -> None:
        self._wanted, self._order = list(requests), in_order(requests)
        self._carrier = JobClient(model, remote)
        told = packed(requests)
        self.mark = digest(FORMAT, self._carrier.model_key, self._carrier.env, *told)
        self._blob = _Blob(model, self.mark, told)
        self._record: JobStore | None = current_store()
        self._carrier.job_id = self._record.job(self.mark) if self._record else None
        self._answers: list[Any] | None = None
        self._tries, self._not_before = 0, 0.0
        self._contact = time.monotonic()
        self._doubt: float | None = self._contact if self._carrier.job_id else None
        self.status = "not sent yet"

    def wait(self) -> list[Any]:
        """The answers.

        Raises:
            RemoteError: there will be none.
        """
        pause = 0.02
        while (found := self.poll()) is None:
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
        return found

    def poll(self) -> list[Any] | None:
        """The answers if they are there; sends what has to be sent, and never waits.

        Raises:
            RemoteError: there will be none.
        """
        kept = self._record.answer(self.mark) if self._record and self._answers is None else None
        if kept is not None:
            self._take(kept)
        if self._answers is None and time.monotonic() >= self._not_before:
            try:
                self._send() if self._carrier.job_id is None else self._ask()
            except RemoteError:
                raise
            except (ServerError, httpx.HTTPError, OSError) as error:
                self._failed(error)
        return self._answers

    def _send(self) -> None:
        self._tries += 1
        blob = self._blob.sealed(self._carrier.compress)
        self._carrier.submit_bytes(blob)
        count(jobs=1, payload=len(blob))
        if self._record:
            self._record.sent(self.mark, str(self._carrier.job_id), self._carrier.host)
        self._contact, self._doubt = time.monotonic(), None
        self._say(self._carrier.told)

    def _ask(self) -> None:
        content = self._carrier.poll()
        now, news = time.monotonic(), self._carrier.told != self.status
        self._contact = now
        if content is not None:
            count(answers=len(content))
            self._take(content)
        elif news:
            self._doubt = None
            self._say(self._carrier.told)
        elif self._doubt is not None and now - self._doubt > LOST * 4 ** max(0, self._tries - 1):
            self._again("the server does not know the job any more")

    def _take(self, content: bytes) -> None:
        """Read an answer; one that is none is asked for again."""
        try:
            answers = opened(content, self.mark, len(self._order), self._carrier.compress)
        except ValueError as error:
            self._again(f"the answer is broken ({error})")
            return
        if self._record:
            self._record.answered(self.mark, content)
        self._answers = chosen(answers, self._order, self._wanted)

    def _failed(self, error: Exception) -> None:
        """The server said no, or nothing."""
        told = str(error) if isinstance(error, ServerError) else f"{type(error).__name__}: {error}"
        found, now = explain(told, self._carrier.api_key), time.monotonic()
        expired = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (403, 404, 410)
        if self._carrier.job_id is not None and self._carrier.status != Status.ERROR and not expired:
            if now - self._contact > AWAY:
                raise RemoteError(self._spelled(f"no answer for {AWAY:.0f} seconds. {found.words}")) from None
            self._doubt, self._not_before = now, now + PAUSE  # it may well be running: ask after it again
        elif found.again or expired:
            self._again(found.words)
        else:
            self._forget()
            raise RemoteError(self._spelled(found.words)) from None

    def _forget(self) -> None:
        """Whoever asks the same again sends it anew."""
        self._carrier.forget_job()
        if self._record:
            self._record.forget(self.mark)

    def _again(self, why: str) -> None:
        self._forget()
        if self._tries >= TRIES:
            raise RemoteError(self._spelled(f"sent {self._tries} times; the last time: {why}")) from None
        self._not_before = time.monotonic() + PAUSE * 2 ** max(0, self._tries - 1)
        self._say(f"sending again: {why.splitlines()[0]}")

    def _say(self, status: str) -> None:
        self.status = status
        tell(status)

    def _spelled(self, words: str) -> str:
        kept = f"\nWhat came home before is kept in {self._record.folder}." if self._record else ""
        return f"{self._carrier.host}: {words}{kept}"


class SimulatedJob:
    """The same for `remote="local"`: packed and opened as for a server, and run here."""

    status = "simulated"

    def __init__(self, model: Any, requests: Sequence[ModelCall], remote: Remote) -> None:
        self._model, self._wanted, self._remote = model, list(requests), remote
        self._answers: list[Any] | None = None

    def poll(self) -> list[Any]:
        """The answers."""
        if self._answers is None:
            backend = self._model._remote_backend(self._remote, True, None, False)
            answers = in_session(self._model, "", packed(self._wanted), backend)[1]
            self._answers = chosen(answers, in_order(self._wanted), self._wanted)
        return self._answers

    def wait(self) -> list[Any]:
        """The answers."""
        return self.poll()


def chosen(answers: Sequence[Any], order: Sequence[ModelCall], wanted: Sequence[ModelCall]) -> list[Any]:
    """Of the answers to all requests in `order`, those to the wanted ones."""
    places = {id(request): number for number, request in enumerate(order)}
    return [answers[places[id(request)]] for request in wanted]


def make_job(model: Any, requests: Sequence[ModelCall], remote: Remote) -> Job | SimulatedJob:
    """The job that asks these requests of a model."""
    return (SimulatedJob if remote == "local" else Job)(model, requests, remote)


# what travels ---------------------------------------------------------------------------------


def in_session(model: Any, mark: str, told: Packed, backend: Backend) -> list[Any]:
    """One nnsight session that carries requests out, handed to a backend: `[mark, answers]`."""
    requests, pools = told
    answer: list[Any] = []
    with model.session(backend=backend):
        answer = save(carry_out(model, mark, requests, pools))
    return answer


class _Sealing(Backend):  # type: ignore[misc]
    """Keeps a session as bytes instead of running it."""

    def __init__(self, compress: bool) -> None:
        self.compress, self.blob = compress, b""

    def __call__(self, tracer: Any) -> None:
        pull_env()
        self.blob = RequestModel.serialize(tracer, self.compress)


class _Blob:
    """The bytes of a job, made when they are first wanted."""

    def __init__(self, model: Any, mark: str, told: Packed) -> None:
        self._make = model, mark, told
        self._made = b""

    def sealed(self, compress: bool) -> bytes:
        """The job as a server takes it."""
        if not self._made:
            backend = _Sealing(compress)
            in_session(*self._make, backend)
            self._made = backend.blob
        return self._made


def opened(content: bytes, mark: str, count: int, compress: bool) -> list[Any]:
    """The answers in what a server gave: tensors and plain data, and nothing else.

    Raises:
        ValueError: anything else; nothing of it has been run.
    """
    try:
        if compress:
            size = zstandard.frame_content_size(content)
            if size > 2 * ANSWER:
                raise ValueError(f"it unpacks to {size / 2**20:.0f} MiB")
            content = zstandard.ZstdDecompressor().decompress(content, max_output_size=2 * ANSWER)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except ValueError:
        raise
    except Exception as error:  # whatever a foreign file makes a reader do
        raise ValueError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from None
    answer = found.get("answer") if isinstance(found, dict) else None
    if not isinstance(answer, list) or len(answer) != 2 or not isinstance(answer[1], list):
        raise ValueError("it does not hold what was asked for")
    if answer[0] != mark:
        raise ValueError("it answers something else")
    if len(answer[1]) != count:
        raise ValueError(f"it holds {len(answer[1])} answers to {count} requests")
    return answer[1]


# the line -------------------------------------------------------------------------------------


class JobClient(RemoteBackend):  # type: ignore[misc]
    """nnsight's own client, for jobs that are asked after; it hands answers over as they came, unopened."""

    display: Any

    def __init__(self, model: Any, remote: Remote) -> None:
        host = remote if isinstance(remote, str) else None
        super().__init__(key_of(model), host=host, env=model._remoteable_get_env(), blocking=False)
        self.told = ""
        self.display = _Heard(self, self.display)

    def submit_bytes(self, blob: bytes) -> None:
        """Send a job; `job_id` is the server's name for it."""
        request = RequestModel(model_key=self.model_key, compress=self.compress, env=self.env)
        response = self._post(request, blob)
        self.job_id, self.status = response.id, response.status
        self.display.update(response)

    def handle(self, response: ResponseModel) -> bytes | None:
        """The answer's bytes, once there is one."""
        found: bytes | None = super().handle(response)
        if found is None and response.status == Status.COMPLETED:
            raise ServerError("botocore: the job is done and has no answer")
        return found

    def finalize(self, content: bytes) -> bytes:
        """Bytes as they came: `opened` reads them."""
        return content

    def forget_job(self) -> None:
        """Be ready to send anew."""
        self.job_id, self.status, self.told = None, None, ""


class _Heard:
    """Keeps what the server says, and shows what is new in nnsight's way, unless somebody else listens."""

    enabled = False  # downloads have no bars of their own

    def __init__(self, carrier: JobClient, display: Any) -> None:
        self._carrier, self._display = carrier, display

    def update(self, response: ResponseModel) -> None:
        """Note a status."""
        said = response.description.strip().splitlines()
        told = f"{response.status.value.lower()}{': ' + said[0] if said else ''}"
        if told != self._carrier.told and not has_listener():
            self._display.update(response)
        self._carrier.told = told


def key_of(model: Any) -> str:
    """The name by which servers know a model.

    Raises:
        SpecError: it has none: it was made in memory.
    """
    try:
        return str(model.to_model_key())
    except Exception as error:
        raise SpecError(
            "this model has no name that a server could know it by; load it by its name on the hub, "
            f'nv.load("llava-hf/llava-1.5-7b-hf", dispatch=False), or by its folder on the server ({error})'
        ) from error
