"""The page of an answer, clean and with the picture hidden from the question, beside what each word needs of it.

Run: python examples/viewing.py  (writes view.html)
"""

import nnsight_vlm as nv


def main(path: str = "view.html") -> None:
    model = nv.load("shapes")
    scene = nv.shapes.scene(3)
    prompt = nv.encode(model, "what color is the ring ?", scene.image)
    cut = nv.Knockout("image", "last")
    page = nv.view(model, prompt, cut, quantities=["weight", "causal"], objects=scene.objects)
    print(page)
    page.save(path)


if __name__ == "__main__":
    main()
