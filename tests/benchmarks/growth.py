"""How a sweep of knock-outs grows in time and memory with image tokens, layers and variants, beside paper.

Run: python tests/benchmarks/growth.py [--quick] [--axis tokens|layers|variants] [--threads 2] [--repeats 3]

Every point is a LLaVA with random weights, float32, and a prompt of its own for every turn. A clean forward and the
sweep as `packed`, as `rows` and one by one (a sample of the variants, scaled) take turns; shown are medians, and the
spread, of each turn's ratio to the clean forward of the same turn. Peak memory is taken in a fresh process each. All
variants are cut from layer 0 on, so that no layer of theirs can be taken from the clean run. `growth.json` gets
everything. `--quick` shows that it runs, on models too small to time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from cases import EXACT, Bench, model_of
from measure import Spread, Work, in_child, interleaved, peak_extra, ratios
from models import ANSWER, SYSTEM, TEXT, Shape
from run import gap, machine, ruled

import nnsight_vlm as nv
from nnsight_vlm.sweeping.execute import TOKENS_BEHIND_PREFIX
from nnsight_vlm.sweeping.memory import needed_bytes

HERE = Path(__file__)
RESULTS = HERE.with_name("growth.json")
QUESTION = TEXT - SYSTEM
"""Tokens behind the image, which every variant changes."""
SHARING = ("packed", "rows")
WAYS = (*SHARING, "single")
MEMORY = 8 * 2**30
"""Budget of a forward: room for every pass here, so that passes are what they are on paper."""
LONG = 2304
"""Image tokens from which on one variant stands for all that are run one by one; below it two do."""
FAR = 3.0
"""An estimate of memory that is off by more than this many times is named."""
PAPER = f"""\
Paper, in FLOPs (width d, MLP 43/16 d): a token costs 2 (4 + 3 x 43/16) d^2 a layer, a pair of query and key 4 d.
A forward of T tokens has T (T + 1) / 2 pairs where it is given no mask, and T^2 where it is.
A sweep that shares is one clean forward, then {QUESTION} tokens a variant, in passes of at most {TOKENS_BEHIND_PREFIX}.
Their keys are what lies before and, packed, the whole pass; as rows, the variant's own tokens. So on paper rows never
cost more: what they copy, the cache of what lies before, is no FLOPs.
One by one is a clean forward, and one a variant with T^2 pairs in the layers that are cut.
Vision and logits are left out."""

Found = dict[str, Any]


# points -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Point:
    """One sweep: a model with its prompt, and how many variants."""

    shape: Shape
    variants: int = 12

    @property
    def before(self) -> int:
        """Tokens that all variants share."""
        return SYSTEM + self.shape.image_tokens

    @property
    def tokens(self) -> int:
        return TEXT + self.shape.image_tokens

    @property
    def reaches(self) -> list[int]:
        """How many layers each variant is cut in, from 1 to all."""
        return [1 + number * self.shape.layers // self.variants for number in range(self.variants)]

    @property
    def passes(self) -> list[int]:
        """How many variants each pass behind the prefix holds."""
        most = TOKENS_BEHIND_PREFIX // QUESTION
        return [min(most, self.variants - first) for first in range(0, self.variants, most)]

    def cases(self) -> list[nv.Intervention]:
        """Windows from layer 0 on; a few system tokens are cut off with the image, so that no two are the same."""
        extra = [[place for place in range(SYSTEM) if number >> place & 1] for number in range(2**SYSTEM)]
        return [
            nv.Knockout(("image", *extra[number % len(extra)]), "query", layers=nv.window(0, reach))
            for number, reach in enumerate(self.reaches)
        ]

    def sample(self) -> list[int]:
        """Numbers of the variants that are run one by one, spread evenly."""
        count = 1 if self.shape.image_tokens >= LONG else 2
        return [round((2 * number + 1) * (self.variants - 1) / (2 * count)) for number in range(count)]

    def bench(self) -> Bench:
        """The model is shared by prompts with more pictures and fewer."""
        return Bench(self.shape, *model_of(replace(self.shape, pictures=1)), quick=False)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What grows, and how far.

    Attributes:
        about: the head of its column.
        values, quick: from small to large; `--quick` takes the latter.
        field: of `Shape`, or `variants`.
        unit: a value is this many times the field.
        width: of the model.
    """

    about: str
    values: tuple[int, ...]
    quick: tuple[int, ...]
    field: str
    unit: int = 1
    width: int = 512

    def points(self, quick: bool) -> dict[int, Point]:
        """The point of each value, all else as in the base."""
        base = Shape(layers=12, width=self.width, heads=self.width // 64, side=12, pictures=4)
        unit, values = self.unit, self.values
        if quick:
            base, values = Shape(layers=2, width=64, heads=4, side=4), self.quick
            unit = min(self.unit, base.side**2)
        if self.field == "variants":
            return {value: Point(shape=base, variants=value) for value in values}
        return {value: Point(shape=replace(base, **{self.field: value // unit})) for value in values}


AXES = {
    "tokens": Axis(
        about="image tokens", values=(144, 576, 1152, 2304, 4608), quick=(16, 64), field="pictures", unit=144
    ),
    "layers": Axis(about="layers", values=(4, 12, 24, 48), quick=(2, 4), field="layers", width=256),
    "variants": Axis(about="variants", values=(4, 12, 32, 128), quick=(4, 12), field="variants"),
}
"""Pictures have 144 tokens, with `--quick` 16; layers grow at half the width, for 48 of them to take no longer."""


# on paper -----------------------------------------------------------------------------------------------------------


def layer_flops(width: int, tokens: int, pairs: float) -> float:
    """What a layer costs for so many tokens, and pairs of a query and a key."""
    return tokens * 2 * (4 + 3 * 43 / 16) * width**2 + 4 * width * pairs


def paper(point: Point) -> dict[str, float]:
    """Each way's FLOPs as a ratio to a clean forward's; see `PAPER`."""
    width, layers, total = point.shape.width, point.shape.layers, point.tokens
    open_layer, cut_layer = (layer_flops(width, total, pairs) for pairs in (total * (total + 1) / 2, total**2))
    clean, sizes = layers * open_layer, [count * QUESTION for count in point.passes]
    packed = sum(layer_flops(width, size, size * (point.before + size)) for size in sizes)
    rows = sum(layer_flops(width, size, size * total) for size in sizes)
    single = sum(reach * cut_layer + (layers - reach) * open_layer for reach in point.reaches)
    return {"packed": 1 + layers * packed / clean, "rows": 1 + layers * rows / clean, "single": 1 + single / clean}


def computed(point: Point) -> dict[str, float]:
    """Tokens x layers of a sweep that shares, and one by one, as ratios to a clean forward's."""
    return {"shared": 1 + point.variants * QUESTION / point.tokens, "single": 1.0 + point.variants}


def estimate(point: Point, model: Any, way: str) -> int:
    """Bytes that `nnsight_vlm.memory` expects of the largest pass, with those of the prefix that is kept meanwhile."""
    kept = needed_bytes(model, 0, 0, point.before, rows=False)
    return kept + needed_bytes(model, max(point.passes), QUESTION, point.before, rows=way == "rows")


# measured -----------------------------------------------------------------------------------------------------------


def swept(point: Point, on: Bench, way: str, prompt: nv.Prompt) -> Any:
    return nv.sweep(on.model, prompt, point.cases(), answer=ANSWER, execution=way, memory=MEMORY)


def cut_alone(point: Point, on: Bench, prompt: nv.Prompt) -> torch.Tensor:
    """The logits of the sample, one by one."""
    cases = point.cases()
    return torch.stack([nv.run(on.model, prompt, cases[number]).logits[ANSWER] for number in point.sample()])


@cache
def warm_up(shape: Shape, ways: Sequence[str]) -> None:
    """What is made once only is no cost of a sweep; a small one of the same model takes it first."""
    small = Point(shape=shape, variants=3)
    on = small.bench()
    for way in ways:
        swept(small, on, way, on.prompt())


def timed(point: Point, on: Bench, repeats: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of every turn of every way, and what each way gave last."""
    gave: dict[str, Any] = {}

    def work(way: str) -> Work:
        alone = way == "single"

        def do(prompt: nv.Prompt) -> None:
            gave[way] = cut_alone(point, on, prompt) if alone else swept(point, on, way, prompt)

        return Work(do=do, ready=on.prompt, times=point.variants / len(point.sample()) if alone else 1.0)

    warm_up(replace(point.shape, pictures=1), WAYS)
    seconds = interleaved({"forward": on.forward(), **{way: work(way) for way in WAYS}}, repeats, warm=0)
    seconds["single"] = [clean + cut for clean, cut in zip(seconds["forward"], seconds["single"], strict=True)]
    return seconds, gave


def measured(point: Point, options: argparse.Namespace) -> Found:
    """Everything there is to say about a point."""
    on = point.bench()
    with torch.no_grad():
        seconds, gave = timed(point, on, options.repeats)
    frames = {way: gave[way] for way in SHARING}
    logits = {way: torch.tensor(frame["logit"].to_numpy()) for way, frame in frames.items()}
    packed = logits["packed"]
    return {
        "shape": asdict(point.shape),
        "variants": point.variants,
        "passes": {"paper": len(point.passes), **{way: frame.attrs["passes"][way] for way, frame in frames.items()}},
        "sample": len(point.sample()),
        "computed": computed(point),
        "paper": paper(point),
        "seconds": seconds,
        "forwards": {way: asdict(ratios(seconds[way], seconds["forward"])) for way in WAYS},
        "packed to": {way: asdict(ratios(seconds["packed"], seconds[way])) for way in ("rows", "single")},
        "gap": max(gap(logits["rows"], packed), gap(gave["single"], packed[point.sample()])),
        "memory": {way: memory(point, on.model, way, options.threads) for way in SHARING},
    }


def memory(point: Point, model: Any, way: str, threads: int) -> dict[str, int]:
    """Bytes by which a fresh process grows in a sweep, and the estimate."""
    told = ["--child", way, json.dumps(asdict(point)), "--threads", str(threads)]
    return {"peak": int(in_child(HERE, told)), "estimate": estimate(point, model, way)}


def child(way: str, told: str) -> None:
    """What a fresh process does: print by how much one sweep lets it grow."""
    found = json.loads(told)
    point = Point(shape=Shape(**found["shape"]), variants=found["variants"])
    on = point.bench()
    with torch.no_grad():
        warm_up(replace(point.shape, pictures=1), (way,))
        prompt = on.prompt()
        print(json.dumps(peak_extra(lambda: swept(point, on, way, prompt))))


# tables -------------------------------------------------------------------------------------------------------------


def table(name: str, found: Mapping[int, Found], quick: bool) -> str:
    """An axis, with a title that says what stays as it is."""
    axis = AXES[name]
    head = [axis.about, "tokens x layers: shared, one by one", "packed: on paper, measured", "rows: on paper, measured"]
    head += ["one by one, scaled: on paper, measured", "packed: MiB, estimate", "rows: MiB, estimate"]
    return f"{title(axis, quick)}\n\n{ruled([head, *(_row(value, one) for value, one in found.items())])}"


def title(axis: Axis, quick: bool) -> str:
    point = next(iter(axis.points(quick).values()))
    fixed = {"pictures": f"{point.shape.image_tokens} image tokens", "layers": f"{point.shape.layers} layers"}
    fixed |= {"variants": f"{point.variants} variants"}
    stays = [about for field, about in fixed.items() if field != axis.field]
    return f"**By {axis.about}** ({', '.join(stays)}, {point.shape.width} wide; times in clean forwards)"


def _row(value: int, found: Found) -> list[str]:
    tokens, mib = found["computed"], 2**20
    times = [f"{found['paper'][way]:.2f}, {spread(found['forwards'][way])}" for way in WAYS]
    held = [f"{one['peak'] / mib:.0f}, {one['estimate'] / mib:.0f}" for one in found["memory"].values()]
    return [str(value), f"{tokens['shared']:.2f}, {tokens['single']:.0f}", *times, *held]


def spread(found: Mapping[str, float]) -> str:
    one = Spread(**found)
    return f"{one.median:.2f} [{one.least:.2f}..{one.most:.2f}]"


def verdict(axes: Mapping[str, Mapping[int, Found]]) -> str:
    """One sentence: where packing stops paying."""
    told = [
        f"by {AXES[name].about}, against rows {_stops(found, 'rows')}, against one by one {_stops(found, 'single')}"
        for name, found in axes.items()
    ]
    return f"Packing stops paying: {'; '.join(told)}."


def _stops(found: Mapping[int, Found], way: str) -> str:
    """The values at which a packed sweep takes no less than another way."""
    took = {value: one["packed to"][way]["median"] for value, one in found.items()}
    at = [f"{value} ({ratio:.2f} x)" for value, ratio in took.items() if ratio >= 1]
    return f"at {', '.join(at)}" if at else f"nowhere up to {max(found)} (there {took[max(found)]:.2f} x)"


def remarks(axes: Mapping[str, Mapping[int, Found]]) -> list[str]:
    """What is not as it ought to be: numbers that differ, other passes than on paper, estimates that are far off."""
    told = []
    for name, value, one in [(name, value, one) for name, found in axes.items() for value, one in found.items()]:
        where = f"{AXES[name].about} {value}"
        if one["gap"] > EXACT:
            told.append(f"NUMBERS DIFFER at {where}: {one['gap']:.0e}")
        if len(set(one["passes"].values())) > 1:
            told.append(f"other passes than on paper at {where}: {one['passes']}")
        for way, held in one["memory"].items():
            off = held["estimate"] / max(held["peak"], 1)
            if not 1 / FAR <= off <= FAR:
                told.append(f"estimate of memory off at {where}, {way}: {off:.2g} x what was taken")
    return told


# all of it ----------------------------------------------------------------------------------------------------------


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.child:
        child(*options.child)
        return
    start = time.perf_counter()
    known: dict[Point, Found] = {}
    axes: dict[str, dict[int, Found]] = {}
    for name in [options.axis] if options.axis else AXES:
        axes[name] = {}
        for value, point in AXES[name].points(options.quick).items():
            if point not in known:
                known[point] = measured(point, options)
            axes[name][value] = known[point]
            took = f"{time.perf_counter() - start:.0f} s"
            print(f"{AXES[name].about} {value}: {took}", file=sys.stderr, flush=True)
    found = {"machine": machine(options), "quick": options.quick, "axes": axes}
    RESULTS.write_text(json.dumps(found, indent=1))
    tables = [table(name, one, options.quick) for name, one in axes.items()]
    print("\n\n".join([PAPER, *tables, "\n".join([*remarks(axes), verdict(axes)])]))
    print(f"{time.perf_counter() - start:.0f} s; {machine(options)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, two values an axis, one turn")
    parser.add_argument("--axis", choices=list(AXES), help="this one only")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--repeats", type=int, default=None, help="turns; default 3, with --quick 1")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
