"""The connection to a server: nnsight's own client, used without waiting and without unpickling what it receives."""

from __future__ import annotations

from typing import Any

import nnsight
from nnsight.intervention.backends.remote import RemoteBackend
from nnsight.intervention.backends.remote import RemoteError as ServerError
from nnsight.schema.request import RequestModel
from nnsight.schema.response import ResponseModel, Status

from ..errors import SpecError
from ..families import view_of
from ..showing import visible
from .events import has_listener
from .model_call import Remote


class JobClient(RemoteBackend):  # type: ignore[misc]
    """Sends one job and polls for its result. Answers are returned as bytes; `read_answer` reads them safely.

    Attributes:
        job_id: the server's name for the job; None while it is not sent.
        last_status: the last status that the server reported, as text that can be shown.
    """

    display: Any

    def __init__(self, model: Any, remote: Remote) -> None:
        host = remote if isinstance(remote, str) else None
        super().__init__(model_key(model), host=host, env=view_of(model).remote_environment, blocking=False)
        self.last_status = ""
        self.display = _StatusListener(self, self.display)

    def submit_bytes(self, payload: bytes) -> None:
        """Send a job."""
        request = RequestModel(model_key=self.model_key, compress=self.compress, env=self.env)
        response = self._post(request, payload)
        self.job_id, self.status = response.id, response.status
        self.display.update(response)

    def handle(self, response: ResponseModel) -> bytes | None:
        """The bytes of the answer, or None while there is none."""
        content: bytes | None = super().handle(response)
        if content is None and response.status == Status.COMPLETED:
            raise ServerError("botocore: the job is done and has no answer")
        return content

    def finalize(self, content: bytes) -> bytes:
        """The bytes of an answer, unread; nnsight's own client would unpickle them here."""
        return content

    def forget_job(self) -> None:
        """Make the client ready to send the job again."""
        self.job_id, self.status, self.last_status = None, None, ""


class _StatusListener:
    """Remembers the server's last status, and shows new ones as nnsight does, unless a listener is registered."""

    enabled = False  # no progress bars for downloads

    def __init__(self, client: JobClient, display: Any) -> None:
        self._client, self._display = client, display

    def update(self, response: ResponseModel) -> None:
        """Take note of a status."""
        description = response.description.strip().splitlines()
        status = visible(f"{response.status.value.lower()}{': ' + description[0] if description else ''}")
        if status != self._client.last_status and not has_listener():
            shown = {"id": visible(response.id), "description": visible(response.description)}
            self._display.update(response.model_copy(update=shown))
        self._client.last_status = status


def model_key(model: Any) -> str:
    """The name by which servers know a model.

    Raises:
        SpecError: it has none, because it was made in memory.
    """
    try:
        return str(model.to_model_key())
    except Exception as error:
        raise SpecError(
            "this model has no name that a server could know it by; load it by its name on the hub, "
            f'nv.load("llava-hf/llava-1.5-7b-hf", dispatch=False), or by its folder on the server ({error})'
        ) from error


def place_of(remote: Remote) -> str:
    """Where a call runs, as a word that is equal where the place is: `"here"`, `"simulated here"`, or an address.

    >>> place_of(False), place_of("local"), place_of("http://my-server:8001/")
    ('here', 'simulated here', 'http://my-server:8001')
    """
    if remote is False:
        return "here"
    if remote == "local":
        return "simulated here"
    return (remote if isinstance(remote, str) and remote else str(nnsight.CONFIG.API.HOST)).rstrip("/")


def has_key() -> bool:
    """Whether an API key is set, which NDIF asks for."""
    return bool(nnsight.CONFIG.API.APIKEY)
