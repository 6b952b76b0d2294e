"""The side-by-side table: what interventions cost here, done naively, and with other tools, from one run.

Run: python tests/benchmarks/run.py [--quick] [--peers] [--only NAME ...]

Models have random weights and are built from configs. All ways of a line take turns; shown are medians, and the spread
(least..greatest), of each turn's ratio to the clean forward of the same turn. Numbers must agree to 1e-4 before timing
counts. `results.json` gets everything; ratios, never seconds, are compared with the committed `baseline.json`
(`--save-baseline` writes it). `--quick` shows that everything runs, on models too small to time.
Peers need their environments once: python tests/benchmarks/peers.py
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import peers as tools
import torch
from cases import EXACT, LINES, Bench, Line, Sides, bench
from measure import Spread, Work, in_child, interleaved, ratios
from models import ANSWER, prompt_of, save

import nnsight_vlm as nv

HERE = Path(__file__).parent
RESULTS, BASELINE = HERE / "results.json", HERE / "baseline.json"
MOVED = 0.15
"""A ratio that moved by more than this share of the baseline's is named."""
MEMORY = ("share-576", "share-2880")
MEMORY_REACH = 20.0
PEER_REACH = {("windows-576", "vlmprobe"): 10.0}
"""How many times faster than a peer we have to be."""

Found = dict[str, Any]


# agreement ----------------------------------------------------------------------------------------------------------


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Greatest difference; NaN or another shape is infinitely far."""
    if found.numel() != expected.numel():
        return float("inf")
    away = (found.double().flatten() - expected.double().flatten()).abs().max()
    return float(away) if bool(away.isfinite()) else float("inf")


def agreement(sides: Sides) -> Found:
    """How far the two ways' numbers lie apart, and how far the interventions moved them."""
    with torch.no_grad():
        expected = sides.naive_says()
        apart = gap(sides.ours_says(), expected)
        moved = None if sides.clean is None else gap(expected, sides.clean())
    return {"gap": apart, "moved": moved, "agrees": apart <= EXACT}


# peers --------------------------------------------------------------------------------------------------------------


def peer_works(line: Line, on: Bench, running: Mapping[str, tools.Peer], folder: Path) -> tuple[dict[str, Work], Found]:
    """What each peer is asked for in its turns, and how it did: its numbers against ours, or its error."""
    if not line.peers or not running:
        return {}, {}
    save(folder, on.module, on.shape)
    expected = _on_saved(line, on)
    works, told = {}, {}
    for name, peer in running.items():
        clean, answer = peer.ask(folder, "clean"), peer.ask(folder, line.peers)
        problem = clean.get("error") or answer.get("error")
        if problem:
            told[name] = {"error": problem}
            continue
        apart = gap(torch.tensor(answer["values"]), expected)
        told[name] = {"gap": apart, "agrees": apart <= EXACT}
        works[name] = _asked(peer, folder, line.peers)
        works[f"{name}, clean"] = _asked(peer, folder, "clean")
    return works, told


def _asked(peer: tools.Peer, folder: Path, case: str) -> Work:
    return Work(do=lambda _: peer.ask(folder, case)["seconds"], tells=True, warm=True)


def _on_saved(line: Line, on: Bench) -> torch.Tensor:
    """Our numbers on the prompt that peers are handed."""
    prompt = prompt_of(on.model, on.shape)
    if line.peers == "share":
        return nv.run(on.model, prompt, reads=[nv.Attention("query", "image", reduce="mass")]).reads[0]
    if line.peers == "all layers":
        return nv.run(on.model, prompt, nv.Knockout("image", "text")).logits[ANSWER]
    variants = [nv.Knockout("image", "text", layers=layer) for layer in on.layers]
    return torch.tensor(nv.sweep(on.model, prompt, variants, answer=ANSWER)["logit"].to_numpy())


# one line -----------------------------------------------------------------------------------------------------------


