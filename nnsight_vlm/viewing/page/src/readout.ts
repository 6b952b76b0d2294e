/** The present word and patch in words and numbers, below the picture and for the live region. */

import { effect } from "@preact/signals-core";
import { element, type Child } from "./elements";
import type { Measured } from "./measured";
import { named, nearest, rowValues, type Derived, type Painting } from "./painting";
import type { NamedObject } from "./payload";
import type { State } from "./state";
import { pixels, spelled } from "./numbers";

/** How many patches and words are listed. */
const LISTED = 5;

export interface LensWord {
  word: string;
  probability: number;
}

/** The layer whose lens words are shown: the chosen one or that closest to it; under a mean, the last one. */
export function lensLayer(measured: Measured, state: State): number | null {
  const lens = measured.columns[state.word.value?.column ?? 0].lens;
  if (lens === null || lens.spec.layers.length === 0) {
    return null;
  }
  return state.mean.value ? lens.spec.layers[lens.spec.layers.length - 1] : nearest(lens.spec.layers, state.layer.value);
}

/** The lens word of each token at that layer. */
export function lensWord(measured: Measured, state: State): (token: number) => LensWord | null {
  const lens = measured.columns[state.word.value?.column ?? 0].lens;
  const layer = lensLayer(measured, state);
  return (token) => (lens === null || layer === null ? null : lens.at(layer, token));
}

/** The place of a token: its panel, cell and box. */
export interface TokenPlace {
  panel: number;
  label: string;
  cell: [number, number];
  box: [number, number, number, number];
}

export function placeOf(measured: Measured, token: number): TokenPlace | null {
  let known = PLACES.get(measured);
  if (known === undefined) {
    known = placesOf(measured);
    PLACES.set(measured, known);
  }
  return known.get(token) ?? null;
}

const PLACES = new WeakMap<Measured, Map<number, TokenPlace>>();

function placesOf({ payload }: Measured): Map<number, TokenPlace> {
  const found = new Map<number, TokenPlace>();
  payload.panels.forEach((panel, number) => {
    panel.tokens.forEach((token, at) => found.set(token, { panel: number, label: panel.label, cell: panel.cells[at], box: panel.boxes[at] }));
  });
  return found;
}

/** A patch in short: its cell, and its panel where there are several. */
export function patchName(measured: Measured, token: number): string {
  const place = placeOf(measured, token);
  if (place === null) {
    return `image token ${token}, which has no place in the picture`;
  }
  const cell = `row ${place.cell[0]}, column ${place.cell[1]}`;
  return measured.payload.panels.length > 1 ? `${place.label}: ${cell}` : cell;
}

/** The patches with the largest values, without those left out. */
export function topPatches(painting: Painting, count = LISTED): [number, number][] {
  const { values, omitted } = painting;
  if (values === null) {
    return [];
  }
  const best: [number, number][] = [];
  for (let token = 0; token < values.length; token++) {
    const size = Math.abs(values[token]);
    const isLow = size === 0 || (best.length === count && size <= Math.abs(best[count - 1][1]));
    if (isLow || (omitted !== null && omitted[token] === 1)) {
      continue;
    }
    const at = best.findIndex(([, value]) => Math.abs(value) < size);
    best.splice(at < 0 ? best.length : at, 0, [token, values[token]]);
    best.length = Math.min(best.length, count);
  }
  return best;
}

/** The word that is looked at, below the picture. */
export function readout(measured: Measured, derived: Derived): HTMLElement {
  const holder = element("div", { id: "readout", class: "readout" });
  effect(() => {
    const twin = derived.twin.value;
    const second = twin === null || twin.of === "" ? [] : wordLines(measured, twin);
    holder.replaceChildren(...wordLines(measured, derived.painting.value), ...second);
  });
  return holder;
}

