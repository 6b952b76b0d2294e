"""What work takes with a budget of memory and without, and what is expected of one run: peaks in a fresh process.

Run: python tests/benchmarks/budgets.py [--save] [CASE ...]

The cases are those of `tests/peaks.py`. "One run" is the estimate for one run of a prompt, which decides what is
refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

import measured
from page_tables import markdown
from peaks import CASES, in_process

MIB = 2**20
HEADS = [
    "work",
    "attention",
    "tokens",
    "one run: expected, MiB",
    "peak without a budget, MiB",
    "budget, MiB",
    "peak, MiB",
]


def main() -> None:
    parser = measured.parser(__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="all of them by default")
    names = parser.parse_args().cases or list(CASES)
    asked = [(name, budget) for name in names for budget in dict.fromkeys([None, CASES[name].budget * MIB or None])]
    first, *_ = asked  # also allocates what a process allocates only once
    _, *peaks = in_process(first, *asked)
    found = dict(zip(asked, peaks, strict=True))
    rows: list[list[str]] = []
    for name in names:
        case, free = CASES[name], found[name, None]
        kept = found.get((name, case.budget * MIB))
        within = (f"{case.budget}", f"{kept['peak'] / MIB:.0f}") if kept else ("", "")
        peak, run = free["peak"] / MIB, free["run"] / MIB
        rows.append([case.words, case.attention, f"{free['tokens']:,}", f"{run:.0f}", f"{peak:.0f}", *within])
    measured.tell("speed", markdown(HEADS, rows))


if __name__ == "__main__":
    main()
