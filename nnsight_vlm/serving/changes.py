"""An intervention as a page spells it: a route that is closed, or states that are written in from another picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from ..arguments import listed, one_of, refuse, text, whole_number
from ..errors import SpecError
from ..families import view_of
from ..lowering.layers import Layers, layer_numbers
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..report.arguments import parse_layers
from ..specs.interventions import Intervention
from ..specs.knockouts import Knockout
from ..specs.states import Patch
from .fields import about

Kind = Literal["cut", "patch"]
KINDS: tuple[Kind, ...] = get_args(Kind)
FIELDS: Mapping[Kind, tuple[str, ...]] = {
    "cut": ("kind", "source", "target", "layers", "heads", "how"),
    "patch": ("kind", "where", "layer"),
}
How = Literal["mask", "zero"]
HOWS: tuple[How, ...] = get_args(How)


class Change(NamedTuple):
    """What a page asks to be changed.

    Attributes:
        made: the intervention, on a prompt.
        needs_other: whether it takes states from another picture.
        box: that is drawn on the picture; None for none.
    """

    made: Callable[[Prompt, Prompt | None], Intervention]
    needs_other: bool
    box: Any


def change_given(given: Any) -> Change | None:
    """What a page asks to be changed; None where nothing is.

    Args:
        given: None, or one of

            - `{"kind": "cut", "source": PLACE, "target": PLACE, "layers": "3:7", "heads": [0, 1], "how": "mask"}`:
              no attention from `target` to `source`; `layers` as the command line spells them; `layers`, `heads` and
              `how` may be left out.
            - `{"kind": "patch", "where": PLACE, "layer": 4}`: the states at `where`, behind that layer, are those of
              the same question about the other picture.

            A PLACE is a token group, or `{"box": [x0, y0, x1, y1]}` in pixels of the picture.

    Raises:
        SpecError: anything else.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        refuse("change", given, "change", '{"kind": "cut", "source": "image", "target": "last"}')
    kind = one_of("kind", given.get("kind"), KINDS)
    if unknown := sorted(set(map(str, given)) - set(FIELDS[kind])):
        raise SpecError(f"a {kind} has no {', '.join(unknown)}; it has {', '.join(FIELDS[kind])}")
    return _cut(given) if kind == "cut" else _patch(given)


def _cut(given: Mapping[str, Any]) -> Change:
    source, target = _place(given, "source"), _place(given, "target")
    heads = given.get("heads")
    with about("layers"):
        layers = parse_layers(text("layers", given.get("layers", "attention")))
    with about("heads"):
        if heads is not None:
            heads = [whole_number("heads", head, least=0) for head in listed("heads", heads, "[0, 1]")]
    how = one_of("how", given.get("how", "mask"), HOWS)

    def made(prompt: Prompt, _: Prompt | None) -> Intervention:
        with about("layers"):
            _in_depth(prompt, layers)
        return Knockout(source(prompt), target(prompt), layers=layers, heads=heads, how=how)

    return Change(made, needs_other=False, box=_box(given, "source", "target"))


def _patch(given: Mapping[str, Any]) -> Change:
    where = _place(given, "where")
    with about("layer"):
        layer = whole_number("layer", given.get("layer"), kind="layer")

    def made(prompt: Prompt, other: Prompt | None) -> Intervention:
        assert other is not None
        with about("layer"):
            _in_depth(prompt, layer)
        return Patch(where(prompt), source=other, layers=layer)

    return Change(made, needs_other=True, box=_box(given, "where"))


def _box(given: Mapping[str, Any], *names: str) -> Any:
    """The box of the first of these places that has one; None where none has."""
    return next((given[name]["box"] for name in names if isinstance(given.get(name), Mapping)), None)


def _place(given: Mapping[str, Any], name: str) -> Callable[[Prompt], Where]:
    """The tokens that a place names, of a prompt."""
    place = given.get(name)
    if isinstance(place, str):
        return lambda _: place
    if not isinstance(place, Mapping) or set(place) != {"box"}:
        refuse(name, place, "place", '"image", or {"box": [x0, y0, x1, y1]} in pixels')

    def boxed(prompt: Prompt) -> Where:
        with about("box"):
            return prompt.region(place["box"])

    return boxed


def _in_depth(prompt: Prompt, layers: Layers) -> None:
    """Refuse layers that the model has not got.

    Raises:
        SpecError: with those that it has.
    """
    if layers != "attention":
        layer_numbers(layers, view_of(prompt.model).stage().layer_count)
