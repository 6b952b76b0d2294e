"""The study with nnsight alone."""

import torch
from nnsight import TransformersModel
from transformers import AutoProcessor


def open_model(folder, dtype=torch.float32):
    options = {"task": "image-text-to-text", "dtype": dtype, "dispatch": True}
    return TransformersModel(folder, processor=AutoProcessor.from_pretrained(folder), **options)


def encode(processor, question, picture):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    chat, options = [{"role": "user", "content": content}], {"return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, **options)


def closed(mask, states, image, last):
    """The mask without the edges from the last token to the image."""
    if mask is None:  # sdpa without padding is given no mask, and is causal by itself
        mask = states.new_full((1, 1, states.shape[1], states.shape[1]), float("-inf")).triu(1)
    mask = mask.clone()  # all layers are handed the same tensor
    mask[:, :, last, image] = False if mask.dtype == torch.bool else float("-inf")
    return mask


def study(model, question, picture, other, answer):
    """The answer's log-probability: clean, under each cut, and under each patch."""
    layers, word = model.model.language_model.layers, model.tokenizer.convert_tokens_to_ids(answer)
    count = model.config.text_config.num_hidden_layers
    inputs, source = (encode(model.processor, question, shown) for shown in (picture, other))
    ids = inputs["input_ids"][0].tolist()
    image = [place for place, token in enumerate(ids) if token == model.config.image_token_id]
    last, groups = len(ids) - 1, {"image": image, "query": list(range(image[-1] + 1, len(ids)))}

    with torch.no_grad(), model.trace(**source):
        states = [layers[n].output for n in range(count)].save()
    with torch.no_grad(), model.trace(**inputs):
        clean = model.lm_head.output[0, -1].log_softmax(-1)[word].save()
    numbers = {"clean": float(clean)}
    for first in range(count - 2):
        with torch.no_grad(), model.trace(**inputs):
            for n in range(first, first + 3):
                args, kwargs = layers[n].self_attn.inputs
                mask = closed(kwargs["attention_mask"], kwargs["hidden_states"], image, last)
                layers[n].self_attn.inputs = args, {**kwargs, "attention_mask": mask}
            logprob = model.lm_head.output[0, -1].log_softmax(-1)[word].save()
        numbers[f"cut {first}"] = float(logprob)
    for group, positions in groups.items():
        for n in range(count):
            with torch.no_grad(), model.trace(**inputs):
                output = layers[n].output.clone()
                output[:, positions] = states[n][:, positions]
                layers[n].output = output
                logprob = model.lm_head.output[0, -1].log_softmax(-1)[word].save()
            numbers[f"{group} {n}"] = float(logprob)
    return numbers


if __name__ == "__main__":
    from harness import main

    main(open_model, study)
