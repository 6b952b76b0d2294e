/** Fields of the live page's form: a label, a native input bound to one signal, a hint, and what is wrong, beside it. */

import { effect, type ReadonlySignal, type Signal } from "@preact/signals-core";
import { element, set, type Child } from "./elements";
import type { Refusal } from "./server";

type Wrong = ReadonlySignal<Refusal | null>;
type Input = HTMLInputElement | HTMLSelectElement;

/** What is wrong with a field, in words; empty where nothing is. */
export function complaint(key: string, wrong: Wrong): HTMLElement {
  const told = element("p", { class: "wrong", id: `ask-${key}-wrong` });
  effect(() => {
    told.textContent = wrong.value?.field === key ? wrong.value.message : "";
  });
  return told;
}

/** A label, its input and what belongs to it; `key` is the field's name in requests. */
export function field(key: string, label: string, input: Input, wrong: Wrong, hint: Child = null): HTMLElement {
  input.id = `ask-${key}`;
  const told = complaint(key, wrong);
  const note = hint === null ? null : element("p", { class: "quiet", id: `ask-${key}-hint` }, hint);
  effect(() => {
    const isWrong = wrong.value?.field === key;
    set(input, "aria-invalid", isWrong ? "true" : null);
    set(input, "aria-describedby", [isWrong ? told.id : "", note?.id ?? ""].filter((each) => each !== "").join(" ") || null);
  });
  return element("div", { class: "entry", "data-field": key }, element("label", { for: input.id }, label), input, told, note);
}

/** An input whose text is a signal's. */
export function input(target: Signal<string>, attributes: Record<string, string | number | boolean | null> = {}): HTMLInputElement {
  const made = element("input", { type: "text", autocomplete: "off", ...attributes });
  made.addEventListener("input", () => (target.value = made.value));
  effect(() => {
    if (made.value !== target.value) {
      made.value = target.value;
    }
  });
  return made;
}

/** A choice of one of a few; each has a name and a text. */
export function select(target: Signal<string>, options: [string, string][]): HTMLSelectElement {
  const made = element("select", {}, ...options.map(([value, text]) => element("option", { value }, text)));
  made.addEventListener("change", () => (target.value = made.value));
  effect(() => {
    made.value = target.value;
  });
  return made;
}

export function radio<T extends string>(name: string, value: T, label: string, target: Signal<T>): HTMLElement {
  const made = element("input", { type: "radio", name, id: `${name}-${value}`, value });
  made.addEventListener("change", () => (target.value = value));
  effect(() => {
    made.checked = target.value === value;
  });
  return element("label", { class: "choice", for: made.id }, made, element("span", {}, label));
}

export function checkbox(id: string, label: string, isOn: () => boolean, turn: (on: boolean) => void): HTMLElement {
  const made = element("input", { type: "checkbox", id });
  made.addEventListener("change", () => turn(made.checked));
  effect(() => {
    made.checked = isOn();
  });
  return element("label", { class: "check", for: id }, made, element("span", {}, label));
}

/** Shows an element where something is so. */
export function shownWhere(target: HTMLElement, isShown: () => boolean): HTMLElement {
  effect(() => {
    target.hidden = !isShown();
  });
  return target;
}
