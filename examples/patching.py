"""Two pictures that differ in one colour: which token groups carry the difference, and in which layers?

Interchange patching (Geiger et al., arXiv 2106.02997): the residual stream of one picture's run is
written into a run on the other picture, one layer and token group at a time.

Run: python examples/patching.py
"""

import nnsight_vlm as nv


def main() -> None:
    model = nv.load("shapes")
    one, other = nv.shapes.pair(5, change="color")
    changed = next(a for a, b in zip(one.objects, other.objects, strict=True) if a.color != b.color)
    question = f"what color is the {changed.shape} ?"
    clean, corrupt = (nv.encode(model, question, scene.image) for scene in (one, other))
    right = nv.generate(model, clean, max_new_tokens=1).tokens[0]
    wrong = nv.generate(model, corrupt, max_new_tokens=1).tokens[0]

    groups = ("image", "question", "last")  # the "question" is the text after the image, without its "last" token
    variants = [nv.Patch(group, source=clean, layers=layer) for group in groups for layer in range(10)]
    frame, against = (nv.sweep(model, corrupt, variants, answer=token) for token in (right, wrong))
    clean_logits = nv.run(model, clean).logits
    low, high = frame["clean_logit"] - against["clean_logit"], float(clean_logits[right] - clean_logits[wrong])
    frame["restoration"] = (frame["logit"] - against["logit"] - low) / (high - low)
    words = [model.tokenizer.decode([token]) for token in (right, wrong)]
    print(f"{question} {words[0]} in the clean picture, {words[1]} in the other")
    print(frame.pivot(index="layers", columns="where", values="restoration")[list(groups)].round(2).to_string())


if __name__ == "__main__":
    main()
