"""Proof that an intervention did what it says, from what the model really used.

What a cut names is taken from the lowered intervention; the kernels that carry it out, and the runner, have no part in
the proof. Attention is proved in `proof_attention`, hidden states in `proof_states`, and cached generation here: its
logits are those of one forward over the whole sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, overload

import torch

from ..device import readouts
from ..errors import InterventionError
from ..families import Model, view_of
from ..lowering.layouts import Layout, one_case_per_row
from ..lowering.plan import compile_plan
from ..lowering.read_requests import LogitRequest
from ..lowering.writes import PlannedWrite
from ..prompts.prompt import Prompt
from ..remote.background import Job, can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from .capturing import capture
from .checking import as_intervention, check
from .decoding import decode_logits
from .preparing import lower
from .proof_attention import attentions_to_read, prove_attention
from .proof_rows import prove_rows
from .proof_states import prove_states
from .requests import LogitRead, run_forward

DECODED = 4
"""How many tokens are decoded to prove cached generation."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was checked, and held.

    Attributes:
        layers: attention layers whose mask and output were recomputed.
        edges: attention edges (head by head) found closed that the clean run has open.
        writes: sites whose hidden states are what was to be written.
        tokens: decoded tokens whose logits equal those of one forward over the whole sequence.
    """

    layers: int
    edges: int
    writes: int
    tokens: int


@overload
def verify(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None,
    *,
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> Proof: ...
@overload
def verify(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None,
    *,
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
) -> Job[Proof]: ...
@can_run_in_background
def verify(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None,
    *,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> Proof | Job[Proof]:
    """Prove that an intervention did what it says in this model, on this prompt.

    Every planned edge must have probability exactly 0; no other edge, row or layer may differ from the clean run's
    mask; the recomputed rows must be what the attention returned; every patched or ablated state must equal the
    planned value, and its neighbours be untouched; every row of a batch must give the logits that it gives alone. If
    the intervention also acts on generated tokens, a few are decoded with the cache, and their logits compared with one
    forward.

    Args:
        model: an nnsight model from `load`.
        prompt: from `encode`.
        intervention: what to prove.
        remote, blocking, path: see `nv.run`.

    Raises:
        InterventionError: naming layer, head and positions.
        SpecError: see `nv.run`.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> verify(model, prompt, nv.Knockout("image", "last", layers=[2, 3], heads=[1])).edges
    200
    """
    intervention = as_intervention(intervention)
    check(model, prompt, intervention)
    values = capture(model, [intervention], remote)
    layout = one_case_per_row(prompt)
    writes = lower(model, layout, [intervention] * len(prompt), values)
    tokens = 0
    if any(planned.write.targets.is_open for planned in writes):
        layout, tokens = _with_answers(model, layout, writes, remote)
    attentions = attentions_to_read(model, layout, writes)
    proofs = [
        partial(prove_attention, model, layout, attentions, writes, remote, rounding=rounding(model)),
        partial(prove_states, model, layout, writes, remote, rounding=rounding(model)),
        partial(prove_rows, model, layout, writes, intervention, values, remote),
    ]
    edges, states, _ = together(proofs, remote)
    return Proof(layers=len(attentions), edges=edges, writes=states, tokens=tokens)


def rounding(model: Model) -> float:
    """How far apart two ways of computing one number may lie, relative to what it is made of."""
    return 16 * float(torch.finfo(view_of(model).dtype).eps)


def _with_answers(model: Model, layout: Layout, writes: Sequence[PlannedWrite], remote: Remote) -> tuple[Layout, int]:
    """Decode a few tokens with the cache; one forward over all of them must give the same logits."""
    prompt, plan = layout.prompt, compile_plan(model, layout, writes)
    chosen, decoded = decode_logits(model, prompt, plan, DECODED, remote)
    grown = one_case_per_row(prompt.grown_rows(chosen.tolist()))
    kept = list(range(prompt.width - 1, prompt.width - 1 + DECODED))
    picks = tuple(LogitRequest(row, tuple(range(DECODED))) for row in range(len(prompt)))
    logit_read = LogitRead(readouts.logit_rows, picks, kept)
    replayed = run_forward(model, grown, plan, [], logit_read, remote).logits
    gap = (decoded - torch.stack(replayed)).abs().amax(-1)
    worst = gap / decoded.abs().amax(-1).clamp(min=1e-3)
    # transformers' generation hands out logits in float32, whatever the model computes in
    if not float(worst.max()) <= 64 * max(rounding(model), 16 * torch.finfo(torch.float32).eps):
        row, step = (int(n) for n in (worst == worst.max()).nonzero()[0])
        raise InterventionError(
            f"row {row}: the logits of decoded token {step} are off by {float(gap[row, step]):.3g} from one forward "
            "over the whole sequence: the intervention is not the same in cached generation"
        )
    return grown, int(chosen.numel())
