/** The page: data in, everything on the screen, and what tests take hold of. */

import { effect } from "@preact/signals-core";
import { arranged } from "./arrange";
import { controls } from "./controls";
import { element } from "./elements";
import { read, written } from "./fragment";
import { legend } from "./legend";
import { unpacked, type Measured } from "./measured";
import { hints, notes } from "./notes";
import { derived, headed, type Derived, type Painting } from "./painting";
import { PanelView } from "./panels";
import { loaded, type Drawable } from "./pictures";
import { painted, readersList, readout, speaker } from "./readout";
import { savers } from "./save";
import { copier, follow } from "./share";
import type { Source } from "./source";
import { firstWord, letGo, SHOWN, stateOf, type State } from "./state";
import { themes } from "./themes";
import { WordsView } from "./words";

/** Where an answer is shown: a page of its own, or a part of one that shows many, one after the other. */
export interface Place {
  isPart: boolean;
  /** Ends what is listened to outside the answer's own elements. */
  until: AbortSignal | null;
  /** What was chosen before, as a fragment; what of it means nothing here is passed over. */
  chosen: string;
  /** Measures a quantity that is not there; null where nobody can. */
  measure: ((quantity: string) => void) | null;
}

/** A page of its own. */
export const ALONE: Place = { isPart: false, until: null, chosen: "", measure: null };

/** Makes the page from a source of data; returns what was chosen in it, as a fragment, whenever it is asked. */
export async function show(source: Source, root: HTMLElement, place: Place): Promise<() => string> {
  const measured = await unpacked(await source.payload());
  const drawables = await Promise.all(measured.payload.pictures.map(loaded));
  const state = stateOf(measured);
  const refused = begin(measured, state, place);
  const view = derived(measured, state);
  const panels = panelsOf(measured, state, () => view.painting.value, drawables, false);
  const twins = measured.columns.length > 1 ? panelsOf(measured, state, () => view.twin.value ?? view.painting.value, drawables, true) : [];
  const { status, say } = teller();
  if (!place.isPart) {
    document.title = measured.payload.title;
  }
  root.replaceChildren(...page(measured, state, view, [panels, twins], drawables, say, place), status, speaker(measured, state, view));
  panels.forEach((each) => each.resize());
  if (refused.length > 0) {
    say(`The link asked for something that is not in this page: ${refused.join(", ")}.`);
  }
  const letGoOf = (event: KeyboardEvent) => (event.key === "Escape" && !event.defaultPrevented ? letGo(state) : undefined);
  document.addEventListener("keydown", letGoOf, place.until === null ? {} : { signal: place.until });
  hook(measured, state, panels);
  requestAnimationFrame(() => {
    panels.forEach((each) => each.draw());
    document.documentElement.dataset.ready = "true";
  });
  return () => written(state);
}

/** What is chosen at first; returns what was asked for that means nothing here. */
function begin(measured: Measured, state: State, place: Place): string[] {
  const choose = () => (state.pinnedWord.value = firstWord(measured.columns[0], state.quantity.value));
  if (!place.isPart) {
    choose();
    return follow(measured, state);
  }
  const kept = new URLSearchParams(place.chosen);
  ["w", "p"].forEach((each) => kept.delete(each));
  read(kept.toString(), state, measured);
  choose();
  return [];
}

