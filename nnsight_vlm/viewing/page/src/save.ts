/** The present picture as a file. */

import { button, element } from "./elements";
import type { Measured } from "./measured";
import type { Derived } from "./painting";
import { contextOf, type Drawable } from "./pictures";
import type { State } from "./state";
import { figure, type PanelPlace } from "./svg";

/** How many pixels a PNG has for each of CSS. */
const SHARPNESS = 3;

export interface Shown {
  measured: Measured;
  state: State;
  derived: Derived;
  holder: HTMLElement;
  drawables: Drawable[];
}

export function savers(shown: Shown, say: (text: string) => void): HTMLElement[] {
  const drawn = () => new XMLSerializer().serializeToString(figure(shown.measured, shown.state, shown.derived, placesOf(shown.holder), shown.drawables));
  const svg = button("Save SVG", () => keep(new Blob([drawn()], { type: "image/svg+xml" }), "view.svg", say), { id: "save-svg" });
  const png = button("Save PNG", async () => keep(await rastered(drawn()), "view.png", say), { id: "save-png" });
  return [svg, png];
}

/** Where panels stand now. */
function placesOf(holder: HTMLElement): PanelPlace[] {
  const canvases = [...holder.querySelectorAll<HTMLCanvasElement>("canvas")].filter((canvas) => canvas.clientWidth > 0);
  const boxes = canvases.map((canvas) => canvas.getBoundingClientRect());
  const [left, top] = [Math.min(...boxes.map((box) => box.left)), Math.min(...boxes.map((box) => box.top))];
  return canvases.map(({ dataset }, at) => ({
    panel: Number(dataset.twin ?? dataset.panel),
    isTwin: dataset.twin !== undefined,
    x: boxes[at].left - left,
    y: boxes[at].top - top,
    width: boxes[at].width,
  }));
}

async function rastered(svg: string): Promise<Blob> {
  const address = URL.createObjectURL(new Blob([svg], { type: "image/svg+xml" }));
  try {
    const image = new Image();
    image.src = address;
    await image.decode();
    const canvas = document.createElement("canvas");
    canvas.width = SHARPNESS * image.naturalWidth;
    canvas.height = SHARPNESS * image.naturalHeight;
    contextOf(canvas).drawImage(image, 0, 0, canvas.width, canvas.height);
    return await new Promise((done, failed) => canvas.toBlob((blob) => (blob === null ? failed(new Error("no picture was made")) : done(blob)), "image/png"));
  } finally {
    URL.revokeObjectURL(address);
  }
}

function keep(blob: Blob, name: string, say: (text: string) => void): void {
  const address = URL.createObjectURL(blob);
  const link = element("a", { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
  say(`${name} saved.`);
}
