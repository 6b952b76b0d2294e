"""Loading a model as a plain nnsight model, ready for images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from nnsight import TransformersModel
from transformers import AutoProcessor

from .families import family
from .shapes.model import checkpoint

TASK = "image-text-to-text"
EMBEDDED = ("shapes", "shapes-gist")


def load(
    model: str | torch.nn.Module, *, processor: Any = None, dispatch: bool = True, **options: Any
) -> TransformersModel:
    """A vision-language model as a plain `nnsight.TransformersModel`.

    Args:
        model: a hub name, a local folder, a transformers model in memory, or `"shapes"` /
            `"shapes-gist"`, the small trained models inside the package.
        processor: the model's processor; loaded with the model when a name is given. With a model
            in memory it may be left out where only ready encodings are used.
        dispatch: load the weights now. `False` builds the model without weights, for remote runs.
        options: handed to transformers (`device_map`, `dtype`, `attn_implementation`, ...).

    Raises:
        SpecError: the family has no row, or its attention hides the mask.

    >>> load("shapes").config.model_type
    'llava'
    """
    if isinstance(model, torch.nn.Module):
        # without a processor nnsight would look for one on the hub: a blank stands in while it loads
        loaded = TransformersModel(model, task=TASK, processor=processor or SimpleNamespace(), **options)
        loaded.processor = processor
    else:
        if model in EMBEDDED:
            options = {"dtype": torch.float32, **options}  # the files hold float16
        name = str(checkpoint(model)) if model in EMBEDDED else model
        processor = processor or AutoProcessor.from_pretrained(name)
        loaded = TransformersModel(name, task=TASK, processor=processor, dispatch=dispatch, **options)
    family(loaded)
    return loaded
