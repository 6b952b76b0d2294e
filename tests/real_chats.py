"""Published processors and chat templates: five conversations in each, as a table.

    python tests/real_chats.py FOLDER [FOLDER ...] [--show CONVERSATION]

Each folder is a checkpoint as `nv.load` opens it; its weights are not loaded and need not be there. Checked of each
conversation in `chats.CONVERSATIONS`, in a cell each:

- `ids`: token ids are those of `processor.apply_chat_template(..., tokenize=True)`;
- `parts`: `system`, `image`, `markup`, `query` and `generated` part the prompt, and so do turns and markers;
- `words`: the tokens of each turn, decoded, are the words of its message.

`--show` lists one of the conversations token by token.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from chats import CONVERSATIONS

import nnsight_vlm as nv

PARTS = ("system", "image", "video", "markup", "query", "generated")
HIDDEN = ("all", "text", "first")


def differences(model: Any, name: str) -> list[str]:
    """What does not hold of a conversation."""
    chat, options = CONVERSATIONS[name], {"continue_final_message": name == "a prefix"}
    prompt = nv.encode(model, chat, **options)
    ending = options if name == "a prefix" else {"add_generation_prompt": True}
    expected = model.processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_tensors="pt", **ending
    )["input_ids"]
    groups = prompt.groups
    parted = [place for part in PARTS for place in groups.get(part, ())]
    turns = {place for group, places in groups.items() if group.startswith("turn.") for place in places}
    said = {*turns, *groups["system_message"]}
    return [
        *([] if torch.equal(prompt.inputs["input_ids"], expected) else ["ids"]),
        *([] if sorted(parted) == list(groups["all"]) else ["parts"]),
        *([] if {*groups["markers"]} == {*groups["all"]} - said and not turns & {*groups["markers"]} else ["speakers"]),
        *(f"words of {number}" for number, message in enumerate(chat) if words(prompt, number) != spelled(message)),
    ]


def words(prompt: nv.Prompt, turn: int) -> str:
    own = [place for place in prompt[f"turn.{turn}"] if place not in {*prompt["image"], *prompt["markup"]}]
    ids = [prompt.rows[0].tokens[place] for place in own]
    return prompt.model.tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


def spelled(message: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in message["content"] if part["type"] == "text").strip()


def cell(model: Any, name: str) -> str:
    try:
        return ", ".join(differences(model, name)) or "ok"
    except (nv.SpecError, ValueError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def show(model: Any, name: str) -> None:
    """Each token and its groups; tokens of an image that follow each other and are alike, once."""
    prompt = nv.encode(model, CONVERSATIONS[name], continue_final_message=name == "a prefix")
    spelling = model.tokenizer.convert_ids_to_tokens(list(prompt.rows[0].tokens))
    groups = {group: {*places} for group, places in prompt.groups.items() if group not in HIDDEN}

    def told(place: int) -> tuple[str, str]:
        return spelling[place], " ".join(group for group, places in groups.items() if place in places)

    for (token, where), run in groupby(prompt["all"], told):
        places = list(run)
        print(f"{places[0]:5} {token!r:28} {where}{f' ({len(places)} times)' if len(places) > 1 else ''}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--show", choices=CONVERSATIONS)
    asked = parser.parse_args()
    print(f"| folder | {' | '.join(CONVERSATIONS)} |\n{'| --- ' * (1 + len(CONVERSATIONS))}|")
    for folder in asked.folders:
        model = nv.load(str(folder), dispatch=False)
        print(f"| {folder.name} | {' | '.join(cell(model, name) for name in CONVERSATIONS)} |", flush=True)
        if asked.show:
            show(model, asked.show)


if __name__ == "__main__":
    main()
