/** The present question and change as Python, to go on from in a script. */

import { BOXED, canTryPixels, type Form } from "./liveform";

/** Lines of Python that give the same answer, page and proof. */
export function python(form: Form, model: string): string {
  const lines = ["import nnsight_vlm as nv", "", `model = nv.load(${text(model)})`, `prompt = nv.encode(model, ${text(form.question.value)}, "picture.png")`];
  const change = changeOf(form);
  if (form.kind.value === "patch") {
    lines.push(`other = nv.encode(model, ${text(form.question.value)}, "other.png")`);
  }
  if (change !== "") {
    lines.push(`change = ${change}`);
  }
  const more = form.more.value.length === 0 ? "" : `, quantities=[${["weight", ...form.more.value].map(text).join(", ")}]`;
  lines.push(`page = nv.view(model, prompt${change === "" ? "" : ", change"}${more}, max_new_tokens=${form.length.value.trim()})`, 'page.save("view.html")');
  if (change !== "") {
    lines.push(`print(nv.verify(model, prompt, change${canTryPixels(form) && form.pixels.value ? ", pixels=True" : ""}))`);
  }
  return lines.join("\n");
}

function changeOf(form: Form): string {
  const place = (name: string) => (name === BOXED ? `prompt.region((${form.box.value.join(", ")}))` : text(name));
  if (form.kind.value === "patch") {
    return `nv.Patch(${place(form.where.value)}, source=other, layers=${form.layer.value.trim()})`;
  }
  if (form.kind.value === "none") {
    return "";
  }
  const heads = form.heads.value.split(/[\s,]+/).filter((each) => each !== "" && each !== "all");
  const parts = [place(form.source.value), place(form.target.value), `layers=${layersOf(form.layers.value.trim())}`];
  if (heads.length > 0) {
    parts.push(`heads=[${heads.join(", ")}]`);
  }
  if (form.how.value !== "mask") {
    parts.push(`how=${text(form.how.value)}`);
  }
  return `nv.Knockout(${parts.join(", ")})`;
}

/** Layers as Python has them: 3:7 is a window, 0.25:0.75 a depth. */
function layersOf(given: string): string {
  const [start, stop] = given.split(":");
  if (stop !== undefined) {
    return `nv.${given.includes(".") ? "depth" : "window"}(${start}, ${stop})`;
  }
  return /^-?\d+$/.test(given) ? given : given.includes(",") ? `[${given}]` : text(given);
}

/** A text as Python spells it; JSON spells it so, too. */
function text(value: string): string {
  return JSON.stringify(value);
}
