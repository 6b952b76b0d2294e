/** A page inside another one, a notebook's or a report's: what the two tell each other. */

/** The address at which the outer page shows this one, up to where its own state begins, and the state that is asked for. */
export interface Held {
  address: string;
  fragment: string;
}

/** The name that an outer page gives the frame, before the page in it is loaded. */
export function frameName(held: Held): string {
  return JSON.stringify({ nnsightVlm: held });
}

/** What the outer page says in the frame's name; null where it says nothing, as a notebook does. */
export function held(): Held | null {
  try {
    const { address, fragment } = JSON.parse(window.name).nnsightVlm;
    return window.parent !== window && typeof address === "string" && typeof fragment === "string" ? { address, fragment } : null;
  } catch {
    return null;
  }
}

/** Reports the height whenever it changes; the outer page sets it. */
export function reportHeight(): void {
  if (window.parent === window) {
    return;
  }
  document.documentElement.dataset.framed = "true";
  let last = 0;
  new ResizeObserver(() => {
    const height = Math.ceil(document.body.getBoundingClientRect().height);
    if (height !== last) {
      last = height;
      window.parent.postMessage({ nnsightVlmHeight: height }, "*");
    }
  }).observe(document.body);
}

/** The height that a page inside another one reports, within limits; null where a message says something else. */
export function heightOf(message: unknown): number | null {
  const height = typeof message === "object" && message !== null && "nnsightVlmHeight" in message ? message.nnsightVlmHeight : null;
  return typeof height === "number" && Number.isFinite(height) ? Math.min(Math.max(height, 300), 4000) : null;
}
