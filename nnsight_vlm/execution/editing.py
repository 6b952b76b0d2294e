"""An intervention installed on a copy of the model, which is then used as any nnsight model."""

from __future__ import annotations

import sys
from typing import Any

from ..device.runner import installed
from ..families import Model
from ..lowering.layouts import one_case_per_row
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from .capturing import checked_cases
from .preparing import prepare


def install(model: Model, prompt: Prompt, intervention: Intervention | None = None, *, remote: Remote = False) -> Any:
    """An edited copy of the model: every trace and generation of it runs under the intervention.

    The original stays as it is. In a trace of the copy, layers may be read in any order that nnsight allows. The copy
    runs encodings with as many rows as `prompt` has, and raises ValueError for others. `remote` is used for patches
    whose values come from another run. What may not be done to a generated token is refused for answers of any length.

    Raises:
        SpecError: see `nv.run`.
    """
    cases, values = checked_cases(model, prompt, intervention, remote, stay_remote=False, to_come=sys.maxsize)
    return installed(model, prepare(model, one_case_per_row(prompt), cases, values).edits)
