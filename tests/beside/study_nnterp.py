"""The study with nnterp."""

import torch
from nnterp import StandardizedTransformer
from transformers import AutoModelForImageTextToText, AutoProcessor


def open_model(folder):
    options = {"automodel": AutoModelForImageTextToText, "dtype": torch.float32, "device_map": "cpu"}
    model = StandardizedTransformer(str(folder), enable_attention_probs=True, **options)
    return model, AutoProcessor.from_pretrained(folder)


def encode(processor, question, picture):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    chat, options = [{"role": "user", "content": content}], {"return_dict": True, "return_tensors": "pt"}
    return dict(processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, **options))


def study(opened, question, picture, other, answer):
    """The answer's log-probability: clean, under each cut, and under each patch."""
    model, processor = opened
    count, word = model.num_layers, processor.tokenizer.convert_tokens_to_ids(answer)
    inputs, source = (encode(processor, question, shown) for shown in (picture, other))
    ids = inputs["input_ids"][0].tolist()
    image = [place for place, token in enumerate(ids) if token == processor.image_token_id]
    groups = {"image": image, "query": list(range(image[-1] + 1, len(ids)))}

    states = []
    with torch.no_grad(), model.trace(source):
        for n in range(count):
            states.append(model.layers_output[n].save())
    with torch.no_grad(), model.trace(inputs):
        clean = model.logits[0, -1].log_softmax(-1)[word].save()
    numbers = {"clean": float(clean)}
    for first in range(count - 2):
        with torch.no_grad(), model.trace(inputs):
            for n in range(first, first + 3):
                weights = model.attention_probabilities[n].clone()
                weights[:, :, -1, image] = 0
                model.attention_probabilities[n] = weights / weights.sum(-1, keepdim=True)
            logprob = model.logits[0, -1].log_softmax(-1)[word].save()
        numbers[f"cut {first}"] = float(logprob)
    for group, positions in groups.items():
        for n in range(count):
            with torch.no_grad(), model.trace(inputs):
                output = model.layers_output[n].clone()
                output[:, positions] = states[n][:, positions]
                model.layers_output[n] = output
                logprob = model.logits[0, -1].log_softmax(-1)[word].save()
            numbers[f"{group} {n}"] = float(logprob)
    return numbers


if __name__ == "__main__":
    from harness import main

    main(open_model, study)
