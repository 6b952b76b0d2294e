"""
Object score: does the description name what is there?
======================================================

**Question.** Are the objects that a description names in the picture, and which of those in it does it name?

**Method.** CHAIR (Rohrbach et al., https://arxiv.org/abs/1809.02156): the share of named objects that are not there,
and of descriptions with such an object. Here it also scores what interventions do to descriptions. A judge of your
own, such as a language model, can read the same texts.
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
scenes = [nv.shapes.scene(seed) for seed in range(8)]
prompts = [nv.encode(model, "describe the image .", scene.image) for scene in scenes]


def judge(text, names):
    """Stands for a language model: which of these names does the text say are there?"""
    return [name for name in names if name in text]


frame = nv.recipes.object_score(
    model,
    prompts,
    truths=[nv.recipes.shape_truth(scene) for scene in scenes],
    judge=judge,
    work=nv.recipes.Work(progress=False),
)

# %%
shown = frame[frame["measure"].isin(["precision", "recall", "f1", "chair_i", "chair_s"])]
print(shown.pivot_table("mean", "measure", ["scorer", "control"], sort=False).round(2).to_string())

# %%
nv.plots.object_score(frame).figure

# %% [markdown]
# Any text can be scored
# ----------------------
#
# Names are found offline, with plurals, synonyms and denials.

# %%
find = nv.recipes.object_names({"dog": ["puppy"], "hot dog": [], "person": ["man", "woman"]}, counts=True)
print(find("Two men and a puppy share a hot dog; there is no woman."))

# %% [markdown]
# How to read it
# --------------
#
# ``f1`` is high and ``chair_i`` low where the model sees. The control ``another image`` compares the same
# descriptions with another picture's objects: only what lies above it is about the picture.
#
# What it does not show
# ---------------------
#
# Why a description is right or wrong: nothing in the model is changed. Names that the list lacks are not counted.
