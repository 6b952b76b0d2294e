"""
Pair routes: from the image, or through the text?
=================================================

**Question.** A changed picture changes the answer. How much of that does the last token read from the image itself,
and how much through the text before it, which had read the image?

**Method.** The question is that of *Pathways* (https://arxiv.org/abs/2607.03358). The definitions are the natural
direct and indirect effects of mediation analysis (Pearl, https://arxiv.org/abs/1301.2300). From a layer on, the rows
of the image come from the run on the other picture; the rows of the text are held (``direct``), or they alone change
(``text-mediated``).
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
pairs = nv.shapes.color_pairs(8)  # a table: image, question, answer, other_image, other_answer
frame = nv.recipes.pair_routes(model, pairs, cuts=[0, 4, 9], work=nv.recipes.Work(progress=False))

# %%
rows = frame[(frame["measure"] == "restoration") & (frame["control"] == "none")]
print(rows.pivot_table("mean", "route", "cut", sort=False).round(2).abs().to_string())

# %%
nv.plots.pair_routes(frame).figure

# %% [markdown]
# How to read it
# --------------
#
# 1 means that the answer becomes the other picture's. At cut 0, ``total`` is the run on the other picture. The two
# effects need not add up to it: where either route carries everything, both are 1; where each needs the other, both
# are small.
#
# What it does not show
# ---------------------
#
# Which words of the text mediate: ``patching_map(over="position")`` shows that. What the last token had read below a
# cut belongs to no route at that cut; the rows ``last row`` and ``text rows`` show what was there.
