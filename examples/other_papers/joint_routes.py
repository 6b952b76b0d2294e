"""
Joint routes: needed, sufficient, or repaired?
==============================================

**Question.** Which route from the picture to the answer does the model need, which is enough by itself, and where
does it fall back on another one?

**Method.** Each route is cut alone, all but one, and all together (Geva et al., https://arxiv.org/abs/2304.14767;
Kaduri et al., https://arxiv.org/abs/2411.17491). Models repair themselves (McGrath et al.,
https://arxiv.org/abs/2307.15771), so a cut that costs nothing does not prove that a route is unused. Therefore each
route also carries *another* picture while everything else stays as it was: path patching (Goldowsky-Dill et al.,
https://arxiv.org/abs/2304.05969).
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
rows = nv.shapes.color_pairs(6)  # one question about two pictures, with their answers
pairs = [
    (
        *(nv.encode(model, row["question"], row[name]) for name in ("image", "other_image")),
        row["answer"],
        row["other_answer"],
    )
    for row in rows
]
frame = nv.recipes.joint_routes(
    model,
    [prompt for prompt, _, _, _ in pairs],
    answers=[row["answer"] for row in rows],
    pairs=pairs,
    routes=["image->last", "image->question"],
    work=nv.recipes.Work(progress=False),
)

# %%
rows = frame[(frame["control"] == "none") & frame["measure"].isin(["needed", "suffices", "self_repair", "restoration"])]
print(rows[["route", "condition", "shows", "measure", "mean", "low", "high"]].round(2).to_string(index=False))

# %%
nv.plots.joint_routes(frame).figure

# %% [markdown]
# How to read it
# --------------
#
# ``needed`` is the probability that the answer loses when a route is cut, ``suffices`` how much of the loss is spared
# when that route alone stays open. ``self_repair`` above 0 says that the model falls back on other routes; below 0,
# that they work only together. ``restoration`` is how far the answer goes to the other picture's when this route
# carries that picture: the first three show what the model *could* do, the last what it *does*.
#
# What it does not show
# ---------------------
#
# A cut also changes how much the target's other tokens weigh, so a loss is not what the route carried. Single
# pictures can be unlike the rest: see the intervals of a larger run.
