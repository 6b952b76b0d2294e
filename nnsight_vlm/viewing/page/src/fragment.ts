/** The state as the part of an address behind `#`, and back. A fragment is text of others: what it asks for is checked. */

import { batch } from "@preact/signals-core";
import type { Measured } from "./measured";
import { KNOWN_QUANTITIES, numbered, SHOWN, type State, type WordPlace } from "./state";

/** The state as a fragment, without `#`. */
export function written(state: State): string {
  const parts = new URLSearchParams();
  parts.set("q", state.quantity.value);
  parts.set("l", state.mean.value ? "mean" : String(state.layer.value));
  parts.set("h", state.head.value);
  const word = state.pinnedWord.value;
  if (word !== null) {
    parts.set("w", `${word.column}.${word.index}`);
  }
  if (state.pinnedPatch.value !== null) {
    parts.set("p", String(state.pinnedPatch.value));
  }
  if (state.scale.value === "layers") {
    parts.set("s", "layers");
  }
  if (state.difference.value) {
    parts.set("diff", "1");
  }
  if (state.beside.value) {
    parts.set("both", "1");
  }
  if (state.omit.value) {
    parts.set("omit", "1");
  }
  parts.set("show", SHOWN.filter((each) => state.show[each].value).join(","));
  parts.set("o", String(state.opacity.value));
  return parts.toString().replaceAll("%2C", ",");
}

/** Takes over what a fragment asks for; returns the parts of it that mean nothing here. */
export function read(fragment: string, state: State, measured: Measured): string[] {
  return batch(() => taken(fragment, state, measured));
}

function taken(fragment: string, state: State, measured: Measured): string[] {
  const parts = new URLSearchParams(fragment.replace(/^#/, ""));
  const refused = new Set<string>();
  state.pinnedWord.value = null;
  state.pinnedPatch.value = null;
  for (const [name, value] of parts) {
    const take = Object.hasOwn(TAKERS, name) ? TAKERS[name] : undefined;
    if (take === undefined) {
      refused.add(/^[a-z]{1,20}$/i.test(name) ? `\u201c${name}\u201d` : "something unknown");
    } else if (!take(value.slice(0, 200), state, measured)) {
      refused.add(NAMES[name]);
    }
  }
  return [...refused];
}

/** What the parts of a fragment are, in words. */
const NAMES: Record<string, string> = {
  q: "a quantity",
  l: "a layer",
  h: "a head",
  w: "a word",
  p: "a patch",
  s: "a scale",
  diff: "a difference",
  both: "two columns",
  omit: "sinks",
  show: "a mark",
  o: "an opacity",
};

type Taker = (value: string, state: State, measured: Measured) => boolean;

const TAKERS: Record<string, Taker> = {
  q: (value, state, measured) => {
    const known = KNOWN_QUANTITIES.includes(value) || measured.columns.some((each) => each.quantities.has(value));
    return known && put(state.quantity, value);
  },
  l: (value, state, measured) => {
    if (value === "mean") {
      return put(state.mean, true);
    }
    const layer = whole(value);
    const layers = measured.columns.flatMap((each) => [...each.quantities.values()].flatMap((one) => numbered(one.spec.layers)));
    return layer !== null && layers.includes(layer) && put(state.layer, layer) && put(state.mean, false);
  },
  h: (value, state, measured) => {
    const heads = measured.columns.flatMap((each) => [...each.quantities.values()].flatMap((one) => one.spec.heads));
    return heads.includes(value) && put(state.head, value);
  },
  w: (value, state, measured) => {
    const place = wordPlace(value);
    const isThere = place !== null && measured.columns[place.column]?.words[place.index] !== undefined;
    return isThere && put(state.pinnedWord, place);
  },
  p: (value, state, measured) => {
    const token = whole(value);
    return token !== null && token < measured.payload.tokens && put(state.pinnedPatch, token);
  },
  s: (value, state) => (value === "layers" || value === "map") && put(state.scale, value),
  diff: (value, state, measured) => (value === "1" || value === "0") && measured.columns.length > 1 && put(state.difference, value === "1"),
  both: (value, state, measured) => (value === "1" || value === "0") && measured.columns.length > 1 && put(state.beside, value === "1"),
  omit: (value, state) => (value === "1" || value === "0") && put(state.omit, value === "1"),
  show: (value, state) => {
    const asked = value === "" ? [] : value.split(",");
    for (const each of SHOWN) {
      state.show[each].value = asked.includes(each);
    }
    return asked.every((each) => (SHOWN as readonly string[]).includes(each));
  },
  o: (value, state) => {
    const percent = whole(value);
    return percent !== null && percent >= 10 && percent <= 100 && put(state.opacity, percent);
  },
};

function put<T>(target: { value: T }, value: T): boolean {
  target.value = value;
  return true;
}

function whole(text: string): number | null {
  return /^\d{1,7}$/.test(text) ? Number(text) : null;
}

function wordPlace(text: string): WordPlace | null {
  const found = /^(\d{1,2})\.(\d{1,6})$/.exec(text);
  return found === null ? null : { column: Number(found[1]), index: Number(found[2]) };
}
