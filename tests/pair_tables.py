"""What recipes on pairs of pictures say of the models of scenes: the tables and numbers of their pages in docs/recipes.

`python tests/pair_tables.py patching_map`, and so on for `attribution_map`, `pair_routes` and `path_patching`; `--save`
keeps what it prints. Pairs of scenes differ in the colour of one object, which a question asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import measured
import pandas as pd
from frame_cells import estimate, number, only
from page_tables import markdown

import nnsight_vlm as nv

MODELS = ("shapes", "shapes-gist")
Frames = dict[str, pd.DataFrame]
"""By model."""


class Told(NamedTuple):
    """What a page says: its table, where it has one, and the numbers of its sentences."""

    table: str = ""
    numbers: list[str] | None = None


def frames(recipe: Callable[..., pd.DataFrame], pairs: int, names: tuple[str, ...] = MODELS, **given: Any) -> Frames:
    """The frame of each model."""
    rows, quiet = nv.shapes.color_pairs(pairs), nv.recipes.Work(progress=False)
    return {name: recipe(nv.load(name), rows, work=quiet, **given) for name in names}


def held(of: Frames) -> str:
    """How many comparisons hold, by model."""
    return ", ".join(f"{name}: {int(f['survives'].sum())} of {f.attrs['comparisons']} hold" for name, f in of.items())


def patching_map(pairs: int) -> Told:
    of = frames(nv.recipes.patching_map, pairs)
    print(held(of), file=sys.stderr)
    layers = (0, 2, 3, 4, 5, 6, 9)
    lines = [(f"`{group}`", group, "none") for group in ("last", "query", "image", "all")]
    lines.insert(3, ("`image`, third picture", "image", "another image"))
    rows = []
    for called, group, control in lines:
        wanted = {"group": group, "control": control, "measure": "restoration"}
        rows.append([called, *(number(only(of["shapes"], layer=layer, **wanted)["mean"]) for layer in layers)])
    wanted = {"group": "last", "control": "none", "measure": "restoration"}
    last = [number(only(of["shapes-gist"], layer=layer, **wanted)["mean"]) for layer in layers]
    print("shapes-gist, last:", *last, file=sys.stderr)
    return Told(markdown(["restoration", *map(str, layers)], rows))


def attribution_map(pairs: int) -> Told:
    of = frames(nv.recipes.attribution_map, pairs)
    edges = frames(nv.recipes.attribution_map, pairs, at=("residual", "head", "edge"))
    print(held(of), held(edges), sep="\n", file=sys.stderr)
    layers = (0, 3, 5, 6, 9)
    lines = [
        (f"`{group}`, {kind}", {"group": group, "measure": f"{kind}_restored", "control": "none"})
        for group in ("image", "last")
        for kind in ("estimate", "exact")
    ]
    third = {"group": "last", "measure": "estimate_restored", "control": "another image"}
    rows = []
    for called, wanted in [*lines, ("`last`, third picture, estimate", third)]:
        rows.append([called, *(where_patched(of["shapes"], layer=layer, **wanted) for layer in layers)])
    shares = markdown(["share of the logit difference", *map(str, layers)], rows)
    return Told(shares, [*map_numbers(of), *edge_numbers(edges)])


def where_patched(frame: pd.DataFrame, **wanted: Any) -> str:
    """The cell of whole states at a place; empty where it was not patched."""
    try:
        return estimate(only(frame, site="residual", **wanted))
    except LookupError:
        return ""


def map_numbers(of: Frames) -> list[str]:
    """How far estimates and patches agree, and the two heads with the largest estimates that hold."""
    agree = [
        estimate(only(of[name], site=site, measure="correlation")) for name in MODELS for site in ("residual", "head")
    ]
    largest = largest_that_hold(of["shapes"], "head", 2)
    last = only(of["shapes-gist"], site="residual", group="last", layer=6, control="none", measure="exact_restored")
    return [*agree, *(estimate(row) for _, row in largest.iterrows()), estimate(last)]


def edge_numbers(edges: Frames) -> list[str]:
    """The patch of head 2 of layer 4 at the edge from the image to the last token, and how far both agree."""
    frame = edges["shapes"]
    largest_that_hold(frame, "edge", 5)
    largest_that_hold(edges["shapes-gist"], "edge", 5)
    head = {"site": "edge", "layer": 4, "head": "2", "source": "image", "group": "last", "control": "none"}
    agree = [estimate(only(each, site="edge", measure="correlation")) for each in edges.values()]
    return [estimate(only(frame, **head, measure="exact_restored")), *agree]


def largest_that_hold(frame: pd.DataFrame, site: str, count: int) -> pd.DataFrame:
    """The rows of the largest estimates that hold, which are also told."""
    rows = frame[(frame["site"] == site) & (frame["measure"] == "estimate") & (frame["control"] == "none")]
    rows = rows[rows["survives"].astype(bool)].sort_values("mean", ascending=False).head(count)
    print(rows[["layer", "head", "source", "group", "mean"]].round(2).to_string(index=False), file=sys.stderr)
    return rows


def pair_routes(pairs: int) -> Told:
    of = frames(nv.recipes.pair_routes, pairs, cuts=[0, 9])
    numbers = []
    for frame in of.values():
        for measure, digits in (("percent", 3), ("percent_logit_diff", 1)):
            numbers.append(estimate(only(frame, cut=0, control="none", measure=measure), digits))
        for route in ("direct", "text-mediated"):
            row = only(frame, cut=0, route=route, control="none", measure="restoration")
            print(route, number(row["mean"]), row["images"], file=sys.stderr)
    return Told(numbers=numbers)


def path_patching(pairs: int) -> Told:
    of = frames(nv.recipes.path_patching, pairs, sender=nv.recipes.Place("image", layers=3))
    rows = []
    for name, frame in of.items():
        alive = frame[frame["survives"].astype(bool) & (frame["control"] == "none")]
        changes = alive[alive["measure"] == "logit_diff_change"].sort_values(["layer", "head"])
        print(alive[["receiver", "site", "layer", "head", "measure"]].to_string(index=False), file=sys.stderr)
        heads = changes[(changes["site"] == "head") & (changes["receiver"] == "last")]
        told = "; ".join(f"{row['layer']}.{row['head']}: {estimate(row)}" for _, row in heads.iterrows())
        rows.append([f"`{name}`", f"{frame.attrs['comparisons']}, {len(alive)}", told])
    return Told(markdown(["model", "comparisons, survivors", "heads at `last` that survive"], rows))


RECIPES = {each.__name__: each for each in (patching_map, attribution_map, pair_routes, path_patching)}


def main() -> None:
    parser = measured.parser(__doc__, pairs=12)
    parser.add_argument("recipe", choices=RECIPES)
    options = parser.parse_args()
    told = RECIPES[options.recipe](options.pairs)
    measured.tell(f"recipes/{options.recipe}", told.table, told.numbers)


if __name__ == "__main__":
    main()
