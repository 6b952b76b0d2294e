"""Sites: the places in a model where plans write and readouts look.

A site is a module's input or output, or a call inside a module; the family table says where it lies in a model. Within
a layer sites have a rank, and stages have an order: together they are the order in which a model reaches its sites.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..arguments import one_of, text
from ..device import attention_parts, gates, kernels, lines, mixtures, readouts, states
from ..errors import SpecError
from ..families import VISION, Family, ModelView
from ..prompts.token_map import TokenMap
from ..prompts.where import as_tuples, require_ascending
from .head_choice import listed_heads
from .layers import require_ascending_layers


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place in a stage of the model where plans write.

    Attributes:
        rank: order within one layer.
        module: path of the module; the names in braces are columns of the family row.
        place: `"inputs"` or `"output"` of that module, the name of a call inside it, or `"{call}.inputs"`.
        kernel: the function that writes there, of `device.kernels` or beside it.
        read: the readout of hidden states there.
        layered: whether there is one in every layer.
        needs: what a layer must have for the site to be there: `"attention"`, `"cross"`, `"mlp"`.
        part: of a site whose states are heads, what they are: `"query"`, `"key"`, `"value"` or `"head"`.
    """

    rank: int
    module: str
    place: str
    kernel: Callable[..., Any]
    read: Callable[..., Any] = readouts.hidden_rows
    layered: bool = True
    needs: str = ""
    part: str = ""

    @property
    def holds_keys(self) -> bool:
        """Whether its positions are those of keys: of the whole sequence, in every forward."""
        return self.part in KEY_PARTS


KEY_PARTS = ("key", "value")
CALL_PARTS = ("query", *KEY_PARTS)
"""What an attention function is handed."""
LAYER = "{layer}"


def _part_of_call(rank: int, attention: str, part: str) -> Site:
    """What the attention function is handed: a query, key or value."""
    return Site(
        rank=rank,
        module=f"{LAYER}.{{stage.{attention}.module}}",
        place=f"{{stage.{attention}.call}}.inputs",
        kernel=attention_parts.write_part,
        read=attention_parts.READERS[part],
        needs=attention,
        part=part,
    )


def _kept(rank: int, part: str) -> Site:
    """The same of a line, kept for what is done to its edges; the model reaches it right behind the part itself."""
    return Site(
        rank=rank,
        module=f"{LAYER}.{{stage.attention.module}}",
        place=f"{{stage.attention.line.{part}}}.output",
        kernel=lines.keep_part,
        needs="attention",
        part=part,
    )


def _heads(rank: int, attention: str) -> Site:
    """What the output projection is handed: the outputs of all heads."""
    return Site(
        rank=rank,
        module=f"{LAYER}.{{stage.{attention}.projection}}",
        place="inputs",
        kernel=attention_parts.write_heads,
        read=attention_parts.head_rows,
        needs=attention,
        part="head",
    )


def _weights(rank: int, attention: str) -> Site:
    """What the attention function returns, where its weights are changed behind the softmax."""
    return Site(
        rank=rank,
        module=f"{LAYER}.{{stage.{attention}.module}}",
        place=f"{{stage.{attention}.call}}",
        kernel=mixtures.change_weights,
        needs=attention,
    )


