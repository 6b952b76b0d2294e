/** Whether the page is light or dark. */

import { element } from "./elements";

const THEMES = [
  ["auto", "page: as the system"],
  ["light", "page: light"],
  ["dark", "page: dark"],
];

/** The choice of it; what the person's system says, until another is chosen. */
export function themes(): HTMLElement {
  const select = element("select", { id: "theme", "aria-label": "colours of the page" });
  select.append(...THEMES.map(([value, title]) => element("option", { value }, title)));
  select.addEventListener("change", () => {
    document.documentElement.dataset.theme = select.value;
  });
  return select;
}