function wordLines(measured: Measured, painting: Painting): HTMLElement[] {
  if (painting.of === "") {
    return painting.why !== "" ? [missing(painting.why, "")] : [element("p", { class: "hint" }, "Point at a word, or move to it with Tab and the arrow keys: the patches that it reads are painted. Click or press Enter to keep it.")];
  }
  const sure = painting.logprob === null ? "" : ` \u00b7 written with probability ${spelled(Math.exp(painting.logprob))}`;
  const lines = [element("p", {}, element("strong", {}, painting.of), [painting.title, painting.where].filter((each) => each !== "").map((each) => ` \u00b7 ${each}`).join("") + sure)];
  if (painting.values === null) {
    return [...lines, missing(painting.why, painting.how)];
  }
  const top = topPatches(painting);
  const sum = painting.values.reduce((one, other) => one + other, 0);
  lines.push(
    element(
      "p",
      {},
      top.length === 0 ? "0 at every patch." : "Largest: ",
      ...top.flatMap(([token, value], at): Child[] => [
        `${at > 0 ? " \u00b7 " : ""}${patchName(measured, token)} `,
        element("b", { class: "value" }, spelled(value)),
      ]),
    ),
  );
  if (painting.rounding !== null) {
    lines.push(element("p", { class: "quiet" }, `Below rounding (${spelled(painting.limit)}): no patch matters alone.`));
  }
  if (painting.unit.startsWith("share")) {
    lines.push(element("p", { class: "quiet" }, `Sum over all ${painting.values.length} image tokens: ${spelled(sum)}`));
  }
  return lines;
}

