"""Print the peak extra memory of one way of one benchmark line, in bytes; `run.py` runs this in fresh processes.

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
    task = on.forward() if way == "forward" else getattr(line.comparison(on), way)
    torch.set_num_threads(2)
    with torch.no_grad():
        task.run(task.prepare(0))  # allocates what a process allocates only once
        argument = task.prepare(1)
        print(json.dumps(peak_extra(lambda: task.run(argument))))


if __name__ == "__main__":
    main()
