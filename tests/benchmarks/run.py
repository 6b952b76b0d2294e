"""The benchmark table: what interventions cost with this package, with naive code and with other tools, in one run.

Run: python tests/benchmarks/run.py [--quick] [--peers] [--only NAME ...]

Models have random weights and are built from configs. All ways of doing the same work take turns; the table shows the
median and the spread (least..greatest) of each turn's ratio to the clean forward of the same turn. Timing only counts
where the numbers of both ways agree to 1e-4. `results.json` gets all results; ratios, never seconds, are compared with
the committed `baseline.json` (`--save-baseline` writes it). `--quick` only shows that everything runs, on models too
small to time: a target that is missed there means nothing. Peers need virtual environments, which are made once:
python tests/benchmarks/peers.py
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
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import peers as tools
import torch
from cases import LINES, TOLERANCE, Bench, Comparison, Figure, Line, bench
from measure import Spread, Task, in_child, interleaved, ratios
from models import ANSWER, prompt_of, save
from tables import UNITS, Result, table

import nnsight_vlm as nv

FOLDER = Path(__file__).parent
RESULTS, BASELINE = FOLDER / "results.json", FOLDER / "baseline.json"
LARGEST_CHANGE = 0.15
"""A ratio that differs from the baseline's by more than this share of it is reported."""
MEMORY_LINES = ("share-576", "share-2880", "contribution-576", "lens-576", "lens-2880")
"""The lines whose peak memory is measured too."""
MEMORY_TARGET = 20.0
"""How many times less memory than the naive way this package has to take."""


class PeerTasks(NamedTuple):
    """What peers run for a line.

    Attributes:
        tasks: to time, by peer; "<peer>, clean" is the peer's own clean forward.
        results: how each peer's numbers compare with ours, or its error.
    """

    tasks: dict[str, Task]
    results: Result


# agreement ----------------------------------------------------------------------------------------------------------


