/** A picture of the live page: chosen, dropped or pasted; on the one that is asked about, a box is drawn. */

import { effect, signal, type Signal } from "@preact/signals-core";
import { button, element, set } from "./elements";
import { complaint } from "./livefields";
import { middle, type Form } from "./liveform";
import type { Box } from "./payload";
import { Refusal, type Role, type Sent, type Server } from "./server";

const LABELS: Record<Role, string> = { picture: "Picture", other: "Other picture" };
const ALTS: Record<Role, string> = { picture: "the picture that is asked about", other: "the picture whose states are written in" };
/** A picture that is shown so many times larger than it is shows its pixels as squares. */
const LARGE = 2;
/** So many CSS pixels make a box out of a press of the pointer. */
const LEAST = 4;

/** A picture with the button that chooses another. */
export function pictureCard(role: Role, form: Form, server: Server, onDrawn: (() => void) | null): HTMLElement {
  const target = form.pictures[role];
  const stage = element("div", { class: "canvas" });
  const size = element("span", { class: "quiet" });
  const file = element("input", { type: "file", accept: "image/*", hidden: true, id: `file-${role}`, tabindex: -1, "aria-label": LABELS[role] });
  const choose = button("Choose a picture", () => file.click(), { id: `choose-${role}`, "aria-describedby": `ask-${role}-wrong` });
  file.addEventListener("change", () => {
    void take(role, file.files?.[0], form, server);
    file.value = "";
  });
  const card = element("figure", { class: "card", id: `card-${role}` }, element("figcaption", {}, LABELS[role]), stage, element("div", { class: "row" }, choose, size, file), complaint(role, form.wrong));
  const drawing = onDrawn === null ? null : boxOn(stage, form, onDrawn);
  effect(() => {
    const picture = target.value;
    size.textContent = picture === null ? "or drop one here" : `${picture.width} \u00d7 ${picture.height} pixels${onDrawn === null ? "" : "; draw a box on it to hide that part"}`;
    choose.textContent = picture === null ? "Choose a picture" : "Another picture";
    stage.replaceChildren(...(picture === null ? [element("p", { class: "empty" }, "No picture yet.")] : [shown(role, picture), ...(drawing === null ? [] : [drawing])]));
  });
  droppedOn(card, (dropped) => void take(role, dropped, form, server));
  return card;
}

/** Sends a file to the server, and shows the picture that it has then. */
export async function take(role: Role, file: Blob | undefined, form: Form, server: Server): Promise<void> {
  if (file === undefined) {
    return;
  }
  form.wrong.value = null;
  try {
    const sent = await server.show(role, file);
    const before = form.pictures[role].value;
    form.pictures[role].value = sent;
    if (role === "picture" && (before?.width !== sent.width || before.height !== sent.height)) {
      form.box.value = middle(sent);
    }
  } catch (error) {
    form.wrong.value = error instanceof Refusal ? error : new Refusal(String(error), role);
  }
}

function shown(role: Role, picture: Sent): HTMLImageElement {
  const image = element("img", { src: picture.uri, alt: ALTS[role], draggable: "false" });
  image.style.aspectRatio = `${picture.width} / ${picture.height}`;
  const sharpen = () => image.classList.toggle("pixels", image.clientWidth > LARGE * picture.width);
  image.addEventListener("load", sharpen);
  return image;
}

/** A file that is dropped on an element; one that is dropped beside it would replace the page. */
function droppedOn(card: HTMLElement, act: (file: File) => void): void {
  card.addEventListener("dragover", (event) => {
    event.preventDefault();
    card.classList.add("over");
  });
  card.addEventListener("dragleave", () => card.classList.remove("over"));
  card.addEventListener("drop", (event) => {
    event.preventDefault();
    card.classList.remove("over");
    const file = event.dataTransfer?.files[0];
    if (file !== undefined) {
      act(file);
    }
  });
}

/** The box, and the pointer that draws it. */
function boxOn(stage: HTMLElement, form: Form, onDrawn: () => void): HTMLElement {
  const outline = element("div", { class: "outline", "aria-hidden": "true" });
  const start: Signal<[number, number] | null> = signal(null);
  effect(() => {
    const picture = form.pictures.picture.value;
    const [left, top, right, bottom] = form.box.value;
    outline.hidden = !form.isBoxed.value || picture === null;
    set(stage, "class", form.isBoxed.value ? "canvas boxed" : "canvas");
    if (picture !== null) {
      outline.style.left = `${(100 * left) / picture.width}%`;
      outline.style.top = `${(100 * top) / picture.height}%`;
      outline.style.width = `${(100 * Math.max(right - left, 0)) / picture.width}%`;
      outline.style.height = `${(100 * Math.max(bottom - top, 0)) / picture.height}%`;
    }
  });
  stage.addEventListener("pointerdown", (event) => {
    if (event.button === 0 && form.pictures.picture.value !== null && (event.pointerType !== "touch" || form.isBoxed.value)) {
      start.value = [event.clientX, event.clientY];
      stage.setPointerCapture(event.pointerId);
    }
  });
  stage.addEventListener("pointermove", (event) => {
    const from = start.value;
    const picture = form.pictures.picture.value;
    if (from !== null && picture !== null && Math.max(Math.abs(event.clientX - from[0]), Math.abs(event.clientY - from[1])) >= LEAST) {
      form.box.value = between(from, [event.clientX, event.clientY], stage.getBoundingClientRect(), picture);
      onDrawn();
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    stage.addEventListener(end, () => (start.value = null));
  }
  return outline;
}

/** The box between two points of the screen, in whole pixels of the picture, at least one wide and high. */
function between(one: [number, number], other: [number, number], place: DOMRect, picture: Sent): Box {
  const across = [one[0], other[0]].map((x) => ((x - place.left) / place.width) * picture.width).sort((a, b) => a - b);
  const down = [one[1], other[1]].map((y) => ((y - place.top) / place.height) * picture.height).sort((a, b) => a - b);
  const [left, right] = whole(across[0], across[1], picture.width);
  const [top, bottom] = whole(down[0], down[1], picture.height);
  return [left, top, right, bottom];
}

function whole(low: number, high: number, most: number): [number, number] {
  const first = Math.min(Math.max(Math.floor(low), 0), most - 1);
  return [first, Math.max(Math.min(Math.ceil(high), most), first + 1)];
}
