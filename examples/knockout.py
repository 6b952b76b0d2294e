"""Which layers carry the picture to the answer? A knockout sweep, with a proof that a cut is exact.

Run: python examples/knockout.py
"""

import nnsight_vlm as nv


def main() -> None:
    model = nv.load("shapes")
    scene = nv.shapes.scene(11)
    prompt = nv.encode(model, "how many objects are there ?", scene.image)
    answer = nv.generate(model, prompt, max_new_tokens=1).tokens[0]

    windows = {f"{n}:{n + 3}": nv.Knockout("image", "text", layers=nv.window(n, n + 3)) for n in range(8)}
    frame = nv.sweep(model, prompt, windows | {"blind": nv.Knockout("image", "text")}, answer=answer)
    frame["change"] = frame["logprob"] - frame["clean_logprob"]
    print(f"{len(scene.objects)} objects; run as {frame.attrs['execution']}")
    print(frame[["variant", "logprob", "change", "rank", "top_token"]].round(3).to_string(index=False))
    print(nv.verify(model, prompt, windows["3:6"]))


if __name__ == "__main__":
    main()
