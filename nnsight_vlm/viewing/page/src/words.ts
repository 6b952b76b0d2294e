/** Prompt and answer as words: a list of options for each column, gone over with the pointer or the arrow keys. */

import { effect } from "@preact/signals-core";
import { scaleFor, stepOf } from "./colors";
import { element, set } from "./elements";
import { changeLayer } from "./layers";
import type { Column, Measured } from "./measured";
import { headed, type Derived } from "./painting";
import type { Word } from "./payload";
import { letGo, pinWord, type State, type WordPlace } from "./state";

const TITLES: Record<string, string> = { prompt: "Prompt", generated: "Answer" };

/** One column of words. */
export class WordsView {
  readonly section: HTMLElement;
  private readonly options: HTMLElement[];
  private cursor: number;
  private readonly marked = { active: -1, pinned: -1 };

  constructor(
    private readonly measured: Measured,
    private readonly number: number,
    private readonly state: State,
    private readonly derived: Derived,
  ) {
    const column = measured.columns[number];
    this.options = column.words.map((word, index) => option(word, `${number}.${index}`));
    this.cursor = firstReadable(column);
    const list = element("div", { role: "listbox", class: "words", "aria-labelledby": `column-${number}`, "aria-describedby": "word-keys" }, ...this.groups(column));
    const heading = element("h2", { id: `column-${number}`, class: measured.columns.length > 1 ? null : "unseen" }, headed(column));
    this.section = element("section", { class: "column" }, heading, list);
    this.listen(list);
    effect(() => this.mark());
    effect(() => this.shade());
    this.rove(this.cursor);
  }

  /** The prompt's words and the answer's, each in order. */
  private groups(column: Column): HTMLElement[] {
    const kinds = column.words.map((word) => (word.part === "generated" ? "generated" : "prompt"));
    return (["prompt", "generated"] as const)
      .filter((kind) => kinds.includes(kind))
      .map((kind) => {
        const id = `part-${this.number}-${kind}`;
        const line = element("div", { class: "line" });
        column.words.forEach((word, index) => {
          if (kinds[index] === kind) {
            line.append(word.line === true ? element("br") : word.space ? " " : "", this.options[index]);
          }
        });
        set(line, "role", "presentation");
        const heading = element("div", { class: "part-title", id, role: "presentation" }, TITLES[kind]);
        return element("div", { role: "group", class: `part ${kind}`, "aria-labelledby": id }, heading, line);
      });
  }

  private listen(list: HTMLElement): void {
    const { state } = this;
    list.addEventListener("pointerover", (event) => (state.hoveredWord.value = this.placeOf(event.target)));
    list.addEventListener("pointerleave", () => (state.hoveredWord.value = null));
    list.addEventListener("focusin", (event) => {
      const place = this.placeOf(event.target);
      if (place !== null) {
        this.rove(place.index);
        state.focusedWord.value = (event.target as Element).matches(":focus-visible") ? place : null;
      }
    });
    list.addEventListener("focusout", () => (state.focusedWord.value = null));
    list.addEventListener("click", (event) => {
      const place = this.placeOf(event.target);
      if (place !== null) {
        pinWord(state, place);
        this.rove(place.index);
      }
    });
    list.addEventListener("keydown", (event) => this.key(event));
  }

  private placeOf(target: EventTarget | null): WordPlace | null {
    const found = target instanceof Element ? target.closest("[data-word]") : null;
    const index = found === null ? -1 : this.options.indexOf(found as HTMLElement);
    return index < 0 ? null : { column: this.number, index };
  }

  private key(event: KeyboardEvent): void {
    const act = Object.hasOwn(this.keys, event.key) ? this.keys[event.key] : undefined;
    if (act === undefined || event.ctrlKey || event.metaKey || event.altKey) {
      return;
    }
    event.preventDefault();
    act();
  }

  private readonly keys: Record<string, () => void> = {
    ArrowRight: () => this.go(this.cursor + 1),
    ArrowLeft: () => this.go(this.cursor - 1),
    ArrowDown: () => this.go(this.inLine(1)),
    ArrowUp: () => this.go(this.inLine(-1)),
    Home: () => this.go(0),
    End: () => this.go(this.options.length - 1),
    PageUp: () => changeLayer(this.measured, this.state, 1),
    PageDown: () => changeLayer(this.measured, this.state, -1),
    Enter: () => pinWord(this.state, { column: this.number, index: this.cursor }),
    " ": () => pinWord(this.state, { column: this.number, index: this.cursor }),
    Escape: () => letGo(this.state),
  };

