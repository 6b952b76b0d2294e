"""vlmprobe 1.0.1 as its documentation uses it: `probe.causal.knockout(...)`, `probe.attention.profile(...)`.

Its hooks on attention scores need eager attention, so its clean forward is an eager one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from common import Case, load, serve
from vlmprobe import Prober


@dataclass(frozen=True, eq=False)
class Probed:
    """A saved case, bound to vlmprobe."""

    case: Case
    probe: Any


def opened(folder: str, _: str) -> Probed:
    case = load(folder, "eager")
    return Probed(case, Prober(case.module))


def clean(given: Probed) -> Any:
    case = given.case
    return case.module(**case.inputs, use_cache=False, logits_to_keep=1).logits[0, -1, case.answer]


def sweep(given: Probed) -> Any:
    """One layer at a time, as `layers=` does it; its scores are the answer's logit."""
    found = _knockout(given, joint=False)
    return found.tensors["intervention_score"]


def all_layers(given: Probed) -> Any:
    return _knockout(given, joint=True).tensors["intervention_score"]


def _knockout(given: Probed, joint: bool) -> Any:
    method = given.probe.causal.knockout(queries=list(given.case.text), keys=list(given.case.image), joint=joint)
    return method.run(given.case.inputs, metric=lambda logits: logits[0, -1, given.case.answer])


def share(given: Probed) -> Any:
    """Mass by token group; its profile holds every layer's heads x T x T at once."""
    case = given.case
    profile = given.probe.attention.profile(queries=list(case.text), groups={"image": list(case.image)})
    return profile.run(case.inputs).tensors["group_mass"][:, 0, :, list(case.text), 0]  # [layer, head, query]


if __name__ == "__main__":
    serve({"clean": clean, "sweep": sweep, "all layers": all_layers, "share": share}, opened)
