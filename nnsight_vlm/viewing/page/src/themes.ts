/** Whether the page is light or dark. */

import { element } from "./elements";

/** The choice of it; what the person's system says, until another is chosen. */
export function themes(): HTMLElement {
  const select = element("select", { id: "theme", "aria-label": "colours of the page" });
  select.append(...["auto", "light", "dark"].map((each) => element("option", { value: each }, `${each} colours`)));
  select.addEventListener("change", () => {
    document.documentElement.dataset.theme = select.value;
  });
  return select;
}
