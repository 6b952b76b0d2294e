"""
Image lens: which words do image tokens stand for?
==================================================

**Question.** Do the image tokens that show an object read as its name, and in which layer does the answer appear at
the last token?

**Method.** The logit lens on image tokens (Neo et al., https://arxiv.org/abs/2410.07149): a hidden state goes through
the model's own final norm and head, as if its layer were the last. Beside it stands a contextual lens, which looks
for the nearest words in texts that you give, because the logit lens finds fewer words than are there
(https://arxiv.org/abs/2602.00462).
"""

# %%
import nnsight_vlm as nv

model = nv.load("shapes")
asked = [(scene, each) for scene in map(nv.shapes.scene, range(9)) for each in nv.shapes.questions(scene)]
asked = [(scene, each) for scene, each in asked if each.family == "color"][:8]
prompts = [nv.encode(model, each.text, scene.image) for scene, each in asked]
frame = nv.recipes.image_lens(
    model,
    prompts,
    truths=[nv.recipes.shape_truth(scene) for scene, _ in asked],
    answers=[each.answer for _, each in asked],
    bank=[f"a large {color} {shape} at top." for color in ("red", "green", "blue") for shape in ("circle", "ring")],
    layers=[0, 3, 6, 9],
    work=nv.recipes.Work(progress=False),
)

# %%
rank = frame[(frame["tokens"] == "last") & (frame["measure"] == "rank")]
print(rank.pivot_table("mean", "control", "layer", sort=False).round(1).to_string())
named = frame[frame["measure"] == "named_first"]
print(named.pivot_table("mean", ["lens", "control"], "layer", sort=False).round(2).to_string())

# %%
nv.plots.image_lens(frame).figure

# %% [markdown]
# The words of one picture
# ------------------------

# %%
words = nv.lens(model, prompts[0], where="image", layers=-1, top=1)
nv.plots.image_words(words, prompts[0].grid(0), layer=-1).figure

# %% [markdown]
# How to read it
# --------------
#
# ``rank`` is 0 where the answer is the most probable word. ``named_first`` is the share of an object's tokens whose
# first word is one of the object's. A lens that finds ``other object's words`` as often says nothing about which
# object is there.
#
# What it does not show
# ---------------------
#
# Causes: the model need not use what a lens can read. Nor is a word absent because a lens does not find it.
