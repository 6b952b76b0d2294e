"""
Causal tracing: which states bring a lost answer back?
======================================================

**Question.** Corrupt a word of the question so that the answer is lost. Restoring which clean states brings it back?

**Method.** Basu et al. (https://arxiv.org/abs/2406.04236) corrupt the constraint words of a question about a picture;
NOTICE (Golovanevsky et al., https://arxiv.org/abs/2406.16320) replaces the picture by another. The states of the
clean run are put back at one group of tokens and one layer at a time.
"""

# %%
import nnsight_vlm as nv

model, picture = nv.load("shapes"), nv.shapes.scene(2).image  # a purple cross and a green ring, among others
clean, corrupted = (nv.encode(model, f"what color is the {shape}?", picture) for shape in ("cross", "ring"))
frame = nv.recipes.causal_trace(
    model,
    [clean],
    answers=["purple"],
    corrupt=[corrupted],
    layers=[0, 1, 2, 4, 8],
    work=nv.recipes.Work(progress=False),
)

# %%
rows = frame[(frame["measure"] == "restoration") & (frame["control"] == "none")]
print(rows.pivot_table("mean", "group", "layer", sort=False).round(2).abs().to_string())

# %%
nv.plots.causal_trace(frame).figure

# %% [markdown]
# How to read it
# --------------
#
# 1 means that the answer is as probable as in the clean run. ``words`` are the corrupted words, ``after words`` the
# rest of the question. The layer in which ``words`` stops restoring and ``last`` begins is where the last token has
# read the word. With ``corrupt="another image"``, ``"noise"`` or ``"mean"`` it is the picture that is lost and
# brought back.
#
# What it does not show
# ---------------------
#
# What comes back depends on what was taken: noise takes the whole picture, another picture only what differs. This is
# one prompt, so there are no intervals; give the recipe many.
