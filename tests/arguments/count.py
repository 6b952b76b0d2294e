"""How many bad values end in which error: `PYTHONPATH=tests python -m arguments.count`."""

from __future__ import annotations

from collections import Counter

from .census import REFUSED, outcomes, tables

if __name__ == "__main__":
    kinds: Counter[str] = Counter()
    for name, entry in tables().items():
        for outcome in outcomes(name, entry):
            kinds[outcome.ended.partition(":")[0]] += 1
            if outcome.ended != REFUSED:
                print(f"{outcome.given}: {outcome.ended}", flush=True)
    print(*(f"{count:5} {kind}" for kind, count in kinds.most_common()), sep="\n")
    print(f"{kinds.total():5} bad values")
