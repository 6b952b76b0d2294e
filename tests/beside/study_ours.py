"""The study with this package."""

import torch

import nnsight_vlm as nv


def open_model(folder, dtype=torch.float32):
    return nv.load(folder, dtype=dtype)


def study(model, question, picture, other, answer):
    """The answer's log-probability: clean, under each cut, and under each patch."""
    prompt, source = (nv.encode(model, question, shown) for shown in (picture, other))
    layers = model.config.text_config.num_hidden_layers
    variants = {f"cut {n}": nv.Knockout("image", "last", layers=nv.window(n, n + 3)) for n in range(layers - 2)}
    for group in ("image", "query"):
        variants |= {f"{group} {n}": nv.Patch(group, source=source, layers=n) for n in range(layers)}
    frame = nv.sweep(model, prompt, variants, answer=answer)
    return {"clean": frame["clean_logprob"][0], **dict(zip(frame["variant"], frame["logprob"], strict=True))}


if __name__ == "__main__":
    from harness import main

    main(open_model, study)
