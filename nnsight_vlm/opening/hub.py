"""Whether a repository on the hub can be asked for at all, looked at before anything is downloaded.

The hub's own client tries five times for each of five files, which is two minutes without a network.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ..arguments import instance
from ..errors import SpecError
from ..shapes.embedded import EMBEDDED
from .files import Checkpoint

WAITS = (1.0, 2.0)
"""Seconds before it is tried once more: a network that has just come up may need them."""
PATIENCE = 20.0
"""Seconds that a connection may take; four packets that ask for one are sent in that time."""
UNREACHABLE = ("ConnectError", "ConnectTimeout")
"""Errors of the hub's client in which no connection came about, in httpx and its successor alike. All others (a slow
answer, no such repository, no permission) are left to those who read files: they try again, and say what is wrong."""
FILES = ("config.json", "adapter_config.json")
"""Files of which every model or adapter has one."""
KINDS: dict[str, Any] = {"cache_dir": (str, Path), "revision": str, "subfolder": (str, Path)}
"""What the options must be that say where a repository's files lie."""
EXAMPLES = {"cache_dir": 'cache_dir="a/folder"', "revision": 'revision="main"', "subfolder": 'subfolder="a/folder"'}


def refuse_unreachable(checkpoint: Checkpoint) -> None:
    """Refuse a repository that is not in the cache while the hub cannot be reached.

    Raises:
        SpecError: saying so, and what to write; a name that no repository can have, an option of another kind.
    """
    if checkpoint.folder is not None:
        return
    for option, kind in KINDS.items():
        if checkpoint.hub.get(option) is not None:
            instance(option, checkpoint.hub[option], kind, EXAMPLES[option])
    if _is_cached(checkpoint) or checkpoint.hub.get("local_files_only"):
        return
    reason = _unreachable(checkpoint)
    for seconds in WAITS:
        if reason is None:
            return
        time.sleep(seconds)
        reason = _unreachable(checkpoint)
    if reason is not None:
        raise SpecError(
            f"{checkpoint.name!r} is neither a folder nor in the cache of downloaded models, and the hub cannot be "
            f"reached ({reason}); connect to the network, give a local folder, or one of the models inside this "
            f"package: {', '.join(EMBEDDED)}"
        )


def _is_cached(checkpoint: Checkpoint) -> bool:
    """Whether something is known of the repository without the hub.

    Raises:
        SpecError: no repository can have this name.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    where = {name: value for name, value in checkpoint.hub.items() if name in ("cache_dir", "revision")}
    names = [_path(checkpoint, file) for file in FILES]
    try:
        return any(try_to_load_from_cache(checkpoint.name, name, **where) is not None for name in names)
    except HFValidationError as error:
        why = str(error).removesuffix(".")
        raise SpecError(
            f"{checkpoint.name!r} is no name on the hub: {why}; write 'owner/name' as it stands there"
        ) from error


def _unreachable(checkpoint: Checkpoint) -> str | None:
    """Why no connection to the hub comes about; None where one does, whatever the hub then answers."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    revision: Any = checkpoint.hub.get("revision")
    try:
        url = hf_hub_url(checkpoint.name, _path(checkpoint, FILES[0]), revision=revision)
        get_hf_file_metadata(url, token=checkpoint.hub.get("token"), timeout=PATIENCE)
    except Exception as error:
        kind = next((each.__name__ for each in type(error).__mro__ if each.__name__ in UNREACHABLE), None)
        return None if kind is None else str(error) or kind
    return None


def _path(checkpoint: Checkpoint, file: str) -> str:
    """A file's path in the repository."""
    below = checkpoint.hub.get("subfolder")
    return f"{below}/{file}" if below else file