/** A sentence on what is not there, and the line of Python that gets it; where quantities do, the command's option too. */
export function missing(why: string, how: string): HTMLElement {
  const asked = /quantities=\[([^\]]*)\]/.exec(how)?.[1].replace(/[" ]/g, "") ?? "";
  const option = asked === "" ? [] : [" or ", element("code", {}, `nnsight-vlm view ... --quantities ${asked}`)];
  return element("p", { class: "missing" }, why, ...(how === "" ? [] : [" To get it: ", element("code", {}, how), ...option]));
}

function patchLines(measured: Measured, state: State, derived: Derived): HTMLElement[] {
  const token = state.patch.value;
  if (token === null) {
    return [];
  }
  const { values } = derived.painting.value;
  const facts = [`image token ${token}, position ${measured.payload.positions[token]} of the prompt`];
  const place = placeOf(measured, token);
  if (place !== null) {
    const [x0, y0, x1, y1] = place.box.map(pixels);
    facts.push(`pixels x ${x0}\u2013${x1}, y ${y0}\u2013${y1}`);
  }
  const lines = [
    element("p", {}, element("strong", {}, place === null ? "No patch" : `Patch ${patchName(measured, token)}`), ` \u00b7 ${facts.join(" \u00b7 ")}`),
  ];
  const notes = [...patchNotes(measured, state, derived, token), ...(values === null ? [] : [`${isRead(state) ? "read by" : "counts for"} this word: ${spelled(values[token])}`])];
  if (notes.length > 0) {
    lines.push(element("p", {}, notes.join(" \u00b7 ")));
  }
  return lines;
}

/** Whether the quantity says what words read, and not what they would lose or gain. */
function isRead(state: State): boolean {
  return ["weight", "contribution"].includes(state.quantity.value);
}

/** What else is known of a patch: its lens word, objects, and whether it is a sink. */
function patchNotes(measured: Measured, state: State, derived: Derived, token: number): string[] {
  const notes: string[] = [];
  const word = lensWord(measured, state)(token);
  if (word !== null) {
    notes.push(`lens word at layer ${lensLayer(measured, state)}: \u201c${word.word}\u201d (probability ${spelled(word.probability)})`);
  }
  const touched = objectsAt(measured, token).map((each) => each.name);
  if (touched.length > 0) {
    notes.push(`in ${touched.join(", ")}`);
  }
  if (derived.painting.value.sinks?.[token] === 1) {
    notes.push("a sink: it draws attention whatever the text asks");
  }
  return notes;
}

function objectsAt(measured: Measured, token: number): NamedObject[] {
  const place = placeOf(measured, token);
  if (place === null) {
    return [];
  }
  const [x, y] = [(place.box[0] + place.box[2]) / 2, (place.box[1] + place.box[3]) / 2];
  const { panels, objects } = measured.payload;
  return objects.filter(({ picture, box }) => picture === panels[place.panel].picture && x >= box[0] && x < box[2] && y >= box[1] && y < box[3]);
}

/** The words that read the patch most, as `[column, index, value]`. */
export function topWords(measured: Measured, derived: Derived, count = LISTED): [number, number, number][] {
  const readers = derived.readers.value;
  if (readers === null) {
    return [];
  }
  const all = readers.values.flatMap((values, column) => [...values].map((value, index): [number, number, number] => [column, index, value]));
  const known = all.filter(([, , value]) => !Number.isNaN(value) && value !== 0);
  known.sort((one, other) => Math.abs(other[2]) - Math.abs(one[2]));
  return known.slice(0, count).filter(([column, index]) => measured.columns[column].words[index] !== undefined);
}

/** The patch that is looked at, and the list of those words. */
export function readersList(measured: Measured, state: State, derived: Derived): HTMLElement {
  const holder = element("div", { id: "readers", class: "readers" });
  effect(() => {
    const token = state.patch.value;
    const top = topWords(measured, derived);
    const readers = derived.readers.value;
    const heading = element("h3", {}, isRead(state) ? "Words that read it most" : "Words for which it counts most");
    const spans = readers === null ? "" : `Shades of words: ${readers.signed ? `\u2212${spelled(readers.limit)}` : "0"} to ${spelled(readers.limit)}, ${readers.limit === readers.largest ? "the largest among words" : `and no more than ${spelled(readers.largest)} is here: below rounding`}.`;
    const items = top.map(([column, index, value]) => element("li", {}, `${named(measured, { column, index })} `, element("b", { class: "value" }, spelled(value))));
    const none = element("p", { class: "quiet" }, "No word that was measured reads this patch.");
    const hint = element("p", { class: "hint" }, "Point at a patch: the words that read it are shaded.");
    holder.replaceChildren(...(token === null ? [hint] : [...patchLines(measured, state, derived), heading, ...(items.length === 0 ? [none] : [element("ol", {}, ...items), element("p", { class: "quiet" }, spans)])]));
  });
  return holder;
}

/** What the live region says: the same in one sentence, a moment after the last change. */
export function speaker(measured: Measured, state: State, derived: Derived): HTMLElement {
  const said = element("output", { id: "said", "aria-live": "polite", class: "unseen" });
  let waiting = 0;
  effect(() => {
    const text = sentence(measured, state, derived);
    clearTimeout(waiting);
    waiting = setTimeout(() => (said.textContent = text), 200);
  });
  return said;
}

function sentence(measured: Measured, state: State, derived: Derived): string {
  const painting = derived.painting.value;
  const parts: string[] = [];
  const token = state.patch.value;
  if (token !== null && (state.hoveredPatch.value !== null || painting.of === "")) {
    const top = topWords(measured, derived, 3).map(([column, index, value]) => `${named(measured, { column, index })} ${spelled(value)}`);
    parts.push(`Patch ${patchName(measured, token)}. ${top.length === 0 ? "No word measured reads it." : `Read most by ${top.join("; ")}.`}`);
    parts.push(...patchNotes(measured, state, derived, token).map((each) => `${each}.`));
    return parts.join(" ");
  }
  if (painting.of === "") {
    return "";
  }
  parts.push(`${[painting.of, painting.title, painting.where].filter((each) => each !== "").join(", ")}.`);
  if (painting.values === null) {
    parts.push(painting.why, painting.how);
    return parts.join(" ");
  }
  const top = topPatches(painting, 3).map(([each, value]) => `${patchName(measured, each)} ${spelled(value)}`);
  parts.push(top.length === 0 ? "0 at every patch." : `Most at ${top.join("; ")}.`);
  return parts.join(" ");
}

/** Values that the page paints for a row of a column, `[token]`: for tests and the console. */
export function painted(measured: Measured, state: State, column: number, row: number): Float32Array {
  const values = rowValues(measured.columns[column], state, row);
  return values ?? new Float32Array(measured.payload.tokens);
}

