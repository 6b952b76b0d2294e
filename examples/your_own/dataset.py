"""
A data set from a csv, cut off and resumed
==========================================

**Question.** A recipe over a table of questions runs for hours, and the machine stops in the middle. What is lost?

**Method.** ``nv.items`` reads the table, and a journal keeps every finished chunk. Here the recipe is started from
the command line in a process of its own, is killed as soon as the first chunks are kept, and goes on in this process.
"""

# %%
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nnsight_vlm as nv

folder = Path(tempfile.mkdtemp())
with (folder / "questions.csv").open("w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["file", "q", "answer"])
    for seed in range(12):
        scene = nv.shapes.scene(seed)
        scene.image.save(folder / f"{seed}.png")
        for question in nv.shapes.questions(scene):
            if question.family == "color":
                table.writerow([f"{seed}.png", question.text, question.answer])
print((folder / "questions.csv").read_text())

# %% [markdown]
# Columns may have any names: ``columns=`` says what they hold.

# %%
columns = {"image": "file", "question": "q"}
items = nv.items(folder / "questions.csv", columns=columns)
print(len(items), "questions; the first:", items[0].question, "->", items[0].answer)

# %% [markdown]
# Cut off
# -------
#
# The command is what you would type in a terminal. The process is killed without warning, as by a scheduler whose
# time is up.

# %%
journal = folder / "run" / "journal"
options = ["--items", "questions.csv", "--columns", "image=file,question=q", "--out", "run", "--chunk", "1"]
command = [sys.executable, "-m", "nnsight_vlm", "run", "knockout_windows", *options]
command += ["--routes", "image->last", "--windows", "3", "--quiet"]
process = subprocess.Popen(command, cwd=folder)
while process.poll() is None and len(list(journal.glob("*.parquet"))) < 2:
    time.sleep(0.02)
process.kill()
process.wait()
kept = sorted(journal.glob("*.parquet"))
written = {path: path.stat().st_mtime_ns for path in kept}
print("two chunks or more are kept:", len(kept) >= 2, "- there is a result:", (folder / "run" / "frame.csv").exists())

# %% [markdown]
# Resumed
# -------
#
# The same call with the same journal reads what is there and measures the rest. (The same command in the terminal
# does so too.)

# %%
model = nv.load("shapes")
study = {"routes": ["image->last"], "windows": 3}
work = nv.recipes.Work(journal=journal, chunk=1, progress=False)
resumed = nv.recipes.knockout_windows(model, items=items, **study, work=work)
whole = nv.recipes.knockout_windows(model, items=items, **study, work=nv.recipes.Work(progress=False))
print("kept chunks are as they were:", all(path.stat().st_mtime_ns == then for path, then in written.items()))
print("chunks in the journal, one a question:", len(list(journal.glob("*.parquet"))))
print("equal to a run without an interruption:", resumed.equals(whole))

# %%
rows = resumed[(resumed["measure"] == "logprob_change") & (resumed["form"] == "block")]
print(rows[["window", "control", "mean", "low", "high", "images"]].round(2).to_string(index=False))
nv.plots.answer_windows(resumed)[0].figure

# %% [markdown]
# What to write in the paper
# --------------------------

# %%
print(nv.cite(resumed))

# %% [markdown]
# How to read it
# --------------
#
# A journal belongs to the model (all its weights), the pictures, the questions and the settings. Change one of them,
# and nothing is read that is not yours: the work begins anew.
#
# What it does not show
# ---------------------
#
# Work in the middle of a chunk is lost. ``chunk=`` says how many items a chunk has; small chunks lose less.
