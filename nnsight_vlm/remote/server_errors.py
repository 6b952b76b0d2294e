"""What can go wrong on the way to a server and back: whether to try again, and what to tell the user to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

TRAVELLING_FILE = re.compile(r'File "[^"]*nnsight_vlm/device/(\w+\.py)", line (\d+)')
"""Matches a line of a server's traceback that names one of the files that this package sends along."""


class Trouble(NamedTuple):
    """A known kind of failure.

    Attributes:
        pattern: a regular expression for the message of the server or the connection; case is ignored.
        retry: whether sending the job again may help.
        advice: what happened and what to do.
        speaker: whose words the message is.
    """

    pattern: str
    retry: bool
    advice: str
    speaker: str = "The server"


TROUBLES = (
    Trouble(
        r"name or service not known|nodename nor servname|getaddrinfo|name resolution|no address associated|"
        r"network is unreachable|no route to host",
        False,
        "the server was not reached: there is no network, or no server of this name. Look at the connection and at the "
        'address (nnsight.CONFIG.API.HOST, or remote="http://..."); `nnsight-vlm doctor --remote` shows whether it '
        "answers",
        "This computer",
    ),
    Trouble(
        r"(missing|invalid) (or invalid )?api key|401 unauthorized",
        False,
        "the server needs an API key and does not know the one it got. Get one from the server's owner (for NDIF: "
        "https://login.ndif.us), then write nnsight.CONFIG.set_default_api_key(...) or set NDIF_API_KEY",
    ),
    Trouble(
        r"could not deploy this model|error deploying|not (been )?deployed|no deployment",
        False,
        "the model is not deployed on this server, and it could not deploy it. nnsight.status() lists those that are; "
        "load one of them, by the same name and revision, or ask the server's owner",
    ),
    Trouble(
        r"(nnsight|python) version .*(not provided|below the minimum|old|required)|malformed \w+ version",
        False,
        "the server does not accept requests from this version of nnsight or Python; install the versions that "
        "`print(nnsight.ndif.compare())` shows",
    ),
    Trouble(
        r"doesn't match the one your code was traced against|UnknownPersistentId|no module at",
        False,
        "the server builds this model from other modules than this computer, because its transformers is another "
        "version. `print(nnsight.ndif.compare())` shows both; install the server's here",
    ),
    Trouble(
        r"payload could not be read",
        False,
        "the server could not read the request: its nnsight is another version than this computer's. "
        "`print(nnsight.ndif.compare())` shows both; install the server's here",
    ),
    Trouble(
        r"attention implementation|Flash ?Attention|flash_attn",
        False,
        "the server cannot run the model with the attention that it was loaded with here; knockouts and attention "
        'reads need "sdpa" or "eager": write nv.load(..., attn_implementation="sdpa")',
    ),
    Trouble(
        r"output_cap\w*_hook",
        False,
        "this server runs requests in a sandbox, and there an attention of this model's vision tower cannot be handed "
        "over, because the model keeps what it gives. Cuts in the mask, and sites residual, attention, mlp and head, "
        "work there; for its weights, queries, keys and values run on this machine, or ask the server's owner for a "
        "trusted key",
    ),
    Trouble(
        r"exceeded the execution timeout",
        False,
        "the job took longer than the server allows. Ask for less in one job: fewer images "
        "(work=nv.recipes.Work(chunk=1)), fewer rows=, variants or tokens, or ask the server's owner for more time",
    ),
    Trouble(
        r"out of memory|OutOfMemoryError|can't allocate memory|not enough memory",
        False,
        "the server ran out of memory. Run less at once: a smaller memory= of nv.sweep, nv.generations or "
        "nv.recipes.Work, or fewer rows= of descriptions",
    ),
    Trouble(
        r"payload too large|(request entity|content) too large",
        False,
        "the request is larger than the server accepts. Send fewer images in a job: work=nv.recipes.Work(chunk=1)",
    ),
    Trouble(
        r"temporarily unavailable|reconnecting|cancelled or preempted|evicted|error submitting request|"
        r"ActorDied|ActorUnavailable|WorkerCrashed|botocore|EndpointConnection|SlowDown|auth backend unavailable|"
        r"internal server error|bad gateway|service unavailable|gateway time-?out|issue provisioning|"
        r"runner (died|exited|closed)|BrokenPipe|ConnectionReset|timed out|connect(ion)? (error|refused|reset)|"
        r"disconnected|ConnectError|ReadError|RemoteProtocolError|server error '50",
        True,
        "the server, or the connection to it, failed",
        "The server or the connection",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ServerFailure:
    """A failure, explained.

    Attributes:
        retry: whether to send the job again.
        message: what to tell the user.
    """

    retry: bool
    message: str


def explain(message: str, api_key: str) -> ServerFailure:
    """What a message of the server or the connection means; the user's API key is removed from it."""
    message = without_key(message, api_key).strip()
    our_lines = TRAVELLING_FILE.findall(message)
    for trouble in TROUBLES:
        if re.search(trouble.pattern, message, re.IGNORECASE) and not (our_lines and trouble.retry):
            said = f"{trouble.speaker} said: {_shortened(message)}"
            return ServerFailure(retry=trouble.retry, message=f"{trouble.advice}.\n{said}")
    if our_lines:
        file, line = our_lines[-1]
        last = message.splitlines()[-1]
        return ServerFailure(
            retry=False,
            message=f"an error in code of nnsight_vlm that ran on the server, {file} line {line}: {last}\n"
            f"If the same call works without remote=, this is a bug in the package; please report it with:\n{message}",
        )
    return ServerFailure(retry=False, message=f"the server said: {message or 'nothing'}")


def without_key(message: str, api_key: str) -> str:
    """A message with the API key replaced."""
    return message.replace(api_key, "<your API key>") if api_key else message


def _shortened(message: str, limit: int = 1500) -> str:
    """A message of at most about `limit` characters: its beginning and its end."""
    return message if len(message) <= limit else message[:500] + "\n...\n" + message[-(limit - 500) :]
