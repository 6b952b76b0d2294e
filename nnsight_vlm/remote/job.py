"""One job on a server: several calls that are sent together, and how their answers come back.

A job is packed once and sent until it is answered or there is no hope left. A broken connection, a server that restarts
and a job that is lost, or of which nothing is heard, are waited for and sent again, a limited number of times. It does
not matter which attempt is answered: a job is a pure function of what it asks, so no result is counted twice.

No connection stays open while a job waits: it is sent, and then polled for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import httpx
from nnsight.intervention.backends.remote import RemoteError as ServerError
from nnsight.schema.response import Status

from ..errors import RemoteError
from ..identity import digest
from ..showing import visible
from .client import JobClient, place_of
from .events import count, current_patience, emit
from .job_store import JobStore, current_store
from .model_call import ModelCall, Remote, in_order
from .packing import Payload, pack
from .server_errors import explain
from .unpacking import read_answer, select_answers

FORMAT = 2
"""Part of every digest. Raise it when the meaning of a payload or an answer changes, so that stored answers of older
versions are not used. In 1 the server's address was not part of the digest."""
MAX_TRIES = 5
"""How often a job is sent."""
RETRY_PAUSE = 1.0
"""Seconds before a job is sent again; doubled each time."""
LOST_AFTER = 60.0
"""Seconds without a new status, after a failed poll, until a job counts as lost; four times as long after each try."""
SILENT_AFTER = 2 * 3600.0
"""Seconds without a new status until a job that waits in a queue, or runs, counts as lost; see `events.patience`."""
STARTED_AFTER = 600.0
"""The same for a job that the server should take up at once: it was handed to the model, or is in no queue yet."""
TAKEN_UP_AT_ONCE = (None, Status.RECEIVED, Status.DISPATCHED)
WATCHED = 60.0
"""Most seconds between two polls that count as time without news: nobody looked in between."""
AWAY_AFTER = 600.0
"""Seconds without any contact until a server that has the job is given up."""


