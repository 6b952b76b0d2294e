/** The state in the address, and the link that carries it. */

import { effect } from "@preact/signals-core";
import { button, element } from "./elements";
import { read, written } from "./fragment";
import type { Measured } from "./measured";
import type { State } from "./state";

/** Keeps address and state alike; returns the parts of the first fragment that meant nothing. */
export function follow(measured: Measured, state: State): string[] {
  const refused = location.hash.length > 1 ? read(location.hash, state, measured) : [];
  let waiting = 0;
  effect(() => {
    const fragment = written(state);
    clearTimeout(waiting);
    waiting = setTimeout(() => replace(fragment), 150);
  });
  addEventListener("hashchange", () => {
    if (location.hash.slice(1) !== written(state)) {
      read(location.hash, state, measured);
    }
  });
  return refused;
}

/** A page inside a notebook has no address of its own: its state lives in it alone. */
function replace(fragment: string): void {
  if (hasAddress()) {
    try {
      history.replaceState(null, "", `#${fragment}`);
    } catch {
      return; // a browser that allows no more changes for now
    }
  }
}

function hasAddress(): boolean {
  return location.protocol !== "about:";
}

function link(state: State): string {
  const address = hasAddress() ? location.href.split("#")[0] : "";
  return `${address}#${written(state)}`;
}

/** The button that copies the link, and a field to copy from by hand where that is not allowed. */
export function copier(state: State, say: (text: string) => void): HTMLElement {
  const field = element("input", { type: "text", readonly: true, hidden: true, id: "link", "aria-label": "link to this view" });
  const copy = button(
    "Copy link",
    async () => {
      const text = link(state);
      try {
        if (!hasAddress()) {
          throw new Error("a frame may not write to the clipboard");
        }
        await navigator.clipboard.writeText(text);
        field.hidden = true;
        say("Link copied.");
      } catch {
        field.value = text;
        field.hidden = false;
        field.select();
        say(hasAddress() ? "Copy the link from the field." : "Copy this, and put it behind the address of the saved page.");
      }
    },
    { id: "copy" },
  );
  return element("span", { class: "copier" }, copy, field);
}