def measured(name: str, options: argparse.Namespace, running: Mapping[str, tools.Peer], scratch: Path) -> Found:
    """Everything there is to say about a line."""
    line = LINES[name]
    on = bench(line, options.quick)
    sides = line.sides(on)
    found: Found = {"work": line.work, "figure": line.figure, "reach": line.reach, "note": sides.note}
    found |= agreement(sides)
    works, told = peer_works(line, on, running, scratch / line.shape)
    ran = {"ours": replace(sides.ours, warm=True), "naive": replace(sides.naive, warm=True)}  # for `agreement`
    works = {"forward": on.forward(), **ran, **(sides.others or {}), **works}
    with torch.no_grad():
        seconds = interleaved(works, options.repeats)
    found["seconds"] = seconds
    found["forwards"] = {way: asdict(ratios(taken, seconds["forward"])) for way, taken in seconds.items()}
    found["value"] = asdict(value(line, seconds))
    found["reached"] = found["agrees"] and reached(line.figure, found["value"]["median"], line.reach)
    for peer in (way for way in told if "error" not in told[way]):
        told[peer]["faster"] = asdict(ratios(seconds[peer], seconds["ours"]))
        told[peer]["own forwards"] = asdict(ratios(seconds[peer], seconds[f"{peer}, clean"]))
    found["peers"] = told
    if name in MEMORY:
        found["memory"] = memory(name, options.quick)
    return found


def value(line: Line, seconds: Mapping[str, Sequence[float]]) -> Spread:
    """The line's own figure, see `Line`."""
    if line.figure == "forwards":
        return ratios(seconds["ours"], seconds["forward"])
    if line.figure == "faster":
        return ratios(seconds["naive"], seconds["ours"])
    over = [1000 * (ours - empty) for ours, empty in zip(seconds["ours"], seconds["empty trace"], strict=True)]
    return Spread.of(over)


def reached(figure: str, found: float, reach: float) -> bool:
    """Whether a figure is good enough."""
    return found >= reach if figure == "faster" else found <= reach


def memory(name: str, quick: bool) -> Found:
    """Peak extra bytes of each way over those of one clean forward, each in a process of its own."""
    flags = ["--quick"] if quick else []
    peaks = {way: int(in_child(HERE / "memory.py", [name, way, *flags])) for way in ("forward", "ours", "naive")}
    ours, naive = (max(peaks[way] - peaks["forward"], 0) for way in ("ours", "naive"))
    enough = naive >= MEMORY_REACH * ours
    return {"forward": peaks["forward"], "ours": ours, "naive": naive, "reach": MEMORY_REACH, "reached": enough}


# the table ----------------------------------------------------------------------------------------------------------

UNITS = {"forwards": "x a forward", "faster": "x faster", "fixed": "ms"}


def table(lines: Mapping[str, Found]) -> str:
    """Work, what is to be reached, ours and the naive way; then one row a peer and piece of work."""
    head = ["work", "to reach", "ours [least..most]", "one by one, naive", "same numbers (effect)"]
    rows = [_row(found) for found in lines.values()]
    rows += [_memory_row(found) for found in lines.values() if "memory" in found]
    told = [_peer_row(name, found, peer) for name, found in lines.items() for peer in found["peers"]]
    others = ["work", "peer", "to reach", "ours is [least..most]", "it takes", "same numbers"]
    return ruled([head, *rows]) + ("\n\n" + ruled([others, *told]) if told else "")


def ruled(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lengths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [rows[0], ["-" * length for length in lengths], *rows[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, row, lengths)) + " |" for row in lines)


def _row(found: Found) -> list[str]:
    unit, value = UNITS[found["figure"]], found["value"]
    most = "at least" if found["figure"] == "faster" else "at most"
    ours = f"{value['median']:.2f} [{value['least']:.2f}..{value['most']:.2f}] {unit}"
    ours += f" ({found['forwards']['ours']['median']:.2f} forwards)" if found["figure"] == "faster" else ""
    naive = f"{found['forwards']['naive']['median']:.2f} forwards" + (f" ({found['note']})" if found["note"] else "")
    effect = "" if found["moved"] is None else f" ({found['moved']:.2g})"
    agrees = f"{'yes' if found['agrees'] else 'NO'}, {found['gap']:.0e}{effect}"
    return [found["work"], f"{most} {found['reach']:g} {unit}", _mark(found) + ours, naive, agrees]


def _mark(found: Found) -> str:
    return "" if found["reached"] else "MISSED "


