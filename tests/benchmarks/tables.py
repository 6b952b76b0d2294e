"""The benchmark results as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import peers
from cases import Figure

Result = dict[str, Any]
"""All results of one line, as `run.measured` makes them."""
UNITS: dict[Figure, str] = {"forwards": "x a forward", "faster": "x faster", "fixed": "ms", "overhead": "x without"}
PEER_TARGETS = {("windows-576", "vlmprobe"): 10.0}
"""How many times faster than a peer this package has to be, by line and peer."""


def table(results: Mapping[str, Result]) -> str:
    """A table of this package and the naive way, and below it one of this package and its peers."""
    head = ["work", "target", "ours [least..most]", "one by one, naive", "same numbers (effect)"]
    rows = [_table_row(result) for result in results.values()]
    rows += [_memory_row(result) for result in results.values() if "memory" in result]
    peer_head = ["work", "peer", "target", "ours is [least..most]", "it takes", "same numbers"]
    peer_rows = [_peer_row(name, result, peer) for name, result in results.items() for peer in result["peers"]]
    return markdown_table([head, *rows]) + ("\n\n" + markdown_table([peer_head, *peer_rows]) if peer_rows else "")


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lengths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [rows[0], ["-" * length for length in lengths], *rows[1:]]
    return "\n".join("| " + " | ".join(map(str.ljust, row, lengths)) + " |" for row in lines)


def _table_row(result: Result) -> list[str]:
    unit, value, forwards = UNITS[result["figure"]], result["value"], result["forwards"]
    bound = "at least" if result["figure"] == "faster" else "at most"
    ours = f"{value['median']:.2f} [{value['least']:.2f}..{value['most']:.2f}] {unit}"
    ours += f" ({forwards['ours']['median']:.2f} forwards)" if result["figure"] == "faster" else ""
    naive = f"{forwards['naive']['median']:.2f} forwards" + (f" ({result['note']})" if result["note"] else "")
    effect = "" if result["effect"] is None else f" ({result['effect']:.2g})"
    agrees = f"{'yes' if result['agrees'] else 'NO'}, {result['difference']:.0e}{effect}"
    return [result["work"], f"{bound} {result['target']:g} {unit}", _missed(result) + ours, naive, agrees]


def _missed(result: Result) -> str:
    return "" if result["reached"] else "MISSED "


def _peer_row(name: str, result: Result, peer: str) -> list[str]:
    work, title, compared = result["work"], peers.KINDS[peer].title, result["peers"][peer]
    target = PEER_TARGETS.get((name, peer))
    bound = f"at least {target:g} x faster" if target else ""
    if "error" in compared:
        return [work, title, bound, "", f"cannot: {compared['error'][:100]}", ""]
    faster, own = compared["faster"], compared["own forwards"]
    spread = f"{faster['median']:.1f} [{faster['least']:.1f}..{faster['most']:.1f}] x faster"
    missed = "MISSED " if target and faster["median"] < target else ""
    agrees = f"{'yes' if compared['agrees'] else 'NO'}, {compared['difference']:.0e}"
    return [work, title, bound, missed + spread, f"{own['median']:.2f} of its own forwards", agrees]


def _memory_row(result: Result) -> list[str]:
    peaks, mib = result["memory"], 2**20
    ours, naive = (
        f"{peaks[way] / mib:.1f} MiB over a forward's {peaks['forward'] / mib:.1f}" for way in ("ours", "naive")
    )
    target = f"at most 1/{peaks['target']:g} of the naive way"
    return [f"{result['work']}: peak memory", target, _missed(peaks) + ours, naive, ""]
