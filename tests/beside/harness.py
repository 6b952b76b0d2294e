"""What every program of this folder is run by: opens the model, runs the study, and prints numbers and seconds as JSON.

    python ours.py FOLDER REPEATS

FOLDER holds what `run.py` wrote: two pictures and `task.json`. Loading is not timed. The unit of time is one forward of
the plain model in the same process, whose turns alternate with the study's. This needs torch, transformers and Pillow
only, because it runs in the environments of other tools.
"""

import json
import sys
import time
import traceback
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

FORWARDS = 10
"""How many plain forwards are timed at once: one takes too little time to be told."""


def main(open_model, study):
    """Run a study and print `{"numbers": ..., "seconds": [...], "forward": [...]}`, or `{"error": ...}`."""
    folder, repeats, answers = Path(sys.argv[1]), int(sys.argv[2]), sys.stdout
    sys.stdout = sys.stderr  # so that what libraries print is not taken for the answer
    try:
        result = measured(open_model, study, folder, repeats)
    except Exception as error:
        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(result), file=answers)


def measured(open_model, study, folder, repeats):
    """Numbers of the study, and the seconds of it and of a plain forward, turn by turn."""
    task = json.loads((folder / "task.json").read_text())
    pictures = [Image.open(folder / name).convert("RGB") for name in ("picture.png", "other.png")]
    opened, forward = open_model(task["checkpoint"]), plain_forward(task["checkpoint"], task["question"], pictures[0])
    turn = lambda: study(opened, task["question"], *pictures, task["answer"])  # noqa: E731
    numbers = {name: float(number) for name, number in turn().items()}
    forward()
    seconds = [(taken(turn), taken(forward, FORWARDS) / FORWARDS) for _ in range(repeats)]
    return {"numbers": numbers, "seconds": [one for one, _ in seconds], "forward": [one for _, one in seconds]}


def plain_forward(checkpoint, question, picture):
    """A function that runs the prompt through the model as transformers gives it."""
    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question}]
    options = {"tokenize": True, "add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    chat = [{"role": "user", "content": content}]
    inputs = AutoProcessor.from_pretrained(checkpoint).apply_chat_template(chat, **options)

    def forward():
        with torch.no_grad():
            model(**inputs)

    return forward


def taken(turn, times=1):
    """The seconds of processor time that some turns take, which depend little on what else runs on the machine."""
    start = time.process_time()
    for _ in range(times):
        turn()
    return time.process_time() - start
