/** What is painted now: one value for each image token, its scale, and what it is in words. Derived from the state. */

import { computed, type ReadonlySignal } from "@preact/signals-core";
import { largestOf, type Column, type LayerPlace, type Measured, type Quantity } from "./measured";
import { numbered, QUANTITY_TITLES, type State, type WordPlace } from "./state";

export interface Painting {
  /** `[token]`, or null where nothing is painted. */
  values: Float32Array | null;
  /** The value of the last colour. */
  limit: number;
  /** The largest value, where it is so small that it may be rounding: then the scale ends above it. Else null. */
  rounding: number | null;
  signed: boolean;
  /** 1 for tokens without a colour, because they are sinks that were left out. */
  omitted: Uint8Array | null;
  /** 1 for tokens that are sinks at this layer. */
  sinks: Uint8Array | null;
  title: string;
  unit: string;
  /** Of which word, and in which column. */
  of: string;
  /** Of which layer and head. */
  where: string;
  /** The log-probability of the word where it was written; null where it is not known. */
  logprob: number | null;
  /** Why nothing is painted, and how to get what is missing. */
  why: string;
  how: string;
}

/** What the state says about the quantity in one column. */
export interface Selected {
  quantity: Quantity | null;
  layer: LayerPlace;
  head: number;
}

export interface Derived {
  painting: ReadonlySignal<Painting>;
  /** The second column's map beside it; null where one map is shown. */
  twin: ReadonlySignal<Painting | null>;
  /** What each word of each column reads of the patch that is looked at; null where no patch is. */
  readers: ReadonlySignal<Readers | null>;
}

export interface Readers {
  values: Float32Array[];
  /** The value of the strongest shade: the largest one, or what rounding may make where that is more. */
  limit: number;
  largest: number;
  signed: boolean;
}

export function derived(measured: Measured, state: State): Derived {
  const maps = computed(() => paintedMaps(measured, state));
  return {
    painting: computed(() => maps.value[0]),
    twin: computed(() => maps.value[1]),
    readers: computed(() => readersOf(measured, state)),
  };
}

/** The quantity, layer and head that are chosen, in one column. */
export function selected(column: Column, state: State): Selected {
  const quantity = column.quantities.get(state.quantity.value) ?? null;
  if (quantity === null) {
    return { quantity, layer: null, head: 0 };
  }
  const layers = numbered(quantity.spec.layers);
  const layer = state.mean.value || layers.length === 0 ? null : layers.indexOf(nearest(layers, state.layer.value));
  return { quantity, layer, head: Math.max(quantity.spec.heads.indexOf(state.head.value), 0) };
}

/** The number in a list that is closest to another. */
export function nearest(layers: number[], layer: number): number {
  return layers.reduce((best, each) => (Math.abs(each - layer) < Math.abs(best - layer) ? each : best), layers[0]);
}

/** Values of one row under the present choice; null where they were not measured. */
export function rowValues(column: Column, state: State, row: number): Float32Array | null {
  const { quantity, layer, head } = selected(column, state);
  return quantity === null ? null : quantity.row(layer, head, row);
}

function whereOf(measured: Measured, state: State): string {
  const { quantity, head } = selected(measured.columns[0], state);
  if (quantity === null) {
    return "";
  }
  const layers = numbered(quantity.spec.layers);
  const layer = state.mean.value ? `mean over ${layers.length} layers` : `layer ${nearest(layers, state.layer.value)}`;
  const name = quantity.spec.heads[head];
  const heads = quantity.spec.heads.length === 1 && layers.length === 0 ? "" : name === "mean" ? ", mean of heads" : `, head ${name}`;
  return (layers.length === 0 ? "all layers at once" : layers.length === 1 ? `layer ${layers[0]}` : layer) + heads;
}

const NOTHING: Painting = {
  values: null,
  limit: 0,
  rounding: null,
  signed: false,
  omitted: null,
  sinks: null,
  title: "",
  unit: "",
  of: "",
  where: "",
  logprob: null,
  why: "",
  how: "",
};

/** One map, or those of the words at one place in both columns, with one scale. */
function paintedMaps(measured: Measured, state: State): [Painting, Painting | null] {
  const place = state.word.value;
  if (!state.beside.value || state.difference.value || measured.columns.length < 2) {
    return [painted(measured, state, place), null];
  }
  if (place === null) {
    return [painted(measured, state, null), painted(measured, state, null)];
  }
  const [one, other] = [0, 1].map((column) => painted(measured, state, { column, index: place.index }));
  const limit = Math.max(one.limit, other.limit);
  const rounding = one.rounding === null || other.rounding === null ? null : Math.max(one.rounding, other.rounding);
  return [{ ...one, limit, rounding }, { ...other, limit, rounding }];
}