class ServerJob:
    """Calls on their way to a server and back.

    Attributes:
        digest: digest of everything that is asked, and of the server that is asked.
        status: the server's last status, as text.
    """

    def __init__(self, model: Any, calls: Sequence[ModelCall], remote: Remote) -> None:
        self._calls, self._order = list(calls), in_order(calls)
        self._client = JobClient(model, remote)
        packed = pack(calls)
        self.digest = digest(FORMAT, place_of(remote), self._client.model_key, self._client.env, *packed)
        self._payload = Payload(model, self.digest, packed)
        self._store: JobStore | None = current_store()
        self._client.job_id = self._store.job_id(self.digest) if self._store else None
        self._answers: list[Any] | None = None
        self._tries, self._not_before = 0, 0.0
        self._last_contact = time.monotonic()
        self._doubtful_since: float | None = self._last_contact if self._client.job_id else None
        self._silent, self._sent_for_silence = 0.0, False
        self.status = "not sent yet"

    def wait(self) -> list[Any]:
        """The answers, one for each call; blocks until they are there.

        Raises:
            RemoteError: the job failed for good.
        """
        pause = 0.02
        while (answers := self.poll()) is None:
            time.sleep(pause)
            pause = min(pause * 1.5, 2.0)
        return answers

    def poll(self) -> list[Any] | None:
        """The answers, or None while there are none. Sends what has to be sent, and never blocks for long.

        Raises:
            RemoteError: the job failed for good.
        """
        stored = self._store.answer(self.digest) if self._store and self._answers is None else None
        if stored is not None:
            self._accept(stored)
        if self._answers is None and time.monotonic() >= self._not_before:
            try:
                self._send() if self._client.job_id is None else self._fetch()
            except RemoteError:
                raise
            except (ServerError, httpx.HTTPError, OSError) as error:
                self._handle_failure(error)
        return self._answers

    def _send(self) -> None:
        self._tries += 1
        payload = self._payload.serialized(self._client.compress)
        self._client.submit_bytes(payload)
        count(jobs=1, payload=len(payload))
        if self._store:
            self._store.record_sent(self.digest, str(self._client.job_id), self._client.host)
        self._last_contact, self._doubtful_since, self._silent = time.monotonic(), None, 0.0
        self._set_status(self._client.last_status)

    def _fetch(self) -> None:
        """Poll the server for the answer."""
        content = self._client.poll()
        now, is_new = time.monotonic(), self._client.last_status not in ("", self.status)
        self._silent = 0.0 if is_new else self._silent + min(now - self._last_contact, WATCHED)
        self._last_contact = now
        if content is not None:
            count(answers=len(content))
            self._accept(content)
        elif is_new:
            self._doubtful_since = None
            self._set_status(self._client.last_status)
        elif self._doubtful_since is not None and now - self._doubtful_since > self._lost_after:
            self._retry("the server does not know the job any more")
        elif self._silent > (limit := self._silent_after):
            self._end_silence(limit)

    @property
    def _silent_after(self) -> float:
        """Seconds without news after which the job counts as lost."""
        usual = STARTED_AFTER if self._client.status in TAKEN_UP_AT_ONCE else SILENT_AFTER
        return usual if (asked := current_patience()) is None else asked

    def _end_silence(self, seconds: float) -> None:
        """Send a job again of which nothing was heard, once; then give it up, under its id, which is kept.

        A server that forgot a job, or never ran it, goes on saying what it said last.
        """
        job, status = self._client.job_id, self.status
        if not self._sent_for_silence:
            self._sent_for_silence = True
            self._retry(f"no news of job {job} for {seconds:.0f} seconds")
            return
        self._silent = 0.0
        raise RemoteError(
            self._worded(
                f"no news of job {job} for {seconds:.0f} seconds; its last status was {status!r}. It was sent a second "
                "time before, so the server loses jobs, or takes longer. Make the same call again later (for a job in "
                "the background: nv.remote.resume(path).result()), which asks for what was sent; or wait longer: "
                "with nv.remote.patience(seconds)"
            )
        )

    @property
    def _lost_after(self) -> float:
        """Seconds of doubt after which the job counts as lost."""
        return float(LOST_AFTER * 4 ** max(0, self._tries - 1))

    def _accept(self, content: bytes) -> None:
        """Read an answer; ask again for one that cannot be read."""
        try:
            answers = read_answer(content, self.digest, len(self._order), self._client.compress)
        except ValueError as error:
            self._retry(f"the answer is broken ({error})")
            return
        if self._store:
            self._store.record_answer(self.digest, content)
        self._answers = select_answers(answers, self._order, self._calls)

    def _handle_failure(self, error: Exception) -> None:
        """After an error of the server or the connection: poll again, send again, or give up."""
        message = str(error) if isinstance(error, ServerError) else f"{type(error).__name__}: {error}"
        failure, now = explain(message, self._client.api_key), time.monotonic()
        expired = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (403, 404, 410)
        if self._client.job_id is not None and self._client.status != Status.ERROR and not expired:
            if now - self._last_contact > AWAY_AFTER:
                raise RemoteError(self._worded(f"no answer for {AWAY_AFTER:.0f} seconds. {failure.message}")) from None
            self._doubtful_since, self._not_before = now, now + RETRY_PAUSE  # the job may still be running: poll again
        elif failure.retry or expired:
            self._retry(failure.message)
        else:
            self._forget()
            raise RemoteError(self._worded(failure.message)) from None

    def _forget(self) -> None:
        """Drop the server's id, so that the next poll, or another process that asks the same, sends the job again."""
        self._client.forget_job()
        if self._store:
            self._store.forget(self.digest)

    def _retry(self, reason: str) -> None:
        self._forget()
        if self._tries >= MAX_TRIES:
            raise RemoteError(self._worded(f"sent {self._tries} times; the last time: {reason}")) from None
        self._not_before = time.monotonic() + RETRY_PAUSE * 2 ** max(0, self._tries - 1)
        self._set_status(visible(f"sending again: {reason.splitlines()[0]}"))

    def _set_status(self, status: str) -> None:
        self.status = status
        emit(status)

    def _worded(self, message: str) -> str:
        stored = f"\nAnswers received before are kept in {self._store.folder}." if self._store else ""
        return f"{self._client.host}: {message}{stored}"
