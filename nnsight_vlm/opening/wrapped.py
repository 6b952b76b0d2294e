"""Transformers models inside what other libraries wrap around them.

The plain module has the same parts and weights, adapters and their switches included, and its paths are those of the
family table.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import SpecError


def unwrapped(module: Any) -> Any:
    """The transformers model inside a PEFT model or a compiled one; any other module as it is.

    A compiled model runs uncompiled: interventions act on Python code that compilation replaces.

    Raises:
        SpecError: prompts that were tuned are added by the wrapper itself, so the module inside is another model; or a
            wrapper for several devices.
    """
    if isinstance(module, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        raise SpecError(
            f"a model in {type(module).__name__} runs split over devices; give the model inside, model.module"
        )
    inner = getattr(module, "_orig_mod", None)  # torch.compile(model)
    if isinstance(inner, torch.nn.Module):
        return unwrapped(inner)
    if not hasattr(module, "get_base_model"):
        return module
    tuned = [name for name, config in module.peft_config.items() if config.is_prompt_learning]
    if tuned:
        raise SpecError(
            f"the adapter {tuned[0]!r} puts tuned prompts in front of the text, which no token map knows of; load the "
            "model without it, or with adapters that change weights (LoRA and the like)"
        )
    return unwrapped(module.get_base_model())


def run_uncompiled(module: torch.nn.Module) -> None:
    """Take off what `module.compile()` put in place of a module's call, and of those of its parts."""
    for part in module.modules():
        part._compiled_call_impl = None
