"""Peak extra memory of one case, printed in bytes: run by `run.py`, each case in a fresh process.

python tests/benchmarks/memory.py LINE ours|naive|forward [--quick]
"""

from __future__ import annotations

import json
import sys

import torch
from cases import LINES, bench
from measure import peak_extra


def main() -> None:
    name, way = sys.argv[1:3]
    line = LINES[name]
    on = bench(line, "--quick" in sys.argv)
    work = on.forward() if way == "forward" else getattr(line.sides(on), way)
    torch.set_num_threads(2)
    with torch.no_grad():
        work.do(work.ready(0))  # what is made once only is no cost of this one
        given = work.ready(1)
        print(json.dumps(peak_extra(lambda: work.do(given))))


if __name__ == "__main__":
    main()
