"""The study with transformers and PyTorch's hooks."""

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration


def open_model(folder, dtype=torch.float32):
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    return model.eval().requires_grad_(False), AutoProcessor.from_pretrained(folder)


def encode(processor, question, picture):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    chat, options = [{"role": "user", "content": content}], {"return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, **options)


def cut(image, last):
    """A hook that keeps the last token from attending to the image."""

    def hook(attention, args, kwargs):
        mask, states = kwargs["attention_mask"], kwargs["hidden_states"]
        if mask is None:  # sdpa without padding is given no mask, and is causal by itself
            mask = states.new_full((1, 1, states.shape[1], states.shape[1]), float("-inf")).triu(1)
        mask = mask.clone()  # all layers are handed the same tensor
        mask[:, :, last, image] = False if mask.dtype == torch.bool else float("-inf")
        return args, {**kwargs, "attention_mask": mask}

    return lambda layer: layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True)


def patch(positions, states):
    """A hook that replaces a layer's output at some positions."""

    def hook(layer, args, output):
        output = output.clone()
        output[:, positions] = states[:, positions]
        return output

    return lambda layer: layer.register_forward_hook(hook)


def study(opened, question, picture, other, answer):
    """The answer's log-probability: clean, under each cut, and under each patch."""
    model, processor = opened
    layers, word = model.model.language_model.layers, processor.tokenizer.convert_tokens_to_ids(answer)
    inputs, source = (encode(processor, question, shown) for shown in (picture, other))
    ids = inputs["input_ids"][0].tolist()
    image = [place for place, token in enumerate(ids) if token == model.config.image_token_id]
    groups = {"image": image, "query": list(range(image[-1] + 1, len(ids)))}

    def logprob(*hooked):
        handles = [hook(layers[layer]) for layer, hook in hooked]
        try:
            return float(model(**inputs).logits[0, -1].log_softmax(-1)[word])
        finally:
            for handle in handles:
                handle.remove()

    states = []
    handles = [layer.register_forward_hook(lambda _, __, output: states.append(output)) for layer in layers]
    model(**source)
    for handle in handles:
        handle.remove()
    closed, numbers = cut(image, len(ids) - 1), {"clean": logprob()}
    for first in range(len(layers) - 2):
        numbers[f"cut {first}"] = logprob(*((layer, closed) for layer in range(first, first + 3)))
    for group, positions in groups.items():
        for layer in range(len(layers)):
            numbers[f"{group} {layer}"] = logprob((layer, patch(positions, states[layer])))
    return numbers


if __name__ == "__main__":
    from harness import main

    main(open_model, study)
