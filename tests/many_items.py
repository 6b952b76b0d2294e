"""A recipe over a data set in a process of its own: killed and begun again, and what many pictures take.

python tests/many_items.py FOLDER peaks killed
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import numpy as np
import pandas as pd
import tiny
import torch
from measure import peak_extra
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.recipes import Work
from nnsight_vlm.studies.study import open_study

SIDE = 300
"""Of the pictures of which there are many."""
MANY = 400
ASKED = 24
"""How many items the killed recipe has."""
KILLS = 10


def table(folder: Path, count: int, side: int, different: int) -> Path:
    """A table of so many questions about so many different pictures of noise."""
    rng = np.random.default_rng(0)
    for number in range(different):
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png", compress_level=1)
    rows = [f"{number % different}.png,see the dog,{('dog', 'red')[number % 2]}" for number in range(count)]
    path = folder / "table.csv"
    path.write_text("\n".join(["image,question,answer", *rows]) + "\n")
    return path


def killed(folder: Path) -> dict[str, Any]:
    """A recipe that is killed at random moments and begun again in a new process each time; and one that is not."""
    path, model = table(folder, ASKED, 40, ASKED), tiny.build("sdpa")

    def measured(journal: str) -> pd.DataFrame:
        work = Work(journal=folder / journal, progress=False, chunk=1)
        options: dict[str, Any] = {"windows": 2, "routes": ["image->last"], "per_image": True, "work": work}
        return nv.recipes.knockout_windows(model, items=path, **options)

    nv.run(model, nv.encode(model, "see the dog", tiny.picture(0)))  # what a process does only once
    start = time.monotonic()
    whole = measured("whole")
    seconds = time.monotonic() - start
    moments = np.random.default_rng(int(time.time())).uniform(0, seconds / 3, KILLS).tolist()
    parts = [_killed_at(moment, lambda: measured("killed"), folder / "killed") for moment in moments]
    again = measured("killed")
    pd.testing.assert_frame_equal(again, whole, check_exact=True)
    assert again.attrs == whole.attrs
    return {"rows": len(whole), "seconds": seconds, "moments": moments, "parts": parts}


def _killed_at(moment: float, measure: Any, journal: Path) -> int:
    """Begin to measure in a process of its own and kill it; gives the number of finished parts."""
    child = os.fork()
    if not child:
        try:
            measure()
        finally:
            os._exit(0)
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return len(list(journal.glob("knockout_windows-*.parquet")))


def peaks(folder: Path) -> dict[str, Any]:
    """The peak of opening a study of few items and of many, and of going through some of its chunks."""
    path, model = table(folder, MANY, SIDE, 8), tiny.build("sdpa")
    asked = nv.items(path)
    work = Work(progress=False, chunk=4)

    def through(count: int) -> Any:
        study = open_study("trial", model, asked.only(range(count)), answers=None, work=work)
        return study.frame({}, lambda chunk: _rows(study, chunk), lambda frame: frame)

    through(8)  # what a process allocates only once
    return {"pictures": MANY, "few": peak_extra(lambda: through(20)), "many": peak_extra(lambda: through(MANY))}


def _rows(study: Any, chunk: range) -> list[dict[str, Any]]:
    """A chunk's prompts, all at once, of the first chunks: encoding each of them again takes too long here."""
    prompts = [study.prompts[image] for image in chunk if image < 40]
    return [{"image": image, "width": prompt.width} for image, prompt in zip(chunk, prompts, strict=False)]


if __name__ == "__main__":
    torch.set_num_threads(1)  # a process with threads cannot be forked
    answers = {}
    for name in sys.argv[2:]:
        folder = Path(sys.argv[1]) / name
        folder.mkdir()
        answers[name] = {"killed": killed, "peaks": peaks}[name](folder)
    print(json.dumps(answers))