function painted(measured: Measured, state: State, place: WordPlace | null): Painting {
  const sinks = sinksNow(measured.columns[place?.column ?? 0], measured, state);
  const word = place === null ? undefined : measured.columns[place.column]?.words[place.index];
  if (place === null || word === undefined) {
    return { ...NOTHING, sinks, why: place === null ? "" : "This column has no word at this place." };
  }
  const quantity = measured.columns[place.column].quantities.get(state.quantity.value);
  const about = {
    ...NOTHING,
    sinks,
    title: quantity?.spec.title ?? QUANTITY_TITLES[state.quantity.value] ?? state.quantity.value,
    unit: quantity?.spec.unit ?? "",
    of: named(measured, place),
    where: whereOf(measured, state),
    logprob: word.logprob,
  };
  if (quantity === undefined) {
    return { ...about, why: "This page does not have this quantity." };
  }
  if (word.row < 0) {
    return { ...about, why: word.why || "This word reads nothing of the picture." };
  }
  if (!quantity.has(word.row)) {
    return { ...about, why: "This was not measured for this word.", how: quantity.spec.missing };
  }
  return state.difference.value && measured.columns.length > 1
    ? differing(measured, state, place, about)
    : alone(measured, state, place, word.row, about);
}

/** The map of one word. */
function alone(measured: Measured, state: State, place: WordPlace, row: number, about: Painting): Painting {
  const column = measured.columns[place.column];
  const { quantity, layer, head } = selected(column, state);
  const values = quantity?.row(layer, head, row) ?? null;
  const omitted = state.omit.value ? about.sinks : null;
  const limit = state.scale.value === "layers" ? (quantity?.limit(head, row, omitted) ?? 0) : largestOf(values, omitted);
  return { ...about, values, ...scaled(limit, quantity), omitted, signed: quantity?.spec.signed ?? false };
}

/** The first column's map less the second's, of the word that stands at the same place in both. */
function differing(measured: Measured, state: State, place: WordPlace, about: Painting): Painting {
  const [one, other] = measured.columns;
  const words = [one.words[place.index], other.words[place.index]];
  if (words[0] === undefined || words[1] === undefined || words[0].text !== words[1].text || words[0].part !== words[1].part) {
    return { ...about, why: "There is no difference to show: the other column has another word at this place." };
  }
  const first = rowValues(one, state, words[0].row);
  const second = rowValues(other, state, words[1].row);
  if (first === null || second === null) {
    return { ...about, why: "This was not measured for this word in both columns.", how: wayTo(measured, state.quantity.value) };
  }
  const values = first.map((value, token) => value - second[token]);
  const omitted = state.omit.value ? about.sinks : null;
  const of = `\u201c${words[0].text}\u201d, ${one.key} \u2212 ${other.key}`;
  return { ...about, of, logprob: null, title: `difference in ${about.title}`, values, omitted, ...scaled(largestOf(values, omitted), selected(one, state).quantity), signed: true };
}

/** The end of a scale: the largest value, or what rounding may make where that is more. */
function scaled(largest: number, quantity: Quantity | null): Pick<Painting, "limit" | "rounding"> {
  const least = quantity?.spec.least ?? 0;
  return largest < least ? { limit: least, rounding: largest } : { limit: largest, rounding: null };
}

/** A word as it is named in sentences. */
export function named(measured: Measured, place: WordPlace): string {
  const column = measured.columns[place.column];
  const word = column.words[place.index];
  const title = measured.columns.length > 1 ? `, ${column.key}` : "";
  return `\u201c${word.text}\u201d (${word.part === "generated" ? "answer" : "prompt"}${title})`;
}

/** How to get a quantity that is not in the page. */
export function wayTo(measured: Measured, quantity: string): string {
  const told = measured.payload.missing ?? {};
  if (Object.hasOwn(told, quantity)) {
    return told[quantity];
  }
  const known = measured.columns[0].quantities;
  const names = [...new Set([...known.keys(), quantity])].map((each) => `"${each}"`);
  return `nv.view(model, prompt, quantities=[${names.join(", ")}])`;
}

/** Sinks at the layer that is shown; over several layers, what is a sink in any of them. */
function sinksNow(column: Column, measured: Measured, state: State): Uint8Array | null {
  const sinks = column.sinks;
  const { quantity } = selected(column, state);
  if (sinks === null) {
    return null;
  }
  const hasLayers = quantity !== null && numbered(quantity.spec.layers).length > 0;
  const at = sinks.layers.indexOf(nearest(sinks.layers, state.layer.value));
  const marked = new Uint8Array(measured.payload.tokens);
  for (const tokens of state.mean.value || !hasLayers ? sinks.tokens : [sinks.tokens[at] ?? []]) {
    for (const token of tokens) {
      marked[token] = 1;
    }
  }
  return marked;
}

function readersOf(measured: Measured, state: State): Readers | null {
  const token = state.patch.value;
  if (token === null) {
    return null;
  }
  let [least, largest] = [0, 0];
  let signed = false;
  const values = measured.columns.map((column) => {
    const { quantity, layer, head } = selected(column, state);
    const found = quantity?.column(layer, head, token) ?? new Float32Array(0);
    signed ||= quantity?.spec.signed ?? false;
    least = Math.max(least, quantity?.spec.least ?? 0);
    return Float32Array.from(column.words, (word) => {
      const value = word.row < 0 || word.row >= found.length ? NaN : found[word.row];
      largest = Number.isNaN(value) ? largest : Math.max(largest, Math.abs(value));
      return value;
    });
  });
  return { values, limit: Math.max(least, largest), largest, signed };
}

/** A column's heading: what it is called in sentences, and what was changed in it. */
export function headed({ key, title }: Column): string {
  return key === title ? key : `${key}: ${title}`;
}
