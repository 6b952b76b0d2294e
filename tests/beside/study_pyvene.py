"""The study with pyvene: its patches. The cuts are left out, because none of its components is a mask or a score.

pyvene removes all hooks of a model, those too with which transformers 5 collects the states of a vision tower, so LLaVA
cannot read a picture any more. The image is therefore put into the embeddings by hand.
"""

import pyvene
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration


def open_model(folder):
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False), AutoProcessor.from_pretrained(folder)


def encode(processor, question, picture):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    chat, options = [{"role": "user", "content": content}], {"return_dict": True, "return_tensors": "pt"}
    return processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, **options)


def embed(model, inputs, image):
    """The prompt's embeddings, with the image in them."""
    seen = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state[:, 1:]  # without the class token
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    embeddings[:, image] = model.model.multi_modal_projector(seen)
    return {"inputs_embeds": embeddings}


def study(opened, question, picture, other, answer):
    """The answer's log-probability: clean, and under each patch."""
    model, processor = opened
    count, word = model.config.text_config.num_hidden_layers, processor.tokenizer.convert_tokens_to_ids(answer)
    inputs, source = (encode(processor, question, shown) for shown in (picture, other))
    ids = inputs["input_ids"][0].tolist()
    image = [place for place, token in enumerate(ids) if token == model.config.image_token_id]
    groups = {"image": image, "query": list(range(image[-1] + 1, len(ids)))}
    inputs, source = (embed(model, given, image) for given in (inputs, source))

    numbers = {"clean": float(model(**inputs).logits[0, -1].log_softmax(-1)[word])}
    for group, positions in groups.items():
        for n in range(count):
            place = {
                "component": f"model.language_model.layers[{n}].output",
                "unit": "pos",
                "max_number_of_units": len(positions),
            }
            config = pyvene.IntervenableConfig([place], intervention_types=pyvene.VanillaIntervention)
            patched = pyvene.IntervenableModel(config, model=model)
            _, output = patched(inputs, [source], {"sources->base": ([[positions]], [[positions]])})
            numbers[f"{group} {n}"] = float(output.logits[0, -1].log_softmax(-1)[word])
    return numbers


if __name__ == "__main__":
    from harness import main

    main(open_model, study)
