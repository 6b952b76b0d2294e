/** The state in the address, and the link that carries it. */

import { effect } from "@preact/signals-core";
import { button, element } from "./elements";
import { held } from "./framed";
import { read, written } from "./fragment";
import type { Measured } from "./measured";
import type { State } from "./state";

/** Keeps address and state alike; returns the parts of the first fragment that meant nothing. */
export function follow(measured: Measured, state: State): string[] {
  const asked = location.hash.length > 1 ? location.hash : (held()?.fragment ?? "");
  const refused = asked === "" ? [] : read(asked, state, measured);
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

/** A page inside another one has no address of its own: its state lives in it alone. */
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

/** What the state is put behind: this page's address, or the outer page's; null inside a notebook, which cannot open it. */
function base(): string | null {
  return hasAddress() ? `${location.href.split("#")[0]}#` : (held()?.address ?? null);
}

/** The button that copies the link, and a field to copy from by hand where that is not allowed. */
export function copier(state: State, say: (text: string) => void): HTMLElement {
  const field = element("input", { type: "text", readonly: true, hidden: true, id: "link", "aria-label": "link to this view" });
  const copy = button(
    "Copy link",
    async () => {
      const address = base();
      const text = `${address ?? "#"}${written(state)}`;
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
        say(address !== null ? "Copy the link from the field." : "Copy this, and put it behind the address of the saved page.");
      }
    },
    { id: "copy" },
  );
  return element("span", { class: "copier" }, copy, field);
}
