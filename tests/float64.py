"""Models computed in float64 throughout, so that two computations of one thing agree on every processor.

In float32, how far two correct computations lie apart depends on the processor: on the width of its vectors, and on the
order in which its kernels add. A limit that one machine meets, another one misses. In float64 the same two computations
differ by about 1e-14 of the scale, and a limit of `LIMIT` leaves every processor five orders of magnitude.

A transformers model with float64 weights is not enough for that: norms, softmax, rotary angles and a few other places
convert to float32 explicitly. `float64` makes them compute in float64 too. It leaves this package alone, which must
keep float64 by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from transformers.integrations import moe

LIMIT = 1e-9
"""The most by which two computations of one thing may differ in float64, as a share of its scale.

Far above what float64 rounds (2e-16, grown to about 1e-14 by a tiny model), and below what float32 rounds (6e-8): a
single conversion to float32 on the way is seen.
"""
FACTOR = 64
"""How many times further from float64 than a clean run another run may be in float32; tests measure the clean run.

Both make the same number of roundings, at different values: one is a few times further off than the other, on any
processor. A step in half precision would be 2 ** 13 times further off; this is half of the way there, in powers of two.
"""
FLOAT32 = torch.finfo(torch.float32).max
KEPT = (torch.float32, torch.float16, torch.bfloat16)
"""Tensors of these types belong to a model that is not in float64: nothing is changed for them."""


def from_package(depth: int = 2) -> bool:
    """Whether the caller of a patched function is this package."""
    return str(sys._getframe(depth).f_globals.get("__name__", "")).split(".")[0] == "nnsight_vlm"


def wide(value: Any) -> Any:
    """An argument of a call that names a dtype: float64 for float32."""
    return torch.float64 if value is torch.float32 else value


def widening(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`function(tensor, ...)` that gives float64 where it is asked to convert float64 or integers to float32."""

    def converted(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        if tensor.dtype in KEPT or from_package():
            return function(tensor, *args, **options)
        return function(tensor, *map(wide, args), **{name: wide(value) for name, value in options.items()})

    return converted


def as_float(tensor: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
    """`tensor.float()`, likewise."""
    dtype = torch.float32 if tensor.dtype in KEPT or from_package() else torch.float64
    return TYPE(tensor, dtype, *args, **options)


def full(size: Any, fill_value: Any, **options: Any) -> torch.Tensor:
    """`torch.full` of a value that float32 cannot hold (Kosmos-2 fills a mask with float64's least number)."""
    beyond = isinstance(fill_value, float) and FLOAT32 < abs(fill_value) < float("inf")
    return FULL(size, fill_value, **({"dtype": torch.float64, **options} if beyond else options))


def zeros(*size: Any, **options: Any) -> torch.Tensor:
    """`torch.zeros` in float32 that a layer with states in float64 puts its numbers into (ERNIE's router)."""
    states = sys._getframe(1).f_locals.get("hidden_states")
    own = isinstance(states, torch.Tensor) and states.dtype == torch.float64
    return ZEROS(*size, **({name: wide(value) for name, value in options.items()} if own else options))


def fits_grouped_mm(tokens: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor) -> bool:
    """Whether experts are multiplied by torch's grouped kernel, which has no float64."""
    return weight.dtype in KEPT and FITS_GROUPED_MM(tokens, weight, ends)


FULL, ZEROS, FITS_GROUPED_MM = torch.full, torch.zeros, moe._can_use_grouped_mm
SOFTMAX, TO, TYPE, NEW_ZEROS = torch.nn.functional.softmax, torch.Tensor.to, torch.Tensor.type, torch.Tensor.new_zeros
WIDENED = (
    (torch.Tensor, "float", as_float),
    (torch.Tensor, "to", widening(TO)),
    (torch.Tensor, "type", widening(TYPE)),
    (torch.Tensor, "new_zeros", widening(NEW_ZEROS)),
    (torch.nn.functional, "softmax", widening(SOFTMAX)),
    (torch, "full", full),
    (torch, "zeros", zeros),
    (moe, "_can_use_grouped_mm", fits_grouped_mm),
)
"""What transformers calls in place of the functions of torch, by where it finds them."""
INSTALLED = tuple((owner, name, getattr(owner, name)) for owner, name, _ in WIDENED)
"""The functions of torch themselves."""


def float64() -> AbstractContextManager[None]:
    """Within it, transformers converts to float64 where it otherwise converts to float32."""
    return computing_in(torch.float64)


@contextmanager
def computing_in(dtype: torch.dtype) -> Iterator[None]:
    """Within it, transformers converts as a model of this dtype needs it, whatever the test around it is in.

    A model that several tests share is built in it. A layer that makes a table of positions converts integers: built
    in float32 by a test in float64, it would have a table in float64 and refuse to run in the next test.
    """
    with ExitStack() as stack:
        for owner, name, function in WIDENED if dtype is torch.float64 else INSTALLED:
            stack.enter_context(patch.object(owner, name, function))
        yield
