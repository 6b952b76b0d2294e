"""
Patching map: which layers, tokens and heads carry an answer?
=============================================================

**Question.** Two pictures give one question two answers. Where in the model does the difference travel, when every
place is tried?

**Method.** Interchange interventions (Geiger et al., https://arxiv.org/abs/2106.02997) at one layer and group of
tokens, or one head, at a time; restoration as in NOTICE (Golovanevsky et al., https://arxiv.org/abs/2406.16320). The
rows ``last`` and ``image`` are always there, because either alone can mislead (https://arxiv.org/abs/2604.09364).
"""

# %%
import nnsight_vlm as nv

model, quiet = nv.load("shapes"), nv.recipes.Work(progress=False)
pairs = nv.shapes.color_pairs(8)  # a table: image, question, answer, other_image, other_answer
groups = nv.recipes.patching_map(model, pairs, layers=[0, 2, 4, 5, 6, 9], work=quiet)
rows = groups[(groups["measure"] == "restoration") & (groups["control"] == "none")]
print(rows.pivot_table("mean", "group", "layer", sort=False).round(2).abs().to_string())

# %%
nv.plots.patching_map(groups).figure

# %% [markdown]
# Head by head
# ------------
#
# Between the layer in which ``image`` stops restoring and that in which ``last`` begins, some heads must carry the
# answer over.

# %%
heads = nv.recipes.patching_map(model, pairs, over="head", layers=[4, 5, 6], work=quiet)
of_heads = heads[(heads["measure"] == "logit_diff_restored") & (heads["control"] == "none")]
print(of_heads.pivot_table("mean", "head", "layer", sort=False).round(2).to_string())

# %%
nv.plots.patching_map(heads, measure="logit_diff_restored").figure

# %% [markdown]
# How to read it
# --------------
#
# 0 where nothing comes with the states, 1 where the other answer is as probable as in its own run.
# ``logit_diff_restored`` is the same of the logit difference, which does not saturate. A place that merely disturbs
# shows in the control ``another image`` too. Dots mark what survives the correction for the number of comparisons;
# give ten pairs or more.
#
# What it does not show
# ---------------------
#
# Layers are no steps: what ``image`` carries in layer 4 may be read in layer 4 or later. A place that restores
# nothing alone may matter together with another.
