"""vlmprobe 1.0.1, used as in its documentation: `probe.causal.knockout(...)`, `probe.attention.profile(...)`.

Its hooks need attention scores, so its attention is eager, and so is its clean forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common import Case, load, serve
from vlmprobe import Prober


@dataclass(frozen=True, eq=False)
class Probed:
    """A saved case, and a prober of its model."""

    case: Case
    probe: Any


def probed(folder: str, _: str) -> Probed:
    case = load(folder, "eager")
    return Probed(case, Prober(case.module))


def clean(on: Probed) -> Any:
    case = on.case
    return case.module(**case.inputs, use_cache=False, logits_to_keep=1).logits[0, -1, case.answer]


def sweep(on: Probed) -> Any:
    """The answer's logit with one layer cut at a time."""
    return _knockout_logits(on, joint=False)


def all_layers(on: Probed) -> Any:
    return _knockout_logits(on, joint=True)


def _knockout_logits(on: Probed, joint: bool) -> Any:
    method = on.probe.causal.knockout(queries=list(on.case.text), keys=list(on.case.image), joint=joint)
    result = method.run(on.case.inputs, metric=lambda logits: logits[0, -1, on.case.answer])
    return result.tensors["intervention_score"]


def share(on: Probed) -> Any:
    """Attention mass of the image; the profile needs the heads x T x T matrices of all layers at once."""
    case = on.case
    profile = on.probe.attention.profile(queries=list(case.text), groups={"image": list(case.image)})
    return profile.run(case.inputs).tensors["group_mass"][:, 0, :, list(case.text), 0]  # [layer, head, query]


if __name__ == "__main__":
    serve({"clean": clean, "sweep": sweep, "all layers": all_layers, "share": share}, probed)