def _peer_row(name: str, found: Found, peer: str) -> list[str]:
    work, about, told = found["work"], tools.KINDS[peer].about, found["peers"][peer]
    reach = PEER_REACH.get((name, peer))
    wanted = f"at least {reach:g} x faster" if reach else ""
    if "error" in told:
        return [work, about, wanted, "", f"cannot: {told['error'][:100]}", ""]
    faster, own = told["faster"], told["own forwards"]
    spread = f"{faster['median']:.1f} [{faster['least']:.1f}..{faster['most']:.1f}] x faster"
    mark = "MISSED " if reach and faster["median"] < reach else ""
    same = f"{'yes' if told['agrees'] else 'NO'}, {told['gap']:.0e}"
    return [work, about, wanted, mark + spread, f"{own['median']:.2f} of its own forwards", same]


def _memory_row(found: Found) -> list[str]:
    held, mib = found["memory"], 2**20
    ours, naive = (
        f"{held[way] / mib:.1f} MiB over a forward's {held['forward'] / mib:.1f}" for way in ("ours", "naive")
    )
    return [f"{found['work']}: peak memory", f"at most 1/{held['reach']:g} of eager", _mark(held) + ours, naive, ""]


# against the baseline -----------------------------------------------------------------------------------------------


def moved(lines: Mapping[str, Found], baseline: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Ratios that are not what they were, one line each."""
    return [
        f"{name}, {way}: {before:.2f} -> {now[way]:.2f} forwards ({now[way] / before - 1:+.0%})"
        for name, found in lines.items()
        for now in [kept(found)]
        for way, before in baseline.get(name, {}).items()
        if way in now and abs(now[way] / before - 1) > MOVED
    ]


def kept(found: Found) -> dict[str, float]:
    """The ratios of a line that a baseline keeps."""
    return {way: round(one["median"], 3) for way, one in found["forwards"].items() if way != "forward"}


def machine(options: argparse.Namespace) -> Found:
    """What the figures were taken on."""
    versions = {name: version(name) for name in ("torch", "transformers", "nnsight")}
    return {"python": platform.python_version(), **versions, "threads": options.threads, "repeats": options.repeats}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    start, names = time.perf_counter(), [name for name in LINES if not options.only or name in options.only]
    wanted = [name for name in tools.KINDS if options.peers]
    missing = [name for name in wanted if not tools.made(name)]
    if missing:
        sys.exit(f"no environment for {', '.join(missing)}; run: python tests/benchmarks/peers.py")
    lines: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as scratch, tools.running(wanted, options.threads) as running:
        for name in names:
            lines[name] = measured(name, options, running, Path(scratch))
            one = lines[name]
            print(f"{name}: {one['value']['median']:.2f} {UNITS[one['figure']]}", file=sys.stderr, flush=True)
    print(table(lines))
    print(f"{time.perf_counter() - start:.0f} s; {machine(options)}")
    report(lines, options)


def report(lines: Mapping[str, Found], options: argparse.Namespace) -> None:
    """Write `results.json`, and compare with the baseline or write that."""
    RESULTS.write_text(json.dumps({"machine": machine(options), "quick": options.quick, "lines": lines}, indent=1))
    if options.quick:
        return
    known = json.loads(BASELINE.read_text())["forwards"] if BASELINE.exists() else {}
    if options.save_baseline:
        entries = known | {name: kept(found) for name, found in lines.items()}
        BASELINE.write_text(json.dumps({"machine": machine(options), "forwards": entries}, indent=1) + "\n")
    changed = moved(lines, known)
    as_it_was = "as in the baseline" if known else "no baseline.json to compare with; --save-baseline writes one"
    print("\n".join(["moved by more than 15 % of the baseline:", *changed]) if changed else as_it_was)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, one turn: shows that everything runs")
    parser.add_argument("--peers", action="store_true", help="other tools too; see peers.py")
    parser.add_argument("--only", nargs="+", choices=list(LINES), help="these lines only")
    parser.add_argument("--save-baseline", action="store_true", help="keep this run's ratios as the baseline")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default 2, with --quick 1")
    parser.add_argument("--repeats", type=int, default=None, help="turns that count; default 3, with --quick 1")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.threads = options.threads or (1 if options.quick else 2)
    return options


if __name__ == "__main__":
    main()