function page(measured: Measured, state: State, view: Derived, [panels, twins]: [PanelView[], PanelView[]], drawables: Drawable[], say: (text: string) => void, place: Place): HTMLElement[] {
  const { payload, columns } = measured;
  const holder = element("div", { class: "sets" }, pictureSet(measured, 0, arranged(payload, panels)), twins.length === 0 ? null : pictureSet(measured, 1, arranged(payload, twins)));
  effect(() => {
    const isBeside = view.twin.value !== null;
    holder.classList.toggle("beside", isBeside);
    [...panels, ...twins].forEach((each) => each.resize());
  });
  const words = columns.map((_, number) => new WordsView(measured, number, state, view).section);
  const files = savers({ measured, state, derived: view, holder, drawables }, say);
  const tools = place.isPart ? files : [copier(state, say), ...files, themes()];
  return [
    element("header", {}, place.isPart ? element("h2", {}, "What each word read") : element("h1", {}, payload.title), element("div", { class: "tools" }, ...tools)),
    element(
      place.isPart ? "div" : "main",
      {},
      controls(measured, state, place.measure),
      element(
        "div",
        { class: columns.length > 1 ? "stage pair" : "stage" },
        element("section", { class: "seen", "aria-label": "picture" }, holder, legend(measured, state, view), readout(measured, view)),
        element("div", { class: "said" }, element("div", { class: "columns" }, ...words), wordKey(measured), readersList(measured, state, view)),
      ),
    ),
    notes(measured),
    hints(),
  ];
}

/** A canvas for each panel. */
function panelsOf(measured: Measured, state: State, painting: () => Painting, drawables: Drawable[], isTwin: boolean): PanelView[] {
  return measured.payload.panels.map((panel, number) => new PanelView(measured, number, state, painting, drawables[panel.picture], isTwin));
}

/** One column's pictures; its title is shown where both are. */
function pictureSet(measured: Measured, column: number, groups: HTMLElement[]): HTMLElement {
  return element("div", { class: column === 0 ? "pictures" : "pictures twins" }, element("h3", { class: "of", title: headed(measured.columns[column]) }, headed(measured.columns[column])), ...groups);
}

/** How words are marked, of the marks that are there. */
function wordKey(measured: Measured): HTMLElement {
  const all = measured.columns.flatMap((each) => each.words);
  const silent = element("span", { class: "word silent" }, "grey");
  const changed = element("span", { class: "word changed" }, "underlined");
  return element(
    "p",
    { class: "quiet key" },
    ...(all.some((word) => word.part === "system") ? [element("span", { class: "word system" }, "slanted"), ": system text. "] : []),
    ...(all.some((word) => word.part === "markup" && word.picture === undefined) ? [element("span", { class: "word markup" }, "monospaced"), ": of the chat template. "] : []),
    ...(all.some((word) => word.row < 0) ? [silent, ": reads nothing of the picture; point at it for the reason. "] : []),
    ...(all.some((word) => word.changed) ? [changed, ": another word than in the other column."] : []),
  );
}

/** Short news for everybody: what was copied, saved or not understood. */
function teller(): { status: HTMLElement; say: (text: string) => void } {
  const status = element("div", { id: "status", role: "status", class: "status" });
  let waiting = 0;
  const say = (text: string) => {
    status.textContent = text;
    clearTimeout(waiting);
    waiting = setTimeout(() => (status.textContent = ""), 8000);
  };
  return { status, say };
}

/** What tests and the console take hold of. */
function hook(measured: Measured, state: State, panels: PanelView[]): void {
  const hooks = {
    get state() {
      return plain(state);
    },
    paint: (column: number, row: number) => painted(measured, state, column, row),
    patchAt: (panel: number, x: number, y: number) => panels[panel].tokenAt(x, y),
    boxOf: (panel: number, token: number) => panels[panel].boxOf(token),
    open: (fragment: string) => read(fragment, state, measured),
  };
  Object.defineProperty(window, "nnsightVlmView", { value: hooks, configurable: true });
}

function plain(state: State): Record<string, unknown> {
  return {
    quantity: state.quantity.value,
    layer: state.mean.value ? "mean" : state.layer.value,
    head: state.head.value,
    scale: state.scale.value,
    omit: state.omit.value,
    difference: state.difference.value,
    beside: state.beside.value,
    opacity: state.opacity.value,
    show: SHOWN.filter((each) => state.show[each].value),
    word: state.word.value,
    patch: state.patch.value,
    pinnedWord: state.pinnedWord.value,
    pinnedPatch: state.pinnedPatch.value,
    fragment: written(state),
  };
}

