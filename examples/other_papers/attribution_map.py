"""
Attribution patching: all places at once
========================================

**Question.** Which heads and groups of tokens carry another picture's answer, when there are too many places to try?

**Method.** Attribution patching (Syed et al., https://arxiv.org/abs/2310.10348) estimates every interchange (Geiger
et al., https://arxiv.org/abs/2106.02997) from two forwards and one backward: the difference of the two runs' states,
times the gradient of the logit difference. The places with the largest estimates are then really patched, and the
frame says how far the two agree.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
pairs = nv.shapes.color_pairs(8)  # a table: image, question, answer, other_image, other_answer
frame = nv.recipes.attribution_map(model, pairs, exact=5, work=nv.recipes.Work(progress=False))

# %%
states = frame[(frame["site"] == "residual") & (frame["control"] == "none")]
estimated = states[states["measure"] == "estimate_restored"]
print(estimated.pivot_table("mean", "group", "layer", sort=False).round(2).to_string())
heads = frame[(frame["site"] == "head") & (frame["control"] == "none") & (frame["measure"] == "exact")]
print(heads[["group", "layer", "head", "mean", "low", "high"]].round(2).to_string(index=False))
print(frame[frame["measure"] == "correlation"][["site", "mean"]].round(2).to_string(index=False))

# %%
nv.plots.attribution_map(frame, site="head", group="last").figure

# %% [markdown]
# How to read it
# --------------
#
# ``estimate_restored`` is the estimate as a share of the difference between the two runs; ``exact`` is what the patch
# did, in logits. Where ``correlation`` is low, believe ``exact`` alone: estimates of whole states are often far too
# small.
#
# What it does not show
# ---------------------
#
# Eight pairs are few for so many comparisons: dots mark what survives the correction for their number, so give ten or
# more. An estimate is to first order, so a place that matters only together with another can look empty.
