"""Runs one study with this package and with other tools, each in its own environment, and compares what comes out.

    python tests/beside/run.py                       # all tools; writes measured.json and docs/coming-from
    python tests/beside/run.py --only hooks,pyvene   # some of them; the others keep what was measured before
    python tests/beside/run.py --only ""             # none: programs and tables are written into the pages again

The study: the small trained model inside the package is asked about a picture. Attention from the image to the last
token is cut in every window of three layers; then the residual stream at the image's tokens, or at the query's, is
patched from another picture after each layer. Each of the 29 numbers is the log-probability of the right answer.

The environments are made as those of `tests/versions.py` are: they hold what a tool pins and take all else from the one
that runs this script. What a tool cannot do is returned as its own error and shown in the table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import torch  # noqa: E402
from beside import study_hooks  # noqa: E402
from beside.pages import PAGES, code_lines, page_text, program_text, table  # noqa: E402
from beside.tools import TOOLS, Tool  # noqa: E402
from float64 import FACTOR, float64  # noqa: E402
from versions import Corner, make  # noqa: E402

import nnsight_vlm as nv  # noqa: E402

SEEN = 1e-3
"""In nats: numbers that are said to agree are closer than this, and interventions that matter move them further."""
MEASURED = HERE / "measured.json"


# the task -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is asked of two pictures that differ in the colour of one object, the only one of its shape."""

    seed: int
    question: str
    answer: str
    other_answer: str


def task() -> Task:
    """The first pair of pictures whose changed object can be asked for by its shape."""
    for seed in count():
        one, other = nv.shapes.pair(seed, change="color")
        [(before, after)] = [
            pair for pair in zip(one.objects, other.objects, strict=True) if pair[0].color != pair[1].color
        ]
        if [each.shape for each in one.objects].count(before.shape) == 1:
            question = f"what color is the {before.shape} ?"
            return Task(seed=seed, question=question, answer=before.color, other_answer=after.color)
    raise AssertionError


def write(folder: Path, asked: Task) -> None:
    """Write pictures and task for the programs."""
    for name, scene in zip(("picture", "other"), nv.shapes.pair(asked.seed, change="color"), strict=True):
        scene.image.save(folder / f"{name}.png")
    given = {"checkpoint": str(nv.shapes.checkpoint("shapes")), "question": asked.question, "answer": asked.answer}
    (folder / "task.json").write_text(json.dumps(given))


def exact(asked: Task) -> dict[str, float]:
    """The numbers of plain hooks in float64 throughout, which all others are held against."""
    with float64():
        opened = study_hooks.open_model(nv.shapes.checkpoint("shapes"), torch.float64)
        pictures = [scene.image for scene in nv.shapes.pair(asked.seed, change="color")]
        return study_hooks.study(opened, asked.question, *pictures, asked.answer)


# programs -----------------------------------------------------------------------------------------------------------


def python_of(tool: Tool) -> Path:
    """The Python that runs a tool's program; its environment is made if it is not there.

    Raises:
        CalledProcessError: the tool cannot be installed.
    """
    return make(Corner(pins=tool.pins)) if tool.pins else Path(sys.executable)


def versions_of(python: Path, tool: Tool) -> dict[str, str]:
    """The versions that an environment has."""
    names = (*tool.packages, "transformers", "torch")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", code], check=True, stdout=-1, text=True).stdout)
    return found


def run(name: str, folder: Path, repeats: int) -> dict[str, Any]:
    """What a tool's program prints, and its versions; `{"error": ...}` where there is no environment."""
    try:
        python = python_of(TOOLS[name])
    except subprocess.CalledProcessError as error:
        return {"error": "does not install: " + str(error.stdout).strip().splitlines()[-1]}
    options = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    command = [str(python), str(HERE / f"study_{name}.py"), str(folder), str(repeats)]
    done = subprocess.run(command, env={**os.environ, **options}, stdout=-1, stderr=-1, text=True, check=False)
    printed = json.loads(done.stdout or "null") or {"error": f"ended with {done.returncode}"}
    if "error" in printed:
        print(done.stderr, file=sys.stderr)
    return {"versions": versions_of(python, TOOLS[name]), **printed}


# judging and telling ------------------------------------------------------------------------------------------------


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {
        "median": round(statistics.median(values), 3),
        "least": round(min(values), 3),
        "most": round(max(values), 3),
    }


def farthest(numbers: Mapping[str, float], truth: Mapping[str, float]) -> float:
    """How far the numbers are from the exact ones, at most."""
    return max(abs(number - truth[name]) for name, number in numbers.items())


def judged(name: str, result: dict[str, Any], truth: Mapping[str, float], rounding: float) -> dict[str, Any]:
    """What measured.json holds of a tool.

    It agrees where it is at most `FACTOR` times as far from float64 as plain hooks in float32 are, which is what tests
    allow two computations of one thing (`tests/float64.py`).
    """
    kept = {"versions": result.get("versions", {}), "lines": code_lines(program_text(name))}
    if "error" in result:
        return {**kept, "error": result["error"]}
    pace = [one / unit for one, unit in zip(result["seconds"], result["forward"], strict=True)]
    away = farthest(result["numbers"], truth)
    return {
        **kept,
        "seconds": spread(result["seconds"]),
        "forwards": spread(pace),
        "conditions": len(result["numbers"]),
        "difference": away,
        "agrees": away <= FACTOR * rounding,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", default=",".join(TOOLS), help=f"some of: {', '.join(TOOLS)}; none: '' writes pages only"
    )
    parser.add_argument("--repeats", type=int, default=5, help="how often the study is timed")
    chosen = parser.parse_args()
    names = [name for name in chosen.only.split(",") if name]
    if unknown := set(names) - set(TOOLS):
        parser.error(f"no tool is called {', '.join(sorted(unknown))}; the tools are {', '.join(TOOLS)}")
    measured = measure(names, chosen.repeats)
    for path in sorted(PAGES.glob("*.md")):
        path.write_text(page_text(path, measured))
    print(table(list(measured["tools"]), measured))
    sys.exit(any(not found.get("agrees", True) for found in measured["tools"].values()))


def measure(names: list[str], repeats: int) -> dict[str, Any]:
    """Run the programs of these tools, and keep in measured.json what they gave beside what is there."""
    measured: dict[str, Any] = json.loads(MEASURED.read_text()) if MEASURED.exists() else {"tools": {}}
    if not names:
        return measured
    asked = task()
    truth = exact(asked)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), asked)
        found = {name: run(name, Path(folder), repeats) for name in dict.fromkeys(["hooks", *names])}
    rounding = farthest(found["hooks"]["numbers"], truth)
    assert FACTOR * rounding < SEEN, "what float32 rounds off would hide what an intervention does"
    told = {name: judged(name, found[name], truth, rounding) for name in names}
    tools = {**measured["tools"], **told}
    measured = {
        "task": asdict(asked),
        "repeats": repeats,
        "rounding": rounding,
        "exact": truth,
        "tools": {name: tools[name] for name in TOOLS if name in tools},
    }
    MEASURED.write_text(json.dumps(measured, indent=1) + "\n")
    return measured


if __name__ == "__main__":
    main()
