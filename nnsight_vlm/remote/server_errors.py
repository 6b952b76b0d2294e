"""What can go wrong on the way to a server and back, in words: what happened, and what to do.

A row of `TROUBLES` is `(what the server or the line says, whether sending again may help, what to tell)`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

OURS = re.compile(r'File "[^"]*nnsight_vlm/device/((?:positions|kernels|readouts|runner)\.py)", line (\d+)')
"""Where a server's traceback names one of the files that travel."""

AGAIN = True
TROUBLES: tuple[tuple[str, bool, str], ...] = (
    (
        r"(missing|invalid) (or invalid )?api key|401 unauthorized",
        False,
        "the server wants an API key and got none that it knows. Get one from the server's owner (for NDIF: "
        "https://login.ndif.us), then write nnsight.CONFIG.set_default_api_key(...) or set NDIF_API_KEY",
    ),
    (
        r"could not deploy this model|error deploying|not (been )?deployed|no deployment",
        False,
        "the model is not deployed on this server, and it could not deploy it. nnsight.status() lists what is there; "
        "load one of those, by the same name and revision, or ask the server's owner",
    ),
    (
        r"(nnsight|python) version .*(not provided|below the minimum|old|required)|malformed \w+ version",
        False,
        "the server does not take requests from this version of nnsight or Python; install the versions that "
        "`print(nnsight.ndif.compare())` shows",
    ),
    (
        r"doesn't match the one your code was traced against|UnknownPersistentId|no module at",
        False,
        "the server builds this model with other modules than this computer: its transformers is another version. "
        "`print(nnsight.ndif.compare())` shows both; install the server's here",
    ),
    (
        r"payload could not be read",
        False,
        "the server could not read the request: its nnsight is another version than the one here. "
        "`print(nnsight.ndif.compare())` shows both; install the server's here",
    ),
    (
        r"attention implementation|Flash ?Attention|flash_attn",
        False,
        "the server cannot run the model with the attention that it was loaded with here; knockouts and attention "
        'reads need "sdpa" or "eager": write nv.load(..., attn_implementation="sdpa")',
    ),
    (
        r"exceeded the execution timeout",
        False,
        "the job took longer than the server allows. Ask for less in one job: fewer images "
        "(work=nv.recipes.Work(chunk=1)), fewer rows=, variants or tokens, or ask the server's owner for more time",
    ),
    (
        r"out of memory|OutOfMemoryError|can't allocate memory|not enough memory",
        False,
        "the server ran out of memory. Run less at once: a smaller memory= of nv.sweep, fewer rows= of descriptions",
    ),
    (
        r"payload too large|(request entity|content) too large",
        False,
        "the request is larger than the server takes. Send fewer images a job: work=nv.recipes.Work(chunk=1)",
    ),
    (
        r"temporarily unavailable|reconnecting|cancelled or preempted|evicted|error submitting request|"
        r"ActorDied|ActorUnavailable|WorkerCrashed|botocore|EndpointConnection|SlowDown|auth backend unavailable|"
        r"internal server error|bad gateway|service unavailable|gateway time-?out|issue provisioning|"
        r"runner (died|exited|closed)|BrokenPipe|ConnectionReset|timed out|connect(ion)? (error|refused|reset)|"
        r"disconnected|ConnectError|ReadError|RemoteProtocolError|server error '50",
        AGAIN,
        "the server, or the line to it, failed",
    ),
)


@dataclass(frozen=True, kw_only=True)
class ServerFailure:
    """What went wrong: whether to send again, and the words for it."""

    again: bool
    words: str


def explain(told: str, key: str) -> ServerFailure:
    """What a server's or a line's message means; the user's key is not in it any more."""
    told = without(told, key).strip()
    ours = OURS.findall(told)
    for pattern, again, words in TROUBLES:
        if re.search(pattern, told, re.IGNORECASE) and not (ours and again):
            return ServerFailure(again=again, words=f"{words}.\nThe server said: {_short(told)}")
    if ours:
        file, line = ours[-1]
        last = told.splitlines()[-1]
        return ServerFailure(
            again=False,
            words=f"an error in code of nnsight_vlm that ran on the server, {file} line {line}: {last}\n"
            f"If the same call works without remote=, it is a mistake in the package; please report it with:\n{told}",
        )
    return ServerFailure(again=False, words=f"the server said: {told or 'nothing'}")


def without(told: str, key: str) -> str:
    """A text without a key."""
    return told.replace(key, "<your API key>") if key else told


def _short(told: str, most: int = 1500) -> str:
    return told if len(told) <= most else told[:500] + "\n...\n" + told[-(most - 500) :]
