/** Elements of the page. Texts become text nodes and attributes, and nothing else: no text is ever read as markup. */

import { effect } from "@preact/signals-core";

type Attribute = string | number | boolean | null | undefined;
export type Child = Node | string | null;

/** An element with attributes and children; an attribute that is false or null is left out. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, Attribute> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    set(made, name, value);
  }
  made.append(...children.filter((each) => each !== null));
  return made;
}

/** Sets an attribute, or takes it away. */
export function set(target: Element, name: string, value: Attribute): void {
  if (value === null || value === undefined || value === false) {
    target.removeAttribute(name);
  } else {
    target.setAttribute(name, value === true ? "" : String(value));
  }
}

/** A text that follows the state. */
export function live(target: Element, text: () => string): void {
  effect(() => {
    const next = text();
    if (target.textContent !== next) {
      target.textContent = next;
    }
  });
}

/** A button that does one thing. */
export function button(label: string, act: () => void, attributes: Record<string, Attribute> = {}): HTMLButtonElement {
  const made = element("button", { type: "button", ...attributes }, label);
  made.addEventListener("click", act);
  return made;
}
