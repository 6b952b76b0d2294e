"""Clean runs that variants share, and how long they are kept.

Nothing is kept beyond one call: too much of what a forward depends on cannot be seen from outside. Inside `reuse` the
user vouches for what cannot be seen, and calls share what they ran.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedConfig

from ..families import Model, ModelView, hooks_of, view_of
from ..families.locks import lock_of
from ..identity import global_hooks, tensor_version, walked, weight_versions
from ..prompts.prompt import Prompt

MOST = 2
"""How many runs are kept: the prompt's and one donor's."""

R = TypeVar("R")


class _Entry(NamedTuple, Generic[R]):
    """A run, and the state of model and prompt in which it was made."""

    run: R
    state: tuple[Any, ...]


class KeptRuns(Generic[R]):
    """The last runs of prompts by one model; they go with their prompts.

    Attributes:
        module: the transformers module inside the model.
        agreements: of each kind of shared pass that was compared with a single run, whether the two agree; see
            `agreement`.
    """

    def __init__(self, model: Model) -> None:
        self.module = view_of(model).module
        self.agreements: dict[Any, bool] = {}
        self._entries: WeakKeyDictionary[Prompt, _Entry[R]] = WeakKeyDictionary()

    def find(self, model: Model, prompt: Prompt) -> R | None:
        """The run of a prompt; None where there is none, or something that can be seen has changed since."""
        entry = self._entries.pop(prompt, None)
        if entry is None or entry.state != visible_state(model, prompt):
            return None
        self._entries[prompt] = entry  # now the latest
        return entry.run

    def make_room(self) -> None:
        """Drop the oldest run if another would be too many; before that other one is made, so that memory is free."""
        while len(self._entries) >= MOST:
            del self._entries[next(iter(self._entries))]

    def keep(self, model: Model, prompt: Prompt, run: R) -> None:
        """Keep the run of a prompt."""
        self._entries[prompt] = _Entry(run, visible_state(model, prompt))

    def clear(self) -> None:
        """Drop all runs, and with them the memory that they take."""
        with lock_of(self.module):  # another thread may be in a call that was begun inside the block
            self._entries.clear()
            self.agreements.clear()


_REUSED: ContextVar[KeptRuns[Any] | None] = ContextVar("reused", default=None)


@contextmanager
def reuse(model: Model) -> Iterator[None]:
    """Keep clean runs between calls inside the block: the next sweep of a prompt then costs its variants alone.

    Before a kept run is used again, these are compared: identity and version of all parameters, buffers and inputs of
    the prompt, train mode, replaced `forward`s, hooks (global ones too), edits, the attention implementation, the
    model's config, autocast and inference mode. **You vouch for what cannot be seen**: writes through `.data` or numpy
    and fused optimizers, numbers that modules hold (`scaling`, an epsilon, an activation function), the state inside a
    hook, adapters that are switched on or off, random numbers, and the settings of torch's backends. Call `forget`
    after such a change.

    Args:
        model: an nnsight model from `load`; calls with other models keep nothing.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> with nv.reuse(model):
    ...     first = nv.sweep(model, prompt, [nv.Knockout("image", "last", layers=3)], answer="a")
    ...     second = nv.sweep(model, prompt, [nv.Knockout("image", "last", layers=4)], answer="a")
    """
    runs: KeptRuns[Any] = KeptRuns(model)
    token = _REUSED.set(runs)
    try:
        yield
    finally:
        _REUSED.reset(token)
        runs.clear()


@contextmanager
def reuse_in_one_call(model: Model) -> Iterator[None]:
    """The same for the sweeps of one recipe, unless the user keeps runs already."""
    if _kept_for(model) is not None:
        yield
        return
    with reuse(model):
        yield


def runs_of_call(model: Model) -> KeptRuns[Any]:
    """Where one call keeps its runs: what the user reuses, or a place of its own."""
    return _kept_for(model) or KeptRuns(model)


def _kept_for(model: Model) -> KeptRuns[Any] | None:
    runs = _REUSED.get()
    return runs if runs is not None and runs.module is view_of(model).module else None


def forget() -> None:
    """Drop what the block of `reuse` around this call keeps, after a change that cannot be seen; see there."""
    runs = _REUSED.get()
    if runs is not None:
        runs.clear()


# what can be seen ---------------------------------------------------------------------------------


def visible_state(model: Model, prompt: Prompt) -> tuple[Any, ...]:
    """All that can be seen of what a clean run of a prompt depends on, as values that differ where it differs."""
    view = view_of(model)
    parts = [part for _, part in walked(view.module)]
    return (
        id(view.module),
        weight_versions(parts),
        _inputs(prompt),
        _modules(parts),
        (*hooks_of(parts), *global_hooks()),
        view.edits,
        view.attention_implementation,
        _modes(view),
        _settings(view.config),
    )


def _inputs(prompt: Prompt) -> tuple[Any, ...]:
    """Identity and version of every tensor that a prompt gives to the model."""
    tensors = ((name, value) for name, value in prompt.inputs.items() if isinstance(value, torch.Tensor))
    return tuple((name, id(value), value.data_ptr(), tensor_version(value)) for name, value in tensors)


def _modules(parts: Sequence[torch.nn.Module]) -> tuple[Any, ...]:
    """Train mode of every module, and `forward`s that were replaced on the module itself.

    The functions themselves, because another one may come to lie where one that is gone has lain.
    """
    return [part.training for part in parts], [vars(part).get("forward") for part in parts]


def _settings(config: Any) -> tuple[Any, ...]:
    """The settings of a model and its parts, some of which every forward reads."""
    values = sorted(vars(config).items())
    parts = tuple(_settings(value) for _, value in values if isinstance(value, PreTrainedConfig))
    return *parts, repr([(name, value) for name, value in values if not isinstance(value, PreTrainedConfig)])


def _modes(view: ModelView) -> tuple[Any, ...]:
    device = view.device.type
    autocast = torch.is_autocast_enabled(device) if device != "meta" else False
    return autocast, torch.get_autocast_dtype(device) if autocast else None, torch.is_inference_mode_enabled()
