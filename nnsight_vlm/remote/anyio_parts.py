"""The parts of anyio that a server needs, loaded where nnsight's `.save` does not break them.

nnsight gives every object a `.save`. anyio, on which the server's library stands, loads parts of itself when they are
first needed, and one of its classes refuses to be made with an attribute that it does not know. So these parts are
loaded before a request needs them, with `.save` away for that moment.
"""

from __future__ import annotations

from importlib import import_module

import nnsight

try:
    from nnsight._c import mount, unmount
except ImportError:  # built without it: then nothing was given a `.save`
    mount = unmount = None

PARTS = ("anyio.abc", "anyio.to_thread", "anyio._backends._asyncio")


def load_parts() -> None:
    """Load them, before any request and while nothing is traced."""
    is_mounted = unmount is not None and "save" in vars(object)
    if is_mounted:
        unmount("save")
    try:
        for part in PARTS:
            import_module(part)
    finally:
        if is_mounted:
            mount(nnsight.save, "save")
