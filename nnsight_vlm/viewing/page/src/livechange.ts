/** The fields of a change: what is hidden from what, or whose states are written in where. */

import { effect } from "@preact/signals-core";
import { element } from "./elements";
import { complaint, field, input, radio, select, shownWhere } from "./livefields";
import { BOXED, type Form, type Kind } from "./liveform";
import type { Facts } from "./server";

const KIND_TITLES: Record<Kind, string> = {
  none: "nothing",
  cut: "cut: some tokens cannot read others",
  patch: "patch: states from another picture",
};
const BOX_TITLE = "box: the patches in the box";
/** Token groups, as `nv` names them, with what they are. */
const GROUPS: Record<string, string> = {
  image: "image: the whole picture",
  [BOXED]: BOX_TITLE,
  system: "system: the text before the picture",
  query: "query: the text behind the picture",
  question: "question: its words, without the last token",
  last: "last: the prompt's last token",
  text: "text: all text, and the answer",
  generated: "generated: the words of the answer",
};
const SOURCES = ["image", BOXED, "system", "question", "query", "last", "text", "generated"];
const TARGETS = ["text", "last", "question", "query", "generated", "image", BOXED];
const PLACES = ["image", BOXED, "question", "query", "last"];
const HOWS: [string, string][] = [
  ["mask", "mask: the rest of the row shares its weight"],
  ["zero", "zero: its weight is lost"],
];
const EDGES = ["left", "top", "right", "bottom"] as const;

const named = (names: string[]): [string, string][] => names.map((each) => [each, GROUPS[each]]);

/** What is changed, with the fields that the chosen kind has. */
export function changeFields(form: Form, facts: Facts, other: HTMLElement): HTMLElement {
  const kinds = (Object.keys(KIND_TITLES) as Kind[]).map((each) => radio("kind", each, KIND_TITLES[each], form.kind));
  const isKind = (kind: Kind) => () => form.kind.value === kind;
  return element(
    "div",
    { class: "change" },
    element("fieldset", { class: "choices" }, element("legend", {}, "Change"), ...kinds),
    shownWhere(element("div", { class: "entries" }, ...cutFields(form, facts)), isKind("cut")),
    shownWhere(element("div", { class: "entries" }, ...patchFields(form, facts)), isKind("patch")),
    shownWhere(boxFields(form), () => form.isBoxed.value),
    shownWhere(other, isKind("patch")),
  );
}

function cutFields(form: Form, facts: Facts): HTMLElement[] {
  return [
    field("source", "Hide", select(form.source, named(SOURCES)), form.wrong),
    field("target", "from", select(form.target, named(TARGETS)), form.wrong),
    field("how", "by", select(form.how, HOWS), form.wrong),
    field("layers", "in layers", input(form.layers, { spellcheck: "false" }), form.wrong, `all; 4; 1,2,5; 3:7 (3 to 6). Layers 0 to ${facts.layers - 1}; -1 is the last`),
    field("heads", "in heads", input(form.heads, { spellcheck: "false" }), form.wrong, `all, or numbers from 0 to ${facts.heads - 1}`),
  ];
}

function patchFields(form: Form, facts: Facts): HTMLElement[] {
  const layer = input(form.layer, { type: "number", min: -facts.layers, max: facts.layers - 1, step: 1 });
  return [
    field("where", "Write the other picture's states at", select(form.where, named(PLACES)), form.wrong),
    field("layer", "after layer", layer, form.wrong, `0 to ${facts.layers - 1}; -1 is the last`),
  ];
}

/** The box in numbers, for the keyboard. */
function boxFields(form: Form): HTMLElement {
  const edges = EDGES.map((name, at) => {
    const made = element("input", { type: "number", step: 1, min: 0, id: `box-${name}`, "aria-describedby": "ask-box-wrong" });
    made.addEventListener("input", () => {
      const value = Number(made.value);
      if (made.value !== "" && Number.isFinite(value)) {
        form.box.value = form.box.value.with(at, value) as Form["box"]["value"];
      }
    });
    effect(() => {
      const { width, height } = form.pictures.picture.value ?? { width: 0, height: 0 };
      made.max = String(at % 2 === 0 ? width : height);
      if (made.value === "" || Number(made.value) !== form.box.value[at]) {
        made.value = String(form.box.value[at]);
      }
    });
    return element("span", { class: "edge" }, element("label", { for: made.id }, name), made);
  });
  return element("fieldset", { class: "edges" }, element("legend", {}, "Box, in pixels"), ...edges, element("p", { class: "quiet" }, "or draw it on the picture"), complaint("box", form.wrong));
}
