"""
Path patching: who reads what the image writes?
===============================================

**Question.** Which later places carry what an earlier place writes: which heads at the last token read the image's
states of layer 3?

**Method.** Path patching (Wang et al., https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al.,
https://arxiv.org/abs/2304.05969). The sender's states come from a run on another picture. What lies between is held
as in the prompt's own run, so that the receiver gets only what the sender adds to the residual stream; then the rest
is computed anew.
"""

# %%
import nnsight_vlm as nv
from nnsight_vlm.recipes import Place

model = nv.load("shapes")
frame = nv.recipes.path_patching(
    model,
    nv.shapes.color_pairs(8),
    sender=Place("image", layers=3),
    receivers=[Place("last", layers=[4, 5, 6]), Place("last", layers=[4, 5, 6], site="head")],
    work=nv.recipes.Work(progress=False),
)

# %%
change = frame[(frame["control"] == "none") & (frame["measure"] == "logit_diff_change")]
print(change[["receiver", "site", "layer", "head", "mean", "low", "high", "survives"]].round(2).to_string(index=False))

# %%
nv.plots.path_patching(frame).figure

# %% [markdown]
# How to read it
# --------------
#
# ``logit_diff_change`` is what the other picture's answer gains on this one's, in logits. The control
# ``another image`` sends a third picture's states, ``random sender`` lets as many other tokens send.
# ``between="free"`` holds nothing, and gives the sender's whole effect on a receiver.
#
# What it does not show
# ---------------------
#
# Paths through several receivers, and paths that matter only together with others. Eight pairs are few for the
# correction for many comparisons: give ten or more.
