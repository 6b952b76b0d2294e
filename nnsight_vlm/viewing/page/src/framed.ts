/** A page inside a notebook: the notebook is told how high it would be. */

/** Reports the height whenever it changes; the notebook sets it. */
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
