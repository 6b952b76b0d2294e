/** The page of a report: tables that sort, pictures that are opened on demand. All texts are in the page already. */

import { sortable } from "./sorting";
import { heightOf } from "./framed";

/** Puts a picture's page into its place when it is first opened, and keeps it. */
function pictures(): void {
  for (const picture of document.querySelectorAll<HTMLDetailsElement>("details.picture")) {
    const template = picture.querySelector("template");
    const open = () => {
      if (picture.open && template !== null && template.isConnected) {
        template.replaceWith(template.content.cloneNode(true));
      }
    };
    picture.addEventListener("toggle", open);
    open();
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

/** A link into something folded unfolds it. */
function unfold(): void {
  const target = document.getElementById(location.hash.slice(1));
  const folded = target?.closest("details");
  if (folded !== null && folded !== undefined && !folded.open) {
    folded.open = true;
    target?.scrollIntoView();
  }
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
