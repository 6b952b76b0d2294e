"""One thread at a time runs a module.

nnsight keeps what a trace does on the module itself, and so do models (Qwen-VL its position offsets), so two threads
that ran one module at once would find each other's work there. The lock is the module's: copies that `nv.install` made
and second wrappings share it. It is held for one run, one batch of answers or one sweep on this machine, never while
code waits for a server and never between two answers of `nv.generations`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch

from .model_view import Model, view_of
from .weights import load_weights

_LOCKS: WeakKeyDictionary[torch.nn.Module, Any] = WeakKeyDictionary()
_MAKING = threading.Lock()


def lock_of(module: torch.nn.Module) -> Any:
    """The lock of a module, which the thread that holds it may take again."""
    with _MAKING:
        return _LOCKS.setdefault(module, threading.RLock())


@contextmanager
def one_thread(model: Model, *, here: bool = True) -> Iterator[None]:
    """Keep a model to this thread inside the block; other threads wait.

    Weights that are loaded by the first run are loaded before, because they come with another module.

    Args:
        model: an nnsight model.
        here: whether the model runs on this machine; a server's model needs no lock.
    """
    if not here:
        yield
        return
    while not model.dispatched:
        with lock_of(view_of(model).module):
            load_weights(model)  # which does nothing where another thread has loaded them meanwhile
    with lock_of(view_of(model).module):
        yield
