"""The edges of a study of information flow: where they begin and end, their layers, and what their controls cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..arguments import listed
from ..errors import SpecError
from ..execution.checking import check
from ..execution.emptiness import Call
from ..families import Model
from ..prompts.prompt import Prompt
from ..specs.knockouts import Knockout
from ..studies.asked_objects import AskedPatches, asked_patches
from ..studies.controls import edge_matched_positions, random_positions, rng_of
from ..studies.image_patches import patch_source
from ..studies.labels import OBJECT, RANDOM_PATCHES, RANDOM_POSITIONS, REST, Control
from ..studies.layer_sets import layers_reading
from ..studies.windows import LayerWindow, Windows, nested_draws
from ..studies.words import Thing
from .routes import Route, default_routes

EDGES = ("image->last", "question->last", "image->question", "last->last")
"""The edges that are cut unless others are asked for."""
OBJECT_EDGES = tuple(f"{source}->{target}" for source in (OBJECT, REST) for target in ("last", "question"))
"""Those that are cut beside them where the objects are known."""


class Edge(NamedTuple):
    """An edge in one prompt.

    Attributes:
        name: `"source->target"`.
        source: positions of the keys.
        target: group name of the queries.
        layers: the layers that have the edge.
        windows: the windows into which these layers are grouped.
        random: what is cut in place of the source, and what this control is called; None where there is no such cut.
        draws: random layers by how many they are.
    """

    name: str
    source: tuple[int, ...]
    target: str
    layers: tuple[int, ...]
    windows: tuple[LayerWindow, ...]
    random: tuple[Control, tuple[int, ...]] | None
    draws: dict[int, tuple[int, ...]]

    def cut(self, layers: tuple[int, ...], source: tuple[int, ...] | None = None) -> Knockout:
        """The edge closed in some layers; or as many others."""
        return Knockout(self.source if source is None else source, self.target, layers=layers)


def edges_given(edges: Any) -> tuple[str, ...] | None:
    """The names of the edges that the user asks for; None for the usual ones.

    Raises:
        SpecError: no such names.
    """
    if edges is None:
        return None
    names = tuple(dict.fromkeys(listed("edges", edges, '["image->last", "question->last"]', kind=str)))
    if not names:
        raise SpecError('edges=[] has no edges to cut; write edges=["image->last", "question->last"], or leave it out')
    return names


def begins_at_object(edges: Sequence[str] | None) -> bool:
    """Whether it must be known where objects are; the usual edges take it where it is."""
    return edges is None or any(Route.parse(name).source in (OBJECT, REST) for name in edges)


def edge_errors(model: Model, prompt: Prompt, *, edges: Sequence[str] | None, windows: Windows) -> dict[str, str]:
    """For each edge that a prompt has why it cannot be cut; empty where it can.

    Edges from an object are looked at when its place in the picture is known.

    Args:
        model: an nnsight model.
        prompt: a prompt of one row.
        edges: those that the user asked for, which raise; None for the usual ones.
        windows: how the layers are grouped.

    Raises:
        SpecError: naming the edge.
    """
    found = {}
    for name in _usual_edges(prompt) if edges is None else edges:
        try:
            if Route.parse(name).source not in (OBJECT, REST):
                [edge] = edges_of(model, prompt, [name], None, windows, seed=0, image=0)
                check_edge(model, prompt, edge)
            found[name] = ""
        except SpecError as error:
            if edges is not None:
                raise
            found[name] = str(error)
    return found


def check_edge(model: Model, prompt: Prompt, edge: Edge) -> None:
    """Refuse an edge along which nothing can flow.

    Raises:
        SpecError: naming it.
    """
    check(model, prompt, edge.cut(edge.layers), Call(f"edge {edge.name!r}: "))


def _usual_edges(prompt: Prompt) -> tuple[str, ...]:
    """The usual edges whose target lies in the decoder's sequence; with a token that is alone there, none to itself."""
    usual = default_routes([prompt], (*EDGES, *OBJECT_EDGES))
    return tuple(name for name in usual if name != "last->last" or not _is_alone(prompt))


def with_objects(names: Sequence[str], has_truths: bool, *, asked_for: bool) -> tuple[str, ...]:
    """The edges that can be cut, given whether it is known where the objects are.

    Args:
        names: of all edges.
        has_truths: whether it is known.
        asked_for: whether the user named them.

    Raises:
        SpecError: edges from an object that the user asked for and whose place is not known, or a place that no edge
            needs.
    """
    of_objects = [name for name in names if Route.parse(name).source in (OBJECT, REST)]
    if not asked_for:
        return tuple(name for name in names if has_truths or name not in of_objects)
    if of_objects and not has_truths:
        raise SpecError(
            f"edge {of_objects[0]!r} begins at an object, and nothing says where that is; write truths= too"
        )
    if has_truths and not of_objects:
        raise SpecError(f'truths= are not used: no edge of edges= begins at an object; write "{OBJECT}->last" as well')
    return tuple(names)


def _is_alone(prompt: Prompt) -> bool:
    """Whether the last token is the only one of the decoder's sequence, so that it has only itself to attend to."""
    tokens = prompt.rows[0]
    return tokens.answer - tokens.start == 1


def patches_of(prompt: Prompt, truth: Sequence[Thing], asked: Sequence[str] | None, whose: str) -> AskedPatches:
    """The object of one prompt's question.

    Raises:
        SpecError: see `asked_patches`; or image tokens have no place in the picture.
    """
    stage, grid = patch_source(prompt)
    if stage != "decoder":
        raise SpecError(
            f"the image tokens of this model have no place in the picture: its {stage} computes each of them from all "
            "patches, so none is the object's; leave out truths=, or name edges= without an object"
        )
    return asked_patches(prompt, grid, truth, asked, whose)


def edges_of(
    model: Model,
    prompt: Prompt,
    names: Sequence[str],
    patches: AskedPatches | None,
    windows: Windows,
    seed: int,
    image: int,
) -> list[Edge]:
    """The edges of one prompt, with what is drawn for their controls."""
    edges = []
    for name in names:
        whose, target = Route.parse(name)
        source = prompt[whose] if patches is None or whose not in (OBJECT, REST) else _part(patches, whose)
        if not source and whose in (OBJECT, REST):
            continue
        layers = layers_reading(model, prompt, source if whose in (OBJECT, REST) else whose)
        of_edge = windows.of(layers, f"edge {name!r}: ")
        sizes = [len(window.layers) for window in of_edge]
        random = _in_its_place(prompt, whose, source, target, patches, seed, image)
        draws = nested_draws(layers, sizes, rng_of(seed, image))
        edges.append(Edge(name, source, target, layers, of_edge, random, draws))
    return edges


def _part(patches: AskedPatches, whose: str) -> tuple[int, ...]:
    return patches.inside if whose == OBJECT else patches.outside


def _in_its_place(
    prompt: Prompt,
    whose: str,
    source: tuple[int, ...],
    target: str,
    patches: AskedPatches | None,
    seed: int,
    image: int,
) -> tuple[Control, tuple[int, ...]] | None:
    """Random positions that are cut in place of a source; draws for one source are the same for all its targets."""
    if patches is None or whose not in (OBJECT, REST):
        chosen = edge_matched_positions(prompt, source, prompt[target], rng_of(seed + 2, image))
        return None if chosen is None else (RANDOM_POSITIONS, chosen)
    candidates = patches.outside if whose == OBJECT else (*patches.inside, *patches.outside)
    if len(candidates) < len(source) or set(candidates) == set(source):
        return None
    return RANDOM_PATCHES, random_positions(candidates, len(source), rng_of(seed + 3, image))
