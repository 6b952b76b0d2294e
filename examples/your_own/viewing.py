"""
The page of an answer: which patches did each word read?
========================================================

**Question.** What did each word of an answer look at, and what does the answer become when the picture is hidden from
it?

**Method.** ``nv.view`` puts answer and picture on one page. Point at a word: the patches that it read are painted.
Point at a patch: the words that read it are marked. With an intervention, a second column has the answer that the
model then writes.
"""

# %%
import tempfile
from pathlib import Path

import nnsight_vlm as nv

model = nv.load("shapes")
scene = nv.shapes.scene(3)
prompt = nv.encode(model, "what color is the ring ?", scene.image)
page = nv.view(model, prompt, nv.Knockout("image", "last"), quantities=["weight", "causal"], objects=scene.objects)
print([column["answer"] for column in page.payload["columns"]])
page

# %% [markdown]
# Saved, it is one HTML file that asks for nothing else and can be sent to anybody.

# %%
path = Path(tempfile.mkdtemp()) / "view.html"
page.save(path)
print(f"{path.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# How to read it
# --------------
#
# ``weight`` is attention: where a word looks. ``causal`` is what the word loses, in nats, when that one patch is
# hidden from the answer in all layers: what it needs. Switch between the two on the page.
#
# What it does not show
# ---------------------
#
# Attention is no cause, and a knockout of one patch misses what any other patch can stand in for.
