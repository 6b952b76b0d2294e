/** What stands below: what was left out, how the page was made, and its keys. */

import { element } from "./elements";
import type { Measured } from "./measured";

export function notes(measured: Measured): HTMLElement {
  const { payload } = measured;
  const left = payload.notes;
  const facts = payload.facts.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
  return element(
    "footer",
    {},
    left.length === 0 ? null : element("section", { class: "notes", "aria-label": "notes" }, element("h2", {}, "Notes"), element("ul", {}, ...left.map((each) => element("li", {}, each)))),
    element("details", { id: "facts" }, element("summary", {}, "How this was made"), element("dl", {}, ...facts)),
    keys(),
  );
}

function keys(): HTMLElement {
  const rows: [string, string][] = [
    ["Tab", "to the words, the pictures and the controls"],
    ["\u2190 \u2192 \u2191 \u2193", "to the next word or patch"],
    ["Home, End", "to the first and last word or patch"],
    ["Enter, Space", "keep the word or patch; once more, let go of it"],
    ["Page Up, Page Down", "next and previous layer, from a word or patch"],
    ["Esc", "let go of everything"],
  ];
  const list = rows.flatMap(([key, meaning]) => [element("dt", {}, element("kbd", {}, key)), element("dd", {}, meaning)]);
  const counted = element("p", { class: "quiet" }, "Rows, columns, layers and tokens are counted from 0, as in Python.");
  return element("details", { id: "keys" }, element("summary", {}, "Keys, and how things are counted"), element("dl", {}, ...list), counted);
}

/** What screen readers say of words and pictures. */
export function hints(): HTMLElement {
  return element(
    "div",
    { hidden: true },
    element("p", { id: "word-keys" }, "Arrow keys go from word to word, Enter keeps one, Page Up and Page Down change the layer."),
    element("p", { id: "panel-keys" }, "Arrow keys go from patch to patch, Enter keeps one, Page Up and Page Down change the layer."),
  );
}