SITES: dict[str, Site] = {
    "projector": Site(
        rank=-1,
        module="{family.projector}",
        place="inputs",
        kernel=states.write_projected,
        read=readouts.projected_rows,
        layered=False,
    ),
    "features": Site(
        rank=0,
        module="{family.projector}",
        place="output",
        kernel=states.write_features,
        read=readouts.feature_rows,
        layered=False,
    ),
    "embedding": Site(
        rank=0,
        module="{stage.embedding}",
        place="inputs",
        kernel=states.write_embeddings,
        read=readouts.embedding_rows,
        layered=False,
    ),
    "row factors": Site(rank=1, module=LAYER, place="inputs", kernel=gates.take_row_factors),
    "mask": Site(
        rank=2,
        module=f"{LAYER}.{{stage.attention.module}}",
        place="{stage.attention.mask_at}",
        kernel=kernels.close_edges,
        needs="attention",
    ),
    "pieces": Site(
        rank=2,
        module=f"{LAYER}.{{stage.attention.module}}",
        place="inputs",
        kernel=lines.check_pieces,
        needs="attention",
    ),
    "query": _part_of_call(3, "attention", "query"),
    "query kept": _kept(3, "query"),
    "key": _part_of_call(4, "attention", "key"),
    "key kept": _kept(4, "key"),
    "value": _part_of_call(5, "attention", "value"),
    "value kept": _kept(5, "value"),
    "weights": _weights(6, "attention"),
    "line": Site(
        rank=6,
        module=f"{LAYER}.{{stage.attention.module}}",
        place="{stage.attention.line.mixed}.output",
        kernel=lines.change_line,
        needs="attention",
    ),
    "head": _heads(7, "attention"),
    "attention": Site(
        rank=8,
        module=f"{LAYER}.{{stage.attention.output}}",
        place="output",
        kernel=states.write_output,
        needs="attention",
    ),
    "cross mask": Site(
        rank=9, module=f"{LAYER}.{{stage.cross.module}}", place="inputs", kernel=kernels.close_edges, needs="cross"
    ),
    "cross query": _part_of_call(10, "cross", "query"),
    "cross key": _part_of_call(11, "cross", "key"),
    "cross value": _part_of_call(12, "cross", "value"),
    "empty rows": Site(
        rank=13,
        module=f"{LAYER}.{{stage.cross.module}}",
        place="{stage.cross.call}",
        kernel=kernels.zero_unattended,
        needs="cross",
    ),
    "cross weights": _weights(14, "cross"),
    "cross head": _heads(15, "cross"),
    "cross": Site(
        rank=16, module=f"{LAYER}.{{stage.cross.output}}", place="output", kernel=states.write_output, needs="cross"
    ),
    "cross gate": Site(rank=17, module=LAYER, place="{stage.gates[cross].call}", kernel=gates.write_gated),
    "mlp": Site(rank=18, module=f"{LAYER}.{{stage.mlp}}", place="output", kernel=states.write_output, needs="mlp"),
    "mlp gate": Site(rank=19, module=LAYER, place="{stage.gates[mlp].call}", kernel=gates.write_gated),
    "residual": Site(rank=20, module=LAYER, place="output", kernel=states.write_output),
}
HeadSite = Literal["query", "key", "value", "head", "cross query", "cross head"]
StateSite = Literal["projector", "features", "embedding", "attention", "cross", "mlp", "residual", HeadSite]
STATES: tuple[StateSite, ...] = get_args(StateSite)
"""The sites of hidden states that a user names; keys and values outside the sequence are those of cross-attention."""
AT_PROJECTOR = ("projector", "features")
"""Those of them between the stages, whose rows are counted over the whole batch."""
HEAD_SITES: tuple[HeadSite, ...] = get_args(HeadSite)
"""Those of them whose states are heads."""
ATTENTION_OF = {"mask": "attention", "weights": "attention", "cross mask": "cross", "cross weights": "cross"}
ATTENTION_OF |= {"empty rows": "cross"}
"""The attention, self or cross, that a site of its edges belongs to."""
MASK_OF = {"mask": "mask", "weights": "mask", "cross mask": "cross mask", "cross weights": "cross mask"}
"""The site of the mask of the same attention."""
BEFORE_LAYERS = -1
"""The layer number of sites that lie before the first layer."""


def locate(family: Family, stage: str, name: str, layer: int) -> tuple[str, str]:
    """`(module path, place)` of a site in one family."""
    site, part = SITES[name], family.stages.get(stage)
    at = "" if part is None else f"{part.layers}.{layer}" if part.layer_count else part.layers
    known = {"family": family, "stage": part, "layer": at}
    in_line = part is not None and part.attention.line is not None and name in CALL_PARTS
    place = SITES[f"{name} kept"].place if in_line else site.place
    return site.module.format(**known), place.format(**known)


def gate_of(view: ModelView, stage: str, layer: int, site: str) -> tuple[str, str, str | float] | None:
    """What stands between a site and the residual stream, see `plan.ReadStep`; None where there is nothing."""
    spec = view.stage(stage)
    gate = spec.gate(site, layer)
    if gate is not None:
        return locate(view.family, stage, "residual", layer)[0], gate.rows, gate.call
    return ("", "", spec.factor(site)) if spec.factor(site) != 1 else None


def projection_of(family: Family, stage: str, layer: int, site: str) -> tuple[str, str]:
    """The paths of the output projection of the attention that a site belongs to, and of that attention."""
    head = "cross head" if ATTENTION_OF[site] == "cross" else "head"
    return locate(family, stage, head, layer)[0], locate(family, stage, site, layer)[0]


def order_of(family: Family) -> tuple[str, ...]:
    """The stages of a family and its image features, in the order in which the model reaches them."""
    names = list(family.stages)
    at = names.index(family.projector_after or VISION) + 1 if family.projector_after or family.tower else 0
    return (*names[:at], "features", *names[at:])


def check_state_spec(spec: Any) -> None:
    """Make `where`, `layers` and `heads` of a frozen spec of hidden states hashable, and check them and `site`.

    Raises:
        SpecError: positions or layers that do not ascend, no such site, or heads at a site that has none.
    """
    for name in ("where", "layers"):
        object.__setattr__(spec, name, as_tuples(getattr(spec, name)))
    require_ascending(spec.where)
    require_ascending_layers(spec.layers)
    one_of("site", spec.site, STATES)
    text("stage", spec.stage, 'stage="decoder"')
    object.__setattr__(spec, "heads", listed_heads(spec.heads))
    if spec.heads is not None and spec.site not in HEAD_SITES:
        raise SpecError(
            f"heads={spec.heads!r} names heads, and the states at site {spec.site!r} have none; write one of the sites "
            f"{', '.join(map(repr, HEAD_SITES))}, or leave heads out"
        )


def refuse_two_projections(family: Family, rows: Sequence[TokenMap]) -> None:
    """Refuse image features where the projector runs once for images and once more for videos.

    Raises:
        SpecError: the rows have both.
    """
    kinds = {visual.kind for tokens in rows for visual in tokens.visuals}
    if len(kinds) > 1 and family.video is not None and family.video.is_apart:
        raise SpecError(
            f"the projector of {family.name!r} models runs once for the images and once for the videos of these "
            'prompts, so site "features" is not one place; give images and videos in prompts of their own, or write '
            'site="embedding"'
        )