  private go(index: number): void {
    const inside = Math.min(Math.max(index, 0), this.options.length - 1);
    this.rove(inside);
    this.options[inside]?.focus();
    this.state.focusedWord.value = { column: this.number, index: inside };
  }

  /** The word above or below, closest to the middle of this one. */
  private inLine(by: 1 | -1): number {
    const boxes = this.options.map((each) => each.getBoundingClientRect());
    const here = boxes[this.cursor];
    const middle = here.left + here.width / 2;
    const beyond = boxes.map((box, index) => ({ box, index })).filter(({ box }) => (box.top - here.top) * by > here.height / 2);
    if (beyond.length === 0) {
      return this.cursor;
    }
    const next = by * Math.min(...beyond.map(({ box }) => box.top * by));
    const line = beyond.filter(({ box }) => Math.abs(box.top - next) < here.height / 2);
    const off = ({ box }: { box: DOMRect }) => Math.abs(box.left + box.width / 2 - middle);
    return line.reduce((best, each) => (off(each) < off(best) ? each : best)).index;
  }

  /** One word of the column is reached with Tab. */
  private rove(index: number): void {
    this.options[this.cursor]?.setAttribute("tabindex", "-1");
    this.options[index]?.setAttribute("tabindex", "0");
    this.cursor = index;
  }

  /** Marks the word that is looked at and the one that is kept; in a map of both columns, their word at this place. */
  private mark(): void {
    const { word, pinnedWord, difference, beside } = this.state;
    const active = word.value;
    const isTwin = (difference.value || beside.value) && active !== null;
    this.put("active", active !== null && (active.column === this.number || isTwin) ? active.index : -1);
    this.put("pinned", pinnedWord.value?.column === this.number ? pinnedWord.value.index : -1);
  }

  /** Moves a mark from the word that has it to another. */
  private put(mark: "active" | "pinned", index: number): void {
    const [before, after] = [this.options[this.marked[mark]], this.options[index]];
    if (mark === "active") {
      before?.classList.remove("active");
      after?.classList.add("active");
    } else {
      before?.setAttribute("aria-selected", "false");
      after?.setAttribute("aria-selected", "true");
    }
    this.marked[mark] = index;
  }

  /** Shades each word by what it reads of the patch that is looked at. */
  private shade(): void {
    const readers = this.derived.readers.value;
    const values = readers?.values[this.number];
    this.options.forEach((each, index) => {
      const value = values?.[index] ?? NaN;
      const isShaded = readers !== null && readers !== undefined && !Number.isNaN(value);
      each.classList.toggle("shaded", isShaded);
      if (!isShaded) {
        each.style.removeProperty("background-color");
        each.style.removeProperty("color");
        return;
      }
      const { css, isPale } = scaleFor(readers.signed);
      const step = stepOf(value, readers.limit, readers.signed);
      each.style.backgroundColor = css[step];
      each.style.color = isPale[step] ? "#000" : "#fff";
    });
  }
}

/** A word as an option of its list; what cannot be painted says why. */
function option(word: Word, place: string): HTMLElement {
  const classes = ["word", word.part, word.picture === undefined ? "" : "image", word.row < 0 ? "silent" : "", word.changed ? "changed" : ""].filter((each) => each !== "");
  const notes = [word.changed ? "changed" : "", word.row < 0 ? word.why || "reads nothing of the picture" : ""].filter((each) => each !== "");
  return element(
    "span",
    { role: "option", "data-word": place, class: classes.join(" "), tabindex: -1, "aria-selected": "false", title: notes.join("; ") || null },
    element("bdi", {}, word.text),
    notes.length === 0 ? null : element("span", { class: "unseen" }, `, ${notes.join(", ")}`),
  );
}

/** Where Tab leads first: to the first word of the answer, or the first that has a map. */
function firstReadable(column: Column): number {
  const written = column.words.findIndex((word) => word.part === "generated" && word.row >= 0);
  const any = column.words.findIndex((word) => word.row >= 0);
  return Math.max(written, 0) || Math.max(any, 0);
}
