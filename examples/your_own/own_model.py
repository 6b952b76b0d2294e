"""
A model of your own: does the architecture do it, or the training?
==================================================================

**Question.** In the trained model, some layers carry the picture to the answer. Would an untrained model of the same
architecture look the same?

**Method.** Any transformers model in memory can be studied, trained or not: ``nv.load(module, processor=processor)``.
Here it is built from a config, so its weights are random, and the same sweep runs on both.
"""

# %%
import pandas as pd
import torch
from transformers import AutoConfig, AutoProcessor, LlavaForConditionalGeneration

import nnsight_vlm as nv

folder = nv.shapes.checkpoint("shapes")
config, processor = AutoConfig.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
torch.manual_seed(0)
module = LlavaForConditionalGeneration(config).eval()  # random weights; your own training loop goes here
models = {"trained": nv.load("shapes"), "untrained": nv.load(module, processor=processor)}
print(nv.describe(models["untrained"])[["stage", "layers", "heads", "width"]].to_string(index=False))

# %%
asked = [(scene, each) for scene in map(nv.shapes.scene, range(9)) for each in nv.shapes.questions(scene)]
asked = [(scene, each) for scene, each in asked if each.family == "color"][:8]
cuts = [nv.Knockout("image", "last", layers=nv.window(first, first + 3)) for first in range(8)]
rows = []
for name, model in models.items():
    for number, (scene, question) in enumerate(asked):
        prompt = nv.encode(model, question.text, scene.image)
        swept = nv.sweep(model, prompt, cuts, answer=question.answer)
        change = swept["logprob"] - swept["clean_logprob"]
        rows.append(swept[["layers"]].assign(model=name, image=number, change=change))
    print(name, nv.verify(model, prompt, cuts[0]))
frame = nv.statistics.summarise(pd.concat(rows), ["model", "layers"], ["change"])
print(frame[["model", "layers", "mean", "low", "high"]].round(2).to_string(index=False))

# %%
axes = nv.plots.layer_lines(frame, hue="model", value="mean")
axes.set_ylabel("change of the answer's log-probability (nats)")
axes.figure

# %% [markdown]
# How to read it
# --------------
#
# Both models are cut in the same way, and ``verify`` proves that both cuts are exact. What the cut changes in the
# untrained model is what the architecture alone gives; the difference between the lines is what training has made of
# it.
#
# What it does not show
# ---------------------
#
# One initialisation is an illustration. A type of model that is not in the table of families is refused, with a draft
# of the row that it needs (docs/adding-a-family.md).
