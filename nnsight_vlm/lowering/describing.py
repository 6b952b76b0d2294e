"""What a model is made of, as a table: its stages, their sizes, and what can be named in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..families import VISION, Model, ModelView, unsupported, view_of
from ..prompts.token_map import PARTS, VIEWS
from .sites import SITES, STATES

if TYPE_CHECKING:
    import pandas as pd

ANY = ("last", "first", "all")
"""Groups of any sequence."""
LATENTS = ("patches and latents", "crop patches")
"""Layouts of patches behind which a resampler reads its own latents."""


def describe(model: Model) -> pd.DataFrame:
    """What a model is made of: a line for each of its stages, in the order in which they run.

    The columns:

    - `stage`: the name, for `stage=`; `"vision"` is in every table, with a reason in `missing` where it is no stage;
    - `layers`, `heads`, `key_heads`, `width`, `head_dim`: how many, and how wide; of layers that differ, a tuple with a
      number for each layer;
    - `attends`: the layers that have self-attention, and how far they see where that is not the same in all;
    - `sites`: the sites of states that can be written and read; attention can be cut where there is `"attention"`;
    - `groups`: the names of groups that its tokens may be in, for `prompt.positions(group, stage=...)`;
    - `taken`: of a vision tower, the layers whose outputs are taken from it, by the projector, by another encoder or by
      the decoder's layers (DeepStack), counted from 0. What is changed behind the last of them changes nothing;
    - `missing`: what does not work there, and why: `{"knockout": "..."}`.

    Raises:
        SpecError: what was given is no model of a family that the package knows.

    >>> import nnsight_vlm as nv
    >>> nv.describe(nv.load("shapes"))[["stage", "layers", "heads", "width", "taken"]]
         stage  layers  heads  width taken
    0   vision       4      4    128  (3,)
    1  decoder      10      4    128    ()
    """
    import pandas as pd

    view = view_of(model)
    lines = [_line(view, name) for name in view.family.stages]
    if VISION not in view.family.stages:
        missing = {VISION: view.family.limitation(VISION)}
        lines.insert(0, {"stage": VISION, "sites": (), "groups": (), "taken": (), "missing": missing})
    columns = list(_line(view, "decoder"))
    return pd.DataFrame([{name: line.get(name) for name in columns} for line in lines], columns=columns)


def _line(view: ModelView, name: str) -> dict[str, Any]:
    """The line of one stage."""
    spec = view.stage(name)
    return {
        "stage": name,
        "layers": spec.layer_count,
        "heads": spec.head_count,
        "key_heads": _one(spec.key_heads),
        "width": spec.width,
        "head_dim": _one(spec.head_dim),
        "attends": _attends(view, name),
        "sites": tuple(_sites(view, name)),
        "groups": _groups(view, name),
        "taken": spec.taken,
        "missing": _missing(view, name),
    }


def _one(sizes: Sequence[int]) -> int | tuple[int, ...]:
    """A size that is the same in all layers; or that of each."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)


def _attends(view: ModelView, name: str) -> str:
    """The layers with self-attention: `"every layer"`, `"layers 1, 3"`; windows apart where some see no further."""
    spec = view.stage(name)
    windows = [layer for layer in spec.attention if view.reach(name, layer).windows]
    others = [layer for layer in spec.attention if layer not in windows]
    if not windows:
        return _layers(others, spec.layer_count)
    return f"windows: {_layers(windows, spec.layer_count)}; whole pictures: {_layers(others, spec.layer_count)}"


def _layers(numbers: Sequence[int], count: int) -> str:
    """Layers in words: neighbours as `3-7`."""
    if len(numbers) in (0, count):
        return "every layer" if numbers else "none"
    runs = [[number for _, number in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    return "layers " + ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _sites(view: ModelView, name: str) -> Iterator[str]:
    """The sites of states that a stage has, in the order in which the model reaches them."""
    spec, family = view.stage(name), view.family
    there = {"attention": spec.attention, "cross": spec.cross, "mlp": spec.stage.mlp}
    handed_in = "decoder" if family.handed == "features" else VISION
    own = {
        "embedding": spec.stage.embedding,
        "features": family.projector if name == "decoder" else None,
        "projector": family.projector if name == handed_in else None,
    }
    behind = name == VISION  # the projector runs when all layers of the tower have run
    for site in sorted(STATES, key=lambda site: (behind and site == "projector", SITES[site].rank)):
        has = own[site] if site in own else there.get(SITES[site].needs, True)
        if has and site not in spec.stage.lacks and family.limitation(site) is None:
            yield site


def _groups(view: ModelView, name: str) -> tuple[str, ...]:
    """The names of groups that tokens of a stage may be in."""
    stage, video = view.family.stages[name], view.family.video is not None
    if stage.tower is not None:
        own = {"video": video, "cls": stage.tower.cls, "registers": view.stage(name).registers}
        own["filling"] = stage.tower.filled
        return ("image", *(group for group, there in own.items() if there), *ANY)
    if stage.keys:
        text = ("question", "text") if stage.text else ()
        return ("query", "image", *text, *(("latents",) if stage.keys in LATENTS else ()), *ANY)
    left_out = {*(() if video else ("video",)), *(() if name == "decoder" else ("generated",))}
    return tuple(group for group in (*PARTS, *VIEWS) if group not in left_out)


def _missing(view: ModelView, name: str) -> dict[str, str]:
    """What does not work in a stage, and why: what follows from the family is told in the decoder's line."""
    limits = unsupported(view.family) if name == "decoder" else {}
    own = {str(what): why for what, why in limits.items() if what != VISION}
    return {**view.family.stages[name].lacks, **own}