def largest_difference(values: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest absolute difference; infinite where there is a NaN or the number of values differs."""
    if values.numel() != expected.numel():
        return float("inf")
    difference = (values.double().flatten() - expected.double().flatten()).abs().max()
    return float(difference) if bool(difference.isfinite()) else float("inf")


def agreement(comparison: Comparison) -> Result:
    """How far the numbers of the two ways differ, and how far the interventions moved them (`effect`)."""
    with torch.no_grad():
        expected, clean = comparison.naive_numbers(), comparison.clean_numbers
        difference = largest_difference(comparison.our_numbers(), expected)
        effect = None if clean is None else largest_difference(expected, clean())
    return {"difference": difference, "effect": effect, "agrees": difference <= TOLERANCE}


# peers --------------------------------------------------------------------------------------------------------------


def peer_tasks(line: Line, on: Bench, running: Mapping[str, tools.Peer], folder: Path) -> PeerTasks:
    """Run each peer once, compare its numbers with ours, and make its tasks.

    Args:
        line: the line of the table.
        on: our model.
        running: the peers' processes, by name.
        folder: where the model is saved for them.
    """
    if line.peer_case is None or not running:
        return PeerTasks({}, {})
    save(folder, on.module, on.size)
    expected = _our_numbers(line, on)
    tasks, results = {}, {}
    for name, peer in running.items():
        clean, answer = peer.ask(folder, "clean"), peer.ask(folder, line.peer_case)
        error = clean.get("error") or answer.get("error")
        if error:
            results[name] = {"error": error}
            continue
        difference = largest_difference(torch.tensor(answer["values"]), expected)
        results[name] = {"difference": difference, "agrees": difference <= TOLERANCE}
        tasks[name] = _peer_task(peer, folder, line.peer_case)
        tasks[f"{name}, clean"] = _peer_task(peer, folder, "clean")
    return PeerTasks(tasks, results)


def _peer_task(peer: tools.Peer, folder: Path, case: str) -> Task:
    return Task(run=lambda _: peer.ask(folder, case)["seconds"], reports_seconds=True, is_warm=True)


def _our_numbers(line: Line, on: Bench) -> torch.Tensor:
    """Our numbers on the prompt that is saved for peers."""
    prompt = prompt_of(on.model, on.size)
    if line.peer_case == "share":
        return nv.run(on.model, prompt, reads=[nv.Attention("query", "image", reduce="mass")]).reads[0]
    if line.peer_case == "all layers":
        return nv.run(on.model, prompt, nv.Knockout("image", "text")).logits[ANSWER]
    variants = [nv.Knockout("image", "text", layers=layer) for layer in on.layers]
    return torch.tensor(nv.sweep(on.model, prompt, variants, answer=ANSWER)["logit"].to_numpy())


# one line -----------------------------------------------------------------------------------------------------------


def measured(name: str, options: argparse.Namespace, running: Mapping[str, tools.Peer], scratch: Path) -> Result:
    """All results of a line.

    Args:
        name: of the line.
        options: from the command line.
        running: the peers' processes, by name.
        scratch: a folder for what peers load.
    """
    line = LINES[name]
    on = bench(line, options.quick)
    comparison = line.comparison(on)
    result: Result = {"work": line.work, "figure": line.figure, "target": line.target, "note": comparison.note}
    result |= agreement(comparison)  # which runs both ways once, so they are warm
    tasks = {"forward": on.forward()}
    tasks |= {"ours": replace(comparison.ours, is_warm=True), "naive": replace(comparison.naive, is_warm=True)}
    peers = peer_tasks(line, on, running, scratch / line.size)
    with torch.no_grad():
        seconds = interleaved({**tasks, **(comparison.others or {}), **peers.tasks}, options.repeats)
    result["seconds"] = seconds
    result["forwards"] = {way: asdict(ratios(turns, seconds["forward"])) for way, turns in seconds.items()}
    result["value"] = asdict(value(line, seconds))
    result["reached"] = result["agrees"] and reached(line.figure, result["value"]["median"], line.target)
    for peer, compared in peers.results.items():
        if "error" not in compared:
            compared["faster"] = asdict(ratios(seconds[peer], seconds["ours"]))
            compared["own forwards"] = asdict(ratios(seconds[peer], seconds[f"{peer}, clean"]))
    result["peers"] = peers.results
    if name in MEMORY_LINES:
        result["memory"] = memory(name, options.quick)
    return result


def value(line: Line, seconds: Mapping[str, Sequence[float]]) -> Spread:
    """The figure of a line, as `Line.figure` defines it."""
    if line.figure == "forwards":
        return ratios(seconds["ours"], seconds["forward"])
    if line.figure == "faster":
        return ratios(seconds["naive"], seconds["ours"])
    if line.figure == "overhead":
        return ratios(seconds["ours"], seconds["without"])
    milliseconds = [1000 * (ours - empty) for ours, empty in zip(seconds["ours"], seconds["empty trace"], strict=True)]
    return Spread.of(milliseconds)


def reached(figure: Figure, value: float, target: float) -> bool:
    """Whether a figure is good enough."""
    return value >= target if figure == "faster" else value <= target


def memory(name: str, quick: bool) -> Result:
    """Peak extra bytes of each way beyond those of one clean forward, measured in fresh processes."""
    flags = ["--quick"] if quick else []
    peaks = {way: int(in_child(FOLDER / "memory.py", [name, way, *flags])) for way in ("forward", "ours", "naive")}
    ours, naive = (max(peaks[way] - peaks["forward"], 0) for way in ("ours", "naive"))
    is_enough = naive >= MEMORY_TARGET * ours
    return {"forward": peaks["forward"], "ours": ours, "naive": naive, "target": MEMORY_TARGET, "reached": is_enough}


# against the baseline -----------------------------------------------------------------------------------------------


def changes(results: Mapping[str, Result], baseline: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The ratios that differ from the baseline by more than `LARGEST_CHANGE`, one line each."""
    return [
        f"{name}, {way}: {before:.2f} -> {now[way]:.2f} forwards ({now[way] / before - 1:+.0%})"
        for name, result in results.items()
        for now in [medians(result)]
        for way, before in baseline.get(name, {}).items()
        if way in now and abs(now[way] / before - 1) > LARGEST_CHANGE
    ]


def medians(result: Result) -> dict[str, float]:
    """The ratios of a line that a baseline stores."""
    return {way: round(spread["median"], 3) for way, spread in result["forwards"].items() if way != "forward"}


def machine(options: argparse.Namespace) -> Result:
    """The software and settings that the figures were measured with."""
    versions = {name: version(name) for name in ("torch", "transformers", "nnsight")}
    return {"python": platform.python_version(), **versions, "threads": options.threads, "repeats": options.repeats}


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    start, names = time.perf_counter(), [name for name in LINES if not options.only or name in options.only]
    peers = [name for name in tools.KINDS if options.peers]
    missing = [name for name in peers if not tools.has_environment(name)]
    if missing:
        sys.exit(f"no environment for {', '.join(missing)}; run: python tests/benchmarks/peers.py")
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as scratch, tools.running(peers, options.threads) as running:
        for name in names:
            results[name] = measured(name, options, running, Path(scratch))
            value, unit = results[name]["value"]["median"], UNITS[results[name]["figure"]]
            print(f"{name}: {value:.2f} {unit}", file=sys.stderr, flush=True)
    print(table(results))
    print(f"{time.perf_counter() - start:.0f} s; {machine(options)}")
    report(results, options)


def report(results: Mapping[str, Result], options: argparse.Namespace) -> None:
    """Write `results.json`, and compare the results with the baseline; with `--save-baseline` write that too."""
    RESULTS.write_text(json.dumps({"machine": machine(options), "quick": options.quick, "lines": results}, indent=1))
    if options.quick:
        return
    baseline = json.loads(BASELINE.read_text())["forwards"] if BASELINE.exists() else {}
    if options.save_baseline:
        entries = baseline | {name: medians(result) for name, result in results.items()}
        BASELINE.write_text(json.dumps({"machine": machine(options), "forwards": entries}, indent=1) + "\n")
    changed = changes(results, baseline)
    unchanged = "as in the baseline" if baseline else "no baseline.json to compare with; --save-baseline writes one"
    print("\n".join(["changed by more than 15 % of the baseline:", *changed]) if changed else unchanged)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny models, one turn: only shows that everything runs")
    parser.add_argument("--peers", action="store_true", help="compare with other tools too; see peers.py")
    parser.add_argument("--only", nargs="+", choices=list(LINES), help="measure only these lines")
    parser.add_argument("--save-baseline", action="store_true", help="store this run's ratios as the baseline")
    parser.add_argument("--threads", type=int, default=None, help="torch threads; default 2, with --quick 1")
    parser.add_argument("--repeats", type=int, default=None, help="turns that count; default 3, with --quick 1")
    options = parser.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.threads = options.threads or (1 if options.quick else 2)
    return options


if __name__ == "__main__":
    main()
