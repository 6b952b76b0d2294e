"""The study with TransformerLens."""

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoProcessor


def open_model(folder):
    bridge = TransformerBridge.boot_transformers(folder, dtype=torch.float32, device="cpu")
    return bridge, AutoProcessor.from_pretrained(folder)


def encode(processor, question, picture):
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    chat, options = [{"role": "user", "content": content}], {"return_dict": True, "return_tensors": "pt"}
    return dict(processor.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, **options))


def study(opened, question, picture, other, answer):
    """The answer's log-probability: clean, under each cut, and under each patch."""
    bridge, processor = opened
    count, word = bridge.cfg.n_layers, processor.tokenizer.convert_tokens_to_ids(answer)
    inputs, source = (encode(processor, question, shown) for shown in (picture, other))
    ids = inputs["input_ids"][0].tolist()
    image = [place for place, token in enumerate(ids) if token == processor.image_token_id]
    groups = {"image": image, "query": list(range(image[-1] + 1, len(ids)))}

    def run(given, hooks):
        rest = {name: value for name, value in given.items() if name != "input_ids"}
        with torch.no_grad():
            logits = bridge.run_with_hooks(given["input_ids"], fwd_hooks=hooks, return_type="logits", **rest)
        return float(logits[0, -1].log_softmax(-1)[word])

    def close_edges(scores, hook):
        scores[:, :, -1, image] = float("-inf")
        return scores

    states = {}

    def keep(state, hook):
        states[hook.layer()] = state.clone()

    def patch(positions):
        def write(state, hook):
            state = state.clone()
            state[:, positions] = states[hook.layer()][:, positions]
            return state

        return write

    run(source, [(f"blocks.{n}.hook_resid_post", keep) for n in range(count)])
    numbers = {"clean": run(inputs, [])}
    for first in range(count - 2):
        cuts = [(f"blocks.{n}.attn.hook_attn_scores", close_edges) for n in range(first, first + 3)]
        numbers[f"cut {first}"] = run(inputs, cuts)
    for group, positions in groups.items():
        for n in range(count):
            numbers[f"{group} {n}"] = run(inputs, [(f"blocks.{n}.hook_resid_post", patch(positions))])
    return numbers


if __name__ == "__main__":
    from harness import main

    main(open_model, study)
