"""An intervention installed on a copy of the model, which is then used as any nnsight model."""

from __future__ import annotations

import sys
from typing import Any

from ..device.runner import installed
from ..families import Model, view_of
from ..families.locks import lock_of
from ..lowering.layouts import one_case_per_row
from ..prompts.given import prompt_given
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote, check_remote
from ..specs.interventions import Intervention
from .capturing import checked_cases
from .checking import remember_installed
from .emptiness import Call, Empty
from .preparing import prepare

ANY_NUMBER = sys.maxsize
"""Of generated tokens that are run: how many the user will ask for is not known."""


def install(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None = None,
    *,
    empty: Empty = "error",
    remote: Remote = False,
) -> Any:
    """An edited copy of the model: every trace and generation of it runs under the intervention.

    The original stays as it is. In a trace of the copy, layers may be read in any order that nnsight allows. The copy
    runs encodings with as many rows as `prompt` has, and raises ValueError for others. What it changes lies at the
    positions of `prompt`: this package's functions refuse the copy prompts with other image positions or lengths, and
    your own traces of it should give it such prompts only. `remote` is used for patches
    whose values come from another run. `empty` is that of `nv.run`; tokens to come count as there, because the copy can
    generate, and what may not be done to a generated token is refused for answers of any length.

    A user's own reads are nnsight's: within one step of `tracer.iter` they must follow the order in which the model
    reaches them. From the second token on, nnsight answers a read of a layer that was passed already with the next
    token's state, without a word. What the copy changes is not touched by that: it has workers of its own.

    Raises:
        SpecError: see `nv.run`.
    """
    prompt_given(prompt)
    check_remote(remote)
    call = Call(decoded=ANY_NUMBER, empty=empty)
    cases, values = checked_cases(model, prompt, intervention, remote, call, stay_remote=False)
    with lock_of(view_of(model).module):
        plan = prepare(model, one_case_per_row(prompt), cases, values)
        edited = installed(model, plan.edits)
    remember_installed(edited, model, prompt, plan)
    return edited
