"""How time and memory of a sweep of knockouts grow with image tokens, layers and variants, against calculation.

Run: python tests/benchmarks/growth.py [--quick] [--axis tokens|layers|variants] [--threads 2] [--repeats 3]

Every point is a LLaVA with random weights in float32; every turn has a new prompt. In each turn a clean forward runs,
then the sweep as `packed`, as `rows` and one by one (a sample of the variants, scaled). The table shows the median and
the spread of each turn's ratio to its clean forward. Peak memory is measured in fresh processes. All variants are cut
from layer 0 on, so that none of their layers can be taken from the clean run. `growth.json` gets all results. `--quick`
only shows that it runs, on models too small to time.
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
from typing import Any, Literal, NamedTuple, get_args

sys.path.insert(0, str(Path(__file__).parent))

import torch
from cases import TOLERANCE, Bench, model_of
from measure import Spread, Task, in_child, interleaved, peak_extra, ratios
from models import ANSWER, SYSTEM, TEXT, ModelSize, prompt_of
from run import largest_difference, machine
from tables import markdown_table

import nnsight_vlm as nv
from nnsight_vlm.sweeping.arrangement import TOKENS_BEHIND_PREFIX
from nnsight_vlm.sweeping.memory import Cuts, forward_of_variants, kept_bytes
from nnsight_vlm.sweeping.schedule import Batch

THIS_FILE = Path(__file__)
RESULTS = THIS_FILE.with_name("growth.json")
QUESTION = TEXT - SYSTEM
"""Tokens after the image, which every variant changes."""
Sharing = Literal["packed", "rows"]
Way = Literal["packed", "rows", "single"]
SHARING: tuple[Sharing, ...] = get_args(Sharing)
WAYS: tuple[Way, ...] = get_args(Way)
MEMORY = 8 * 2**30
"""The memory budget of a forward: enough for every forward here to be as large as calculated."""
LONG = 2304
"""With at least this many image tokens one variant is run one by one, as the sample of all; with fewer, two are."""
MEMORY_FACTOR = 3.0
"""A memory estimate that is wrong by more than this factor is reported."""
CALCULATION = f"""\
Calculated in FLOPs (width d, MLP 43/16 d): per layer a token costs 2 (4 + 3 x 43/16) d^2, a pair of query and key 4 d.
A forward of T tokens has T (T + 1) / 2 pairs without an explicit mask, and T^2 with one.
A sweep that shares is one clean forward, then {QUESTION} tokens per variant, in forwards of at most
{TOKENS_BEHIND_PREFIX} tokens. Their keys are the prefix and, packed, all tokens of the forward; as rows, the variant's
own tokens. So in this calculation rows never cost more: copying the cache of the prefix takes no FLOPs.
One by one is a clean forward, and one forward per variant with T^2 pairs in the layers that are cut.
Vision and logits are left out."""

Result = dict[str, Any]


# points -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Point:
    """One sweep: the size of its model and prompt, and how many variants it has."""

    size: ModelSize
    variants: int = 12

    @property
    def prefix(self) -> int:
        """Tokens that all variants share."""
        return SYSTEM + self.size.image_tokens

    @property
    def tokens(self) -> int:
        return TEXT + self.size.image_tokens

    @property
    def cut_layers(self) -> list[int]:
        """In how many layers each variant is cut, from 1 to all."""
        return [1 + number * self.size.layers // self.variants for number in range(self.variants)]

    @property
    def forwards(self) -> list[int]:
        """How many variants each forward behind the prefix holds."""
        most = TOKENS_BEHIND_PREFIX // QUESTION
        return [min(most, self.variants - first) for first in range(0, self.variants, most)]

    def cases(self) -> list[nv.Intervention]:
        """Knockouts in windows from layer 0 on; sources include some system tokens, so that no two are the same."""
        extra = [[position for position in range(SYSTEM) if number >> position & 1] for number in range(2**SYSTEM)]
        return [
            nv.Knockout(("image", *extra[number % len(extra)]), "query", layers=nv.window(0, count))
            for number, count in enumerate(self.cut_layers)
        ]

    def sample(self) -> list[int]:
        """The numbers of the variants that are run one by one, spread evenly."""
        count = 1 if self.size.image_tokens >= LONG else 2
        return [round((2 * number + 1) * (self.variants - 1) / (2 * count)) for number in range(count)]

    def bench(self) -> Bench:
        """What it runs on; points that only differ in their number of pictures share a model."""
        return Bench(self.size, *model_of(replace(self.size, pictures=1)), quick=False)


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What grows, and how far.

    Attributes:
        title: the head of its column.
        values: from small to large.
        quick_values: the same with `--quick`.
        field: the field of `ModelSize` that grows, or `variants`.
        unit: by how much a value grows when the field grows by one.
        width: of the model.
    """

    title: str
    values: tuple[int, ...]
    quick_values: tuple[int, ...]
    field: Literal["pictures", "layers", "variants"]
    unit: int = 1
    width: int = 512

    def points(self, quick: bool) -> dict[int, Point]:
        """The point of each value; everything else stays the same."""
        base = ModelSize(layers=12, width=self.width, heads=self.width // 64, side=12, pictures=4)
        unit, values = self.unit, self.values
        if quick:
            base, values = ModelSize(layers=2, width=64, heads=4, side=4), self.quick_values
            unit = min(self.unit, base.side**2)
        if self.field == "variants":
            return {value: Point(size=base, variants=value) for value in values}
        return {value: Point(size=replace(base, **{self.field: value // unit})) for value in values}


AXES = {
    "tokens": Axis(
        title="image tokens", values=(144, 576, 1152, 2304, 4608), quick_values=(16, 64), field="pictures", unit=144
    ),
    "layers": Axis(title="layers", values=(4, 12, 24, 48), quick_values=(2, 4), field="layers", width=256),
    "variants": Axis(title="variants", values=(4, 12, 32, 128), quick_values=(4, 12), field="variants"),
}
"""A picture has 144 tokens, with `--quick` 16. Layers grow at half the width, so that 48 of them take no longer."""


# calculated ---------------------------------------------------------------------------------------------------------


def layer_flops(width: int, tokens: int, pairs: float) -> float:
    """FLOPs of a layer for this many tokens, and pairs of a query and a key."""
    return tokens * 2 * (4 + 3 * 43 / 16) * width**2 + 4 * width * pairs


def calculated(point: Point) -> dict[Way, float]:
    """The FLOPs of each way as a ratio to a clean forward's; see `CALCULATION`."""
    width, layers, total = point.size.width, point.size.layers, point.tokens
    open_layer, cut_layer = (layer_flops(width, total, pairs) for pairs in (total * (total + 1) / 2, total**2))
    clean, tokens = layers * open_layer, [count * QUESTION for count in point.forwards]
    packed = sum(layer_flops(width, count, count * (point.prefix + count)) for count in tokens)
    rows = sum(layer_flops(width, count, count * total) for count in tokens)
    single = sum(count * cut_layer + (layers - count) * open_layer for count in point.cut_layers)
    return {"packed": 1 + layers * packed / clean, "rows": 1 + layers * rows / clean, "single": 1 + single / clean}


def tokens_times_layers(point: Point) -> dict[str, float]:
    """Tokens x layers of a sweep that shares, and of one that runs one by one, as ratios to a clean forward's."""
    return {"shared": 1 + point.variants * QUESTION / point.tokens, "single": 1.0 + point.variants}


def estimate(point: Point, model: Any, way: Sharing) -> int:
    """Bytes that `nnsight_vlm.sweeping.memory` expects of the largest forward and of the prefix that is kept."""
    prompt, cases = prompt_of(model, point.size), point.cases()
    position = prompt.width - QUESTION
    batch = Batch(numbers=tuple(range(len(cases))), way=way, position=position, shares_prefix=True)
    forward = forward_of_variants(model, prompt, batch, max(point.forwards), cuts=Cuts.of(cases))
    return kept_bytes(model, prompt, ()) + forward.total


# measured -----------------------------------------------------------------------------------------------------------


class Timings(NamedTuple):
    """What `timed` measured.

    Attributes:
        seconds: of every turn, by way; `forward` is the clean forward.
        results: what each way returned last.
    """

    seconds: dict[str, list[float]]
    results: dict[Way, Any]


def swept(point: Point, on: Bench, way: Way, prompt: nv.Prompt) -> Any:
    return nv.sweep(on.model, prompt, point.cases(), answer=ANSWER, execution=way, memory=MEMORY)


def cut_alone(point: Point, on: Bench, prompt: nv.Prompt) -> torch.Tensor:
    """The answer's logit of each variant of the sample, run one by one."""
    cases = point.cases()
    return torch.stack([nv.run(on.model, prompt, cases[number]).logits[ANSWER] for number in point.sample()])


@cache
def warm_up(size: ModelSize, ways: Sequence[Way]) -> None:
    """Run a small sweep with the same model first, so that what is allocated only once does not count."""
    small = Point(size=size, variants=3)
    on = small.bench()
    for way in ways:
        swept(small, on, way, on.prompt())


def timed(point: Point, on: Bench, repeats: int) -> Timings:
    """Time every way of a point, in turns."""
    results: dict[Way, Any] = {}

    def task(way: Way) -> Task:
        def run(prompt: nv.Prompt) -> None:
            results[way] = cut_alone(point, on, prompt) if way == "single" else swept(point, on, way, prompt)

        scale = point.variants / len(point.sample()) if way == "single" else 1.0
        return Task(run=run, prepare=on.prompt, scale=scale)

    warm_up(replace(point.size, pictures=1), WAYS)
    seconds = interleaved({"forward": on.forward(), **{way: task(way) for way in WAYS}}, repeats, warmups=0)
    seconds["single"] = [clean + cut for clean, cut in zip(seconds["forward"], seconds["single"], strict=True)]
    return Timings(seconds, results)


def measured(point: Point, options: argparse.Namespace) -> Result:
    """All results of a point."""
    on = point.bench()
    with torch.no_grad():
        seconds, results = timed(point, on, options.repeats)
    logits = {way: torch.tensor(results[way]["logit"].to_numpy()) for way in SHARING}
    packed, sample = logits["packed"], point.sample()
    forwards_run = {way: results[way].attrs["passes"][way] for way in SHARING}
    return {
        "size": asdict(point.size),
        "variants": point.variants,
        "forwards run": {"calculated": len(point.forwards), **forwards_run},
        "sample": len(sample),
        "tokens x layers": tokens_times_layers(point),
        "calculated": calculated(point),
        "seconds": seconds,
        "forwards": {way: asdict(ratios(seconds[way], seconds["forward"])) for way in WAYS},
        "packed to": {way: asdict(ratios(seconds["packed"], seconds[way])) for way in ("rows", "single")},
        "difference": max(
            largest_difference(logits["rows"], packed), largest_difference(results["single"], packed[sample])
        ),
        "memory": {way: memory(point, on.model, way, options.threads) for way in SHARING},
    }


def memory(point: Point, model: Any, way: Sharing, threads: int) -> dict[str, int]:
    """The peak extra bytes of a sweep in a fresh process, and their estimate."""
    arguments = ["--child", way, json.dumps(asdict(point)), "--threads", str(threads)]
    return {"peak": int(in_child(THIS_FILE, arguments)), "estimate": estimate(point, model, way)}


def child(way: Sharing, point_json: str) -> None:
    """Print the peak extra bytes of one sweep; runs in a fresh process."""
    fields = json.loads(point_json)
    point = Point(size=ModelSize(**fields["size"]), variants=fields["variants"])
    on = point.bench()
    with torch.no_grad():
        warm_up(replace(point.size, pictures=1), (way,))
        prompt = on.prompt()
        print(json.dumps(peak_extra(lambda: swept(point, on, way, prompt))))


# tables -------------------------------------------------------------------------------------------------------------


def table(name: str, results: Mapping[int, Result], quick: bool) -> str:
    """The table of an axis, with a title that says what stays the same."""
    axis = AXES[name]
    head = [axis.title, "tokens x layers: shared, one by one"]
    head += ["packed: calculated, measured", "rows: calculated, measured", "one by one, scaled: calculated, measured"]
    head += ["packed: MiB, estimate", "rows: MiB, estimate"]
    lines = [_table_row(value, result) for value, result in results.items()]
    return f"{title(axis, quick)}\n\n{markdown_table([head, *lines])}"


def title(axis: Axis, quick: bool) -> str:
    point = next(iter(axis.points(quick).values()))
    fields = {"pictures": f"{point.size.image_tokens} image tokens", "layers": f"{point.size.layers} layers"}
    fields |= {"variants": f"{point.variants} variants"}
    constant = [text for field, text in fields.items() if field != axis.field]
    return f"**By {axis.title}** ({', '.join(constant)}, {point.size.width} wide; times in clean forwards)"


def _table_row(value: int, result: Result) -> list[str]:
    tokens, mib = result["tokens x layers"], 2**20
    times = [f"{result['calculated'][way]:.2f}, {spread(result['forwards'][way])}" for way in WAYS]
    sizes = [f"{memory['peak'] / mib:.0f}, {memory['estimate'] / mib:.0f}" for memory in result["memory"].values()]
    return [str(value), f"{tokens['shared']:.2f}, {tokens['single']:.0f}", *times, *sizes]


def spread(fields: Mapping[str, float]) -> str:
    turns = Spread(**fields)
    return f"{turns.median:.2f} [{turns.least:.2f}..{turns.most:.2f}]"


def verdict(axes: Mapping[str, Mapping[int, Result]]) -> str:
    """One sentence: where packing stops paying."""
    parts = [
        f"by {AXES[name].title}, against rows {_stops(results, 'rows')}, against one by one {_stops(results, 'single')}"
        for name, results in axes.items()
    ]
    return f"Packing stops paying: {'; '.join(parts)}."


def _stops(results: Mapping[int, Result], way: Literal["rows", "single"]) -> str:
    """The values at which a packed sweep is not faster than another way."""
    times = {value: result["packed to"][way]["median"] for value, result in results.items()}
    slower = [f"{value} ({ratio:.2f} x)" for value, ratio in times.items() if ratio >= 1]
    return f"at {', '.join(slower)}" if slower else f"nowhere up to {max(times)} (there {times[max(times)]:.2f} x)"


def warnings(axes: Mapping[str, Mapping[int, Result]]) -> list[str]:
    """What is not as expected: numbers that differ, the number of forwards, memory estimates that are far off."""
    lines = []
    points = [(name, value, result) for name, results in axes.items() for value, result in results.items()]
    for name, value, result in points:
        point = f"{AXES[name].title} {value}"
        if result["difference"] > TOLERANCE:
            lines.append(f"NUMBERS DIFFER at {point}: {result['difference']:.0e}")
        if len(set(result["forwards run"].values())) > 1:
            lines.append(f"not as many forwards as calculated at {point}: {result['forwards run']}")
        for way, memory in result["memory"].items():
            ratio = memory["estimate"] / max(memory["peak"], 1)
            if not 1 / MEMORY_FACTOR <= ratio <= MEMORY_FACTOR:
                lines.append(f"memory estimate at {point}, {way}: {ratio:.2g} x the measured peak")
    return lines


# the command line ---------------------------------------------------------------------------------------------------


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.child:
        child(*options.child)
        return
    start = time.perf_counter()
    results: dict[Point, Result] = {}
    axes: dict[str, dict[int, Result]] = {}
    for name in [options.axis] if options.axis else AXES:
        axes[name] = {}
        for value, point in AXES[name].points(options.quick).items():
            if point not in results:
                results[point] = measured(point, options)
            axes[name][value] = results[point]
            elapsed = f"{time.perf_counter() - start:.0f} s"
            print(f"{AXES[name].title} {value}: {elapsed}", file=sys.stderr, flush=True)
    RESULTS.write_text(json.dumps({"machine": machine(options), "quick": options.quick, "axes": axes}, indent=1))
    tables = [table(name, points, options.quick) for name, points in axes.items()]
    print("\n\n".join([CALCULATION, *tables, "\n".join([*warnings(axes), verdict(axes)])]))
    print(f"{time.perf_counter() - start:.0f} s; {machine(options)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, two values per axis, one turn")
    parser.add_argument("--axis", choices=list(AXES), help="measure only this axis")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--repeats", type=int, default=None, help="turns; default 3, with --quick 1")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    return options


if __name__ == "__main__":
    main()
