"""
NDIF: the same analyses on a server
===================================

**Question.** The model does not fit on your machine. What changes in the code?

**Method.** Everything that takes ``remote=`` runs unchanged on NDIF (https://ndif.us), or on a server of your own.
The model is opened without weights, and only small results come back. Set ``NNSIGHT_VLM_SERVER`` to the server's
address (and ``NNSIGHT_VLM_MODEL`` to a model that it has) to run this example there. Without a server, jobs are
packed as for one and unpacked and run on this machine, which ``remote="local"`` stands for; the script says what that
leaves out.
"""

# %%
import os
import tempfile
from pathlib import Path

import nnsight_vlm as nv

server = os.environ.get("NNSIGHT_VLM_SERVER", "")
name = os.environ.get("NNSIGHT_VLM_MODEL", str(nv.shapes.checkpoint("shapes")))
remote = server or "local"
model = nv.load(name, dispatch=not server)  # on a server: config and processor only
print("runs", f"on {server}" if server else "on this machine, packed as for a server: NNSIGHT_VLM_SERVER is not set")

# %%
scenes = [nv.shapes.scene(seed) for seed in (8, 9)]
prompts = [nv.encode(model, "what color is the ring?", scene.image) for scene in scenes]
cut = nv.Knockout("image", "last", layers=nv.depth(0.25, 0.75))
print(nv.generate(model, prompts[0], max_new_tokens=2, remote=remote).text)
print(nv.generate(model, prompts[0], cut, max_new_tokens=2, remote=remote).text)

# %% [markdown]
# One job for many calls
# ----------------------
#
# A recipe sends whatever it can ask at the same time as one job; ``together`` does the same for calls of your own.

# %%
with nv.remote.counting() as traffic:
    frame = nv.recipes.knockout_windows(
        model,
        prompts,
        answers=["purple", "yellow"],
        routes=["image->last"],
        windows=3,
        remote=remote,
        work=nv.recipes.Work(progress=False),
    )
if server:
    print(traffic)
rows = frame[(frame["measure"] == "logprob_change") & (frame["form"] == "block") & (frame["control"] == "none")]
print(rows[["window", "mean"]].round(2).to_string(index=False))

# %%
nv.plots.answer_windows(frame)[0].figure

# %% [markdown]
# Jobs that nobody waits for
# --------------------------
#
# ``blocking=False`` returns at once. The job's folder is all that another process needs, tomorrow as well.

# %%
if server:
    path = Path(tempfile.mkdtemp()) / "job"
    nv.sweep(model, prompts[0], [cut], answer="purple", remote=server, blocking=False, path=path)
    print(nv.remote.resume(path, model=model, host=server).result()[["logprob", "clean_logprob"]])
else:
    print("not run without a server: the queue, blocking=False and resume; that the server has the model")

# %% [markdown]
# How to read it
# --------------
#
# Numbers are those of a local run to rounding, if the server holds the model in the same precision (NDIF's default is
# bfloat16).
#
# What it does not show
# ---------------------
#
# How long the queue is. The page docs/remote.md has what is sent, what it costs, and what happens when something
# breaks.
