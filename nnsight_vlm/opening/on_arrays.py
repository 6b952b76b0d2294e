"""Image processors on Pillow with a method that takes arrays, and that their processor hands tensors.

transformers has two image processors of each kind, one on torchvision with tensors and one on Pillow with arrays, and
one processor that calls either. Where it calls more than the image processor itself, the two may differ.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

ON_ARRAYS = {"FuyuImageProcessorPil": "patchify_image"}
"""The class of such an image processor, and its method."""


def take_tensors(processor: Any) -> None:
    """Let such a method of a processor's image processor take tensors, and give one."""
    images = getattr(processor, "image_processor", None)
    kind = type(images)
    method = ON_ARRAYS.get(kind.__name__)
    if method is not None:
        images.__class__ = type(kind.__name__, (kind,), {method: _taking_tensors(getattr(kind, method))})


def _taking_tensors(method: Any) -> Any:
    def call(self: Any, image: Any, *given: Any, **named: Any) -> torch.Tensor:
        return torch.as_tensor(method(self, np.asarray(image), *given, **named))

    return call
