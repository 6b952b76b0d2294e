"""Proof that an intervention did what it says, from what the model really used.

The kernels that carry an intervention out, and the runner, have no part in the proof. Attention is proved in
`proof_attention`, hidden states in `proof_states`, and cached generation here: its logits are those of one forward over
the whole sequence. How much of a difference is rounding is measured in the clean run, see `proof_rounding`.

What the proof takes from the lowered intervention, as the plan does: which layers and heads are meant, and in a prompt
of one row which positions a group has. What it does not: in which row, behind how much padding and in which sequence
of its own a row of a batch lies, because each row is also run alone (`proof_rows`); and which image feature becomes
which token, because the model itself says where they arrive (`proof_features`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import torch

from ..arguments import flag
from ..errors import InterventionError
from ..families import Model, view_of
from ..lowering.layouts import Layout, one_case_per_row
from ..lowering.plan import Plan, compile_plan
from ..lowering.sites import SITES
from ..lowering.writes import PlannedWrite
from ..prompts.display import counted
from ..prompts.given import prompt_given
from ..prompts.prompt import Prompt
from ..remote.background import Job, can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from .capturing import capture
from .checking import as_intervention, check
from .decoding import decode_logits
from .determinism import refuse_chance
from .emptiness import Empty, generating
from .memory import refuse_large_prompt
from .preparing import lower
from .proof_attention import attentions_to_read, prove_attention
from .proof_features import prove_features
from .proof_memory import refuse_large_proof
from .proof_pixels import DECODED, can_decode, check_pixels, prove_pixels
from .proof_rounding import Rounding, rounding_of, worst
from .proof_rows import prove_rows
from .proof_states import prove_other_queries, prove_states
from .requests import LogitRead, run_forward


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was checked, and held; printed, it says so in words, and what was not checked.

    Attributes:
        layers: attention layers whose mask and output were recomputed.
        edges: attention edges (head by head) found closed, or without weight, that the clean run has open.
        writes: sites whose hidden states are what was to be written.
        tokens: decoded tokens whose logits equal those of one forward over the whole sequence; 0 where the intervention
            does nothing to tokens that are generated, or the prompt cannot be decoded.
        moved: the largest change of a logit between the clean run and this one, of any word, at the last token of each
            row's prompt and at the decoded tokens, which both runs are given. It is told and proves nothing: 0.0 is
            what a cut gives that cannot reach these tokens, or a patch from the same prompt.
        pixels: positions and decoded tokens whose logits stay equal when the pixels change; 0 unless `pixels=True`.
    """

    layers: int
    edges: int
    writes: int
    tokens: int
    moved: float
    pixels: int = 0

    def __repr__(self) -> str:
        found = [
            f"{counted(self.edges, 'edge')} closed" if self.edges else "",
            f"states written at {counted(self.writes, 'site')}" if self.writes else "",
            f"nothing else changed in {counted(self.layers, 'layer')}",
            f"{counted(self.tokens, 'generated token')} as in one forward" if self.tokens else "",
            f"{counted(self.pixels, 'prediction')} the same with other pixels" if self.pixels else "",
        ]
        held = ", ".join(each for each in found if each)
        moved = f"logits moved by at most {self.moved:.3g}" if self.moved else "no logit moved"
        open_ends = [
            name for name, count in (("generated tokens", self.tokens), ("other pixels", self.pixels)) if not count
        ]
        left = f"; not checked: {', '.join(open_ends)}" if open_ends else ""
        return f"{type(self).__name__}(holds: {held}; {moved}{left})"


