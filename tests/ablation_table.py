"""The table of docs/recipes/ablation.md: image tokens that show an object are overwritten, and as many others.

Run: python tests/ablation_table.py --model shapes --scenes 18
"""

import argparse

import nnsight_vlm as nv


def main(name: str = "shapes", scenes: int = 4) -> None:
    model, asked = nv.load(name), []
    for seed in range(scenes):
        scene = nv.shapes.scene(seed)
        for question in nv.shapes.questions(scene):
            if question.family == "color":
                shape = next(word for word in question.text.strip("?").split() if word in nv.shapes.language.SHAPES)
                about = next(f"{each.color} {each.shape}" for each in scene.objects if each.shape == shape)
                asked.append((scene, question, about))
    frame = nv.recipes.ablation(
        model,
        [nv.encode(model, question.text, scene.image) for scene, question, _ in asked],
        truths=[nv.recipes.shape_truth(scene) for scene, *_ in asked],
        asked=[about for *_, about in asked],
        answers=[question.answer for _, question, _ in asked],
        work=nv.recipes.Work(progress=False),
    )
    shown = frame[frame["measure"].isin(["logprob_change", "kept", "overlap"])]
    print(shown.drop(columns=["border", "how", "form"]).round(2).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--scenes", type=int, default=4)
    given, _ = parser.parse_known_args()
    main(given.model, given.scenes)
