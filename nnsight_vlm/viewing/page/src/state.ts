/** What the person has chosen: signals, and nothing derived from them. */

import { batch, computed, signal, type ReadonlySignal, type Signal } from "@preact/signals-core";
import type { Column, Measured } from "./measured";

export interface WordPlace {
  column: number;
  index: number;
}

export const SHOWN = ["grid", "objects", "sinks", "lens", "numbers"] as const;
export type Shown = (typeof SHOWN)[number];
export type ScaleOver = "map" | "layers";

/** The quantities a page may have, in the order in which they are offered. */
export const KNOWN_QUANTITIES = ["weight", "contribution", "gradient", "causal"];
export const QUANTITY_TITLES: Record<string, string> = {
  weight: "attention weight",
  contribution: "contribution",
  gradient: "gradient",
  causal: "causal effect",
};

export interface State {
  quantity: Signal<string>;
  /** A layer's own number, kept while the mean is shown. */
  layer: Signal<number>;
  mean: Signal<boolean>;
  head: Signal<string>;
  scale: Signal<ScaleOver>;
  omit: Signal<boolean>;
  difference: Signal<boolean>;
  /** Both columns side by side: the word at this place in each. */
  beside: Signal<boolean>;
  opacity: Signal<number>;
  show: Record<Shown, Signal<boolean>>;
  pinnedWord: Signal<WordPlace | null>;
  pinnedPatch: Signal<number | null>;
  hoveredWord: Signal<WordPlace | null>;
  focusedWord: Signal<WordPlace | null>;
  hoveredPatch: Signal<number | null>;
  /** The word and patch that count now: under the pointer, in focus or pinned. */
  word: ReadonlySignal<WordPlace | null>;
  patch: ReadonlySignal<number | null>;
}

export function stateOf(measured: Measured): State {
  const first = measured.columns[0];
  const quantity = first.quantities.keys().next().value ?? KNOWN_QUANTITIES[0];
  const pinnedWord = signal<WordPlace | null>(null);
  const hoveredWord = signal<WordPlace | null>(null);
  const focusedWord = signal<WordPlace | null>(null);
  const pinnedPatch = signal<number | null>(null);
  const hoveredPatch = signal<number | null>(null);
  return {
    quantity: signal(quantity),
    layer: signal(middleLayer(first, quantity)),
    mean: signal(true),
    head: signal(first.quantities.get(quantity)?.spec.heads[0] ?? "mean"),
    scale: signal<ScaleOver>("map"),
    omit: signal(false),
    difference: signal(false),
    beside: signal(false),
    opacity: signal(70),
    show: {
      grid: signal(false),
      objects: signal(true),
      sinks: signal(true),
      lens: signal(false),
      numbers: signal(false),
    },
    pinnedWord,
    pinnedPatch,
    hoveredWord,
    focusedWord,
    hoveredPatch,
    word: computed(() => hoveredWord.value ?? focusedWord.value ?? pinnedWord.value),
    patch: computed(() => hoveredPatch.value ?? pinnedPatch.value),
  };
}

/** The first word of the answer that has a map: what is shown before anything was chosen. */
export function firstWord(column: Column, quantity: string): WordPlace | null {
  const maps = column.quantities.get(quantity);
  const index = column.words.findIndex((word) => word.part === "generated" && maps?.has(word.row));
  return index < 0 ? null : { column: 0, index };
}

function middleLayer(column: Column, quantity: string): number {
  const layers = numbered(column.quantities.get(quantity)?.spec.layers ?? []);
  const others = [...column.quantities.values()].map((each) => numbered(each.spec.layers)).find((each) => each.length > 0);
  const all = layers.length > 0 ? layers : (others ?? [0]);
  return all[Math.floor(all.length / 2)];
}

/** The layers of a quantity that have numbers; none where it is of all layers at once. */
export function numbered(layers: (number | string)[]): number[] {
  return layers.filter((each): each is number => typeof each === "number");
}

/** Whether two places are the same word. */
export function same(one: WordPlace | null, other: WordPlace | null): boolean {
  return one?.column === other?.column && one?.index === other?.index;
}

/** Pins a word, or lets go of it where it is pinned. */
export function pinWord(state: State, place: WordPlace): void {
  state.pinnedWord.value = same(state.pinnedWord.value, place) ? null : place;
}

export function pinPatch(state: State, token: number): void {
  state.pinnedPatch.value = state.pinnedPatch.value === token ? null : token;
}

export function letGo(state: State): void {
  batch(() => {
    state.pinnedWord.value = null;
    state.pinnedPatch.value = null;
    state.hoveredWord.value = null;
    state.focusedWord.value = null;
    state.hoveredPatch.value = null;
  });
}
