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
