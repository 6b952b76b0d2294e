/** The page of a report: tables that sort, pictures that are opened on demand. All texts are in the page already. */

import { sortable } from "./sorting";
import { frameName, heightOf } from "./framed";

/** Opened pictures, and how high the pages in them would be. */
function pictures(): void {
  for (const picture of document.querySelectorAll<HTMLDetailsElement>("details.picture")) {
    picture.addEventListener("toggle", () => fill(picture, null));
    fill(picture, null);
  }
  addEventListener("message", (event) => {
    const frames = [...document.querySelectorAll<HTMLIFrameElement>("details.picture iframe")];
    const frame = frames.find((each) => each.contentWindow === event.source);
    const height = heightOf(event.data);
    if (frame !== undefined && height !== null) {
      frame.style.height = `${height}px`;
    }
  });
}

/** Puts a picture's page into its place when it is first opened, and keeps it until a link asks for another state of it. */
function fill(picture: HTMLDetailsElement, asked: string | null): void {
  const template = picture.querySelector("template");
  const before = picture.querySelector("iframe");
  const frame = template?.content.querySelector("iframe")?.cloneNode(true) as HTMLIFrameElement | undefined;
  if (!picture.open || template === null || frame === undefined || (before !== null && asked === null)) {
    return;
  }
  frame.name = frameName({ address: `${location.href.split("#")[0]}#${picture.id}&`, fragment: asked ?? "" });
  before?.remove();
  template.after(frame);
}

/** A link into something folded unfolds it; behind the name of a picture, a link says what is chosen in it. */
function unfold(): void {
  const [name, ...asked] = location.hash.slice(1).split("&");
  const target = document.getElementById(name);
  const folded = target?.closest("details");
  if (target === null || folded === null || folded === undefined || (folded.open && asked.length === 0)) {
    return;
  }
  folded.open = true;
  if (asked.length > 0) {
    fill(folded, asked.join("&"));
  }
  target.scrollIntoView();
}

const news = document.getElementById("news");
for (const table of document.querySelectorAll<HTMLTableElement>("table.frame")) {
  sortable(table, (text) => {
    if (news !== null) {
      news.textContent = text;
    }
  });
}
pictures();
addEventListener("hashchange", unfold);
unfold();
document.documentElement.dataset.ready = "true";