@overload
def verify(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None,
    *,
    pixels: bool = False,
    empty: Empty = "error",
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
    pixels: bool = False,
    empty: Empty = "error",
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
    pixels: bool = False,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> Proof | Job[Proof]:
    """Prove that an intervention did what it says in this model, on this prompt.

    Every planned edge must have probability exactly 0; no other edge, row or layer may differ from the clean run's
    mask; the recomputed rows, changed where weights are changed behind the softmax, must be what the attention
    returned, and other queries be untouched; every state that is written must equal the planned value, and its
    neighbours be untouched; image features that are written must arrive at the tokens named; every row of a batch must
    give the logits that it gives alone. If the intervention also acts on generated tokens, a few are decoded with the
    cache, and their logits compared with one forward.

    What must be equal is equal up to a few roundings of the type that the model computes in, as many as the clean run
    shows. So in half precision a fault in cached generation that moves logits by less than some 6 % of the largest is
    not seen; in float32 and float64 one of a ten-thousandth is.

    With `pixels=True`, the prompt is run a second time with other pixels of the same shape (uniform noise): under the
    intervention, the logits at every text token must be those of the prompt's own pixels, and so must those of a few
    decoded tokens if the intervention acts on generated tokens; without it, they must differ. This holds where the
    image is cut from all text, or where its states are replaced.

    Args:
        model: an nnsight model from `load`.
        prompt: from `encode`.
        intervention: what to prove.
        pixels: also prove that no logit depends on the pixels.
        empty: see `nv.run`; a few tokens are decoded, so tokens to come count as there.
        remote, blocking, path: see `nv.run`.

    Raises:
        InterventionError: naming layer, head and positions; or how far other pixels move which logit; or that nothing
            can be proved, because the clean run's logits are no numbers, or differ too much by themselves.
        SpecError: see `nv.run`; with `pixels=True` also a prompt without pixels, and an intervention that has nothing
            to do with the image.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> proof = verify(model, prompt, nv.Knockout("image", "last", layers=[2, 3], heads=[1]))
    >>> proof  # doctest: +ELLIPSIS
    Proof(holds: 200 edges closed, nothing else changed in 10 layers; logits moved by at most ...; not checked: ...)
    >>> proof.edges, proof.moved > 0
    (200, True)
    """
    pixels = flag("pixels", pixels)
    refuse_chance(model, remote)
    intervention = as_intervention(intervention)
    check(model, prompt_given(prompt), intervention, generating(DECODED, empty))
    if pixels:
        check_pixels(model, prompt, intervention)
    refuse_large_prompt(model, prompt, remote, whose="this proof", masks=2)
    values, rounding = capture(model, [intervention], remote), rounding_of(model)
    layout = one_case_per_row(prompt)
    writes = lower(model, layout, [intervention] * len(prompt), values)
    refuse_large_proof(model, layout, writes, remote)
    tokens = 0
    if can_decode(prompt) and any(map(_acts_on_decoded, writes)):
        layout, tokens = _with_answers(model, layout, writes, remote, rounding)
    compared = _compared_logits(layout, prompt)
    attentions = attentions_to_read(model, layout, writes)
    proofs: list[Callable[[], Any]] = [
        partial(prove_attention, model, layout, attentions, writes, remote, rounding=rounding, logits=compared),
        partial(prove_states, model, layout, writes, remote, rounding=rounding),
        partial(prove_other_queries, model, layout, writes, remote, rounding=rounding),
        partial(prove_features, model, layout, writes, intervention, remote),
        partial(prove_rows, model, layout, writes, intervention, values, remote, rounding),
    ]
    (edges, moved), states, *_ = together(proofs, remote)
    independent = prove_pixels(model, prompt, writes, remote, rounding=rounding) if pixels else 0
    return Proof(layers=len(attentions), edges=edges, writes=states, tokens=tokens, moved=moved, pixels=independent)


def _acts_on_decoded(planned: PlannedWrite) -> bool:
    """Whether a write changes what decoded tokens are, or what they see: keys and values stay written."""
    holds_keys = planned.site in SITES and SITES[planned.site].holds_keys
    return planned.write.targets.is_open or (planned.stage == "decoder" and holds_keys)


def _compared_logits(layout: Layout, prompt: Prompt) -> LogitRead:
    """The logits of each row from the last token of its prompt on: of what a layout of as many rows has added, too."""
    places = [
        range(tokens.stop - 1, grown.tokens.stop) for tokens, grown in zip(prompt.rows, layout.placements, strict=True)
    ]
    return LogitRead.at(layout, places)


def _with_answers(
    model: Model, layout: Layout, writes: Sequence[PlannedWrite], remote: Remote, rounding: Rounding
) -> tuple[Layout, int]:
    """Decode a few tokens with the cache; one forward over all of them must give the same logits.

    The clean run, which is decoded too, says how far apart rounding brings the two.
    """
    plans = [compile_plan(model, layout, some) for some in ((), writes)]
    decoded = together([partial(_decoded, model, layout.prompt, plan, remote) for plan in plans], remote)
    grown = [one_case_per_row(layout.prompt.grown_rows(tokens.tolist())) for tokens, _ in decoded]
    replays = [partial(_replayed, model, *pair, remote) for pair in zip(grown, plans, strict=True)]
    pairs = zip(together(replays, remote), decoded, strict=True)
    clean, changed = (rounding.gap(logits, torch.stack(replayed)) for replayed, (_, logits) in pairs)
    allowed = rounding.allowed(worst(clean), "the logits of decoded tokens are off by {} from one forward over them")
    if not float(changed.max()) <= allowed:
        row, step = (int(n) for n in (~(changed <= allowed)).nonzero()[0])
        raise InterventionError(
            f"row {row}: the logits of decoded token {step} are off by {float(changed[row, step]):.3g} of their size "
            f"from one forward over the whole sequence (at most {allowed:.3g} is rounding): the intervention is not "
            "the same in cached generation"
        )
    return grown[1], int(changed.numel())


def _decoded(model: Model, prompt: Prompt, plan: Plan, remote: Remote) -> tuple[torch.Tensor, torch.Tensor]:
    """Words and their logits; tokens that stand for pixels are not said, because a forward would take them for some."""
    return decode_logits(model, prompt, plan, DECODED, remote, unsaid=view_of(model).placeholders)


def _replayed(model: Model, grown: Layout, plan: Plan, remote: Remote) -> list[torch.Tensor]:
    """For each row the logits that its decoded tokens were chosen from, in one forward over the whole sequence."""
    first = grown.prompt.width - DECODED - 1
    places = [range(first, first + DECODED)] * len(grown.prompt)
    return run_forward(model, grown, plan, [], LogitRead.at(grown, places), remote).logits
