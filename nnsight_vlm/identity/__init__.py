"""What makes two models, prompts or settings the same, in this process and in any later one.

Files: `values` digests plain values, pictures and frames; `functions` code; `weights` the weights of a module, and
keeps the result; `modules` what modules compute beside them; `models` puts these together for models, prompts and
journals; `references` is what a pickle says of a model.
"""

from .models import (
    configuration_digest,
    differences,
    global_hooks,
    journal_digest,
    model_digest,
    prompt_digest,
    resolved,
    same_model,
)
from .modules import walked
from .references import ModelHandle, ModelReference
from .values import bytes_of, digest, setting_digest
from .weights import tensor_version, weight_versions, weights_digest

__all__ = [
    "ModelHandle",
    "ModelReference",
    "bytes_of",
    "configuration_digest",
    "differences",
    "digest",
    "global_hooks",
    "journal_digest",
    "model_digest",
    "prompt_digest",
    "resolved",
    "same_model",
    "setting_digest",
    "tensor_version",
    "walked",
    "weight_versions",
    "weights_digest",
]
