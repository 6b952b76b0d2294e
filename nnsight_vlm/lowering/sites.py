"""Sites: the places in a model where plans write and readouts look.

A site is a module's input or output, or a call inside a module; the family table says where it lies in a model. Within
a layer sites have a rank, and stages have an order: together they are the order in which a model reaches its sites.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..arguments import one_of, text
from ..device import gates, kernels, readouts
from ..families import Family
from ..prompts.where import as_tuples, require_ascending
from .layers import require_ascending_layers


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place in a stage of the model where plans write.

    Attributes:
        rank: order within one layer.
        module: path of the module; the names in braces are columns of the family row.
        place: `"inputs"` or `"output"` of that module, or the name of a call inside it.
        kernel: the function that writes there, of `device.kernels` or beside it.
        read: the readout of hidden states there.
        layered: whether there is one in every layer.
        needs: what a layer must have for the site to be there: `"attention"`, `"cross"`, `"mlp"`.
    """

    rank: int
    module: str
    place: str
    kernel: Callable[..., Any]
    read: Callable[..., Any] = readouts.hidden_rows
    layered: bool = True
    needs: str = ""


LAYER = "{layer}"
SITES: dict[str, Site] = {
    "features": Site(
        rank=0,
        module="{family.projector}",
        place="output",
        kernel=kernels.write_features,
        read=readouts.feature_rows,
        layered=False,
    ),
    "embedding": Site(
        rank=0,
        module="{stage.embedding}",
        place="inputs",
        kernel=kernels.write_embeddings,
        read=readouts.embedding_rows,
        layered=False,
    ),
    "row factors": Site(rank=1, module=LAYER, place="inputs", kernel=gates.take_row_factors),
    "mask": Site(
        rank=2,
        module=f"{LAYER}.{{stage.attention.module}}",
        place="inputs",
        kernel=kernels.close_edges,
        needs="attention",
    ),
    "attention": Site(
        rank=3,
        module=f"{LAYER}.{{stage.attention.output}}",
        place="output",
        kernel=kernels.write_output,
        needs="attention",
    ),
    "cross mask": Site(
        rank=4, module=f"{LAYER}.{{stage.cross.module}}", place="inputs", kernel=kernels.close_edges, needs="cross"
    ),
    "empty rows": Site(
        rank=5,
        module=f"{LAYER}.{{stage.cross.module}}",
        place="{stage.cross.call}",
        kernel=kernels.zero_unattended,
        needs="cross",
    ),
    "cross": Site(
        rank=6, module=f"{LAYER}.{{stage.cross.output}}", place="output", kernel=kernels.write_output, needs="cross"
    ),
    "cross gate": Site(rank=7, module=LAYER, place="{stage.gates[cross].call}", kernel=gates.write_gated),
    "mlp": Site(rank=8, module=f"{LAYER}.{{stage.mlp}}", place="output", kernel=kernels.write_output, needs="mlp"),
    "mlp gate": Site(rank=9, module=LAYER, place="{stage.gates[mlp].call}", kernel=gates.write_gated),
    "residual": Site(rank=10, module=LAYER, place="output", kernel=kernels.write_output),
}
StateSite = Literal["features", "embedding", "attention", "cross", "mlp", "residual"]
STATES: tuple[StateSite, ...] = get_args(StateSite)
"""The sites of hidden states."""
ATTENTION_OF = {"mask": "attention", "cross mask": "cross", "empty rows": "cross"}
"""The attention, self or cross, that a site belongs to."""
BEFORE_LAYERS = -1
"""The layer number of sites that lie before the first layer."""


def locate(family: Family, stage: str, name: str, layer: int) -> tuple[str, str]:
    """`(module path, place)` of a site in one family."""
    site, part = SITES[name], family.stages.get(stage)
    at = "" if part is None else f"{part.layers}.{layer}" if part.layer_count else part.layers
    known = {"family": family, "stage": part, "layer": at}
    return site.module.format(**known), site.place.format(**known)


def order_of(family: Family) -> tuple[str, ...]:
    """The stages of a family and its image features, in the order in which the model reaches them."""
    names = list(family.stages)
    at = names.index(family.projector_after) + 1 if family.projector_after else 0
    return (*names[:at], "features", *names[at:])


def check_state_spec(spec: Any) -> None:
    """Make `where` and `layers` of a frozen spec of hidden states hashable, and check them and `site`.

    Raises:
        SpecError: positions or layers that do not ascend, or no such site.
    """
    for name in ("where", "layers"):
        object.__setattr__(spec, name, as_tuples(getattr(spec, name)))
    require_ascending(spec.where)
    require_ascending_layers(spec.layers)
    one_of("site", spec.site, STATES)
    text("stage", spec.stage, 'stage="decoder"')
