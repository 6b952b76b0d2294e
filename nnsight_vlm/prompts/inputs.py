"""What a prompt gives to the model, as a mapping that cannot be written to.

Which token is what, and which runs are kept, follows from the inputs; an input that was put in place of another would
contradict both without a sign.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from ..errors import SpecError


@dataclass(frozen=True, eq=False, repr=False)
class Inputs(Mapping[str, Any]):
    """The inputs of a prompt: a mapping to read, `dict(prompt.inputs)` and `**prompt.inputs` included.

    It can be pickled and copied. Tensors in it are ordinary tensors: whoever writes into one changes what the model is
    given.

    >>> import torch
    >>> inputs = Inputs({"input_ids": torch.tensor([[5, 7]])})
    >>> inputs
    Inputs(input_ids=[1, 2])
    >>> inputs["input_ids"] = torch.tensor([[5, 8]])
    Traceback (most recent call last):
    nnsight_vlm.errors.SpecError: the inputs of a prompt cannot be replaced, because which token is what follows from \
them; encode again, nv.encode(model, inputs={**prompt.inputs, ...})
    """

    entries: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.entries, **other}

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self.entries}

    def __repr__(self) -> str:
        shown = (
            f"{name}={list(value.shape) if isinstance(value, torch.Tensor) else repr(value)}"
            for name, value in self.entries.items()
        )
        return f"{type(self).__name__}({', '.join(shown)})"

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise SpecError(
            "the inputs of a prompt cannot be replaced, because which token is what follows from them; encode again, "
            "nv.encode(model, inputs={**prompt.inputs, ...})"
        )

    __setitem__ = __delitem__ = __ior__ = update = pop = popitem = setdefault = clear = _refuse
