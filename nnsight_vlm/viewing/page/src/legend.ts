/** What the colours mean, with their range. */

import { effect } from "@preact/signals-core";
import { coverOf, scaleFor, STEPS } from "./colors";
import { element } from "./elements";
import type { Measured } from "./measured";
import { hasOutside } from "./geometry";
import { lensLayer } from "./readout";
import { spelled } from "./numbers";
import type { Derived, Painting } from "./painting";
import type { State } from "./state";

export function legend(measured: Measured, state: State, derived: Derived): HTMLElement {
  const holder = element("div", { id: "legend", class: "legend" });
  effect(() => {
    const painting = derived.painting.value;
    const twin = derived.twin.value;
    const shown = painting.values === null && twin !== null ? twin : painting;
    const isPainted = shown.values !== null;
    holder.replaceChildren(...(isPainted ? [bar(shown, state), element("p", { class: "quiet" }, range(shown, state))] : []), ...marks(measured, state, painting));
  });
  return holder;
}

/** Ends and middle of a scale. */
export function ticks({ limit, signed }: Painting): number[] {
  return signed ? [-limit, 0, limit] : [0, limit / 2, limit];
}

/** What the scale spans, in words. */
export function range({ limit, rounding, signed, title, unit, omitted }: Painting, state: Pick<State, "scale" | "difference" | "beside">): string {
  const low = signed ? `\u2212${spelled(limit)}` : "0";
  const over = rounding !== null ? `and no more than ${spelled(rounding)} is here: below rounding (${spelled(limit)}), so no patch matters alone` : spanned(state);
  const left = omitted?.reduce((one, other) => one + other, 0) ?? 0;
  const sinks = left === 0 ? "" : `; ${left} sinks left out (hatched)`;
  return `${title}${unit === "" ? "" : `, ${unit}`}: ${low} to ${spelled(limit)}, ${over}${sinks}`;
}

/** What the end of a scale is the largest of. */
function spanned(state: Pick<State, "scale" | "difference" | "beside">): string {
  return state.scale.value === "layers" && !state.difference.value ? "its largest over all layers" : state.beside.value && !state.difference.value ? "the larger of both maps' largest" : "the largest of this map";
}

function bar(painting: Painting, state: State): HTMLElement {
  const { css } = scaleFor(painting.signed);
  const steps = Array.from({ length: 17 }, (_, at) => Math.round((at * (STEPS - 1)) / 16));
  const stops = steps.map((step) => css[step] + Math.round(255 * coverOf(step, painting.signed)).toString(16).padStart(2, "0"));
  const colors = element("div", { class: "colors" });
  colors.style.backgroundImage = `linear-gradient(to right, ${stops.join(", ")})`;
  colors.style.opacity = String(state.opacity.value / 100);
  const numbers = ticks(painting).map((each) => element("span", {}, spelled(each)));
  return element("div", { class: "bar" }, element("div", { class: "backing" }, colors), element("div", { class: "ticks" }, ...numbers));
}

/** What the marks on the picture are, of those that are there. */
function marks(measured: Measured, state: State, painting: Painting): HTMLElement[] {
  const notes: string[] = [];
  const sinks = painting.sinks?.reduce((one, other) => one + other, 0) ?? 0;
  if (state.show.sinks.value && sinks > 0) {
    notes.push(`\u25c7 sink (${sinks} ${state.mean.value ? "in any layer" : "here"})`);
  }
  if (state.show.lens.value) {
    const layer = lensLayer(measured, state);
    notes.push(layer === null ? "no lens words in this page" : `words: lens at layer ${layer}; where patches are too small for them, point at one`);
  }
  if (painting.values !== null) {
    notes.push("under a map the picture is grey, so that all colours are the map's; small values are nearly clear, so that the picture is seen");
  }
  if (state.show.numbers.value) {
    notes.push("numbers: positions in the prompt, where there is room");
  }
  if (measured.payload.panels.some((panel) => hasOutside(panel, measured.payload.pictures[panel.picture]))) {
    notes.push("grey: not seen by the model");
  }
  return notes.length === 0 ? [] : [element("p", { class: "quiet" }, notes.join(" \u00b7 "))];
}
