"""The server's web application, with modules loaded early that break when they are first loaded during a request.

nnsight gives every object a `.save`. anyio 4.16 loads parts of itself when a body of more than 1 MiB is moved to disk,
trips over that attribute, and the client is told that its body could not be parsed.
"""

import anyio._backends._asyncio
import anyio.abc
import anyio.to_thread  # noqa: F401
from ndif.services.api.app import app

__all__ = ["app"]
