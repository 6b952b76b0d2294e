/** Pictures as they can be drawn: in their colours, and in pale greys, on which colours of a map can be told. */

import type { Picture } from "./payload";

export interface Drawable {
  color: HTMLCanvasElement;
  grey: HTMLCanvasElement;
}

/** How dark black becomes in the pale picture. */
const DARKEST = 40;

export async function loaded(picture: Picture): Promise<Drawable> {
  if (!picture.uri.startsWith("data:image/")) {
    return blank(picture);
  }
  const image = new Image();
  image.src = picture.uri;
  await image.decode();
  return { color: copied(image), grey: greyed(copied(image)) };
}

/** In place of a picture that could not be read. */
function blank(picture: Picture): Drawable {
  const canvas = document.createElement("canvas");
  canvas.width = Math.min(picture.width, 512);
  canvas.height = Math.max(1, Math.round((canvas.width * picture.height) / picture.width));
  const context = contextOf(canvas);
  context.fillStyle = "#c8c8c8";
  context.fillRect(0, 0, canvas.width, canvas.height);
  return { color: canvas, grey: canvas };
}

function copied(image: HTMLImageElement): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  contextOf(canvas).drawImage(image, 0, 0);
  return canvas;
}

function greyed(canvas: HTMLCanvasElement): HTMLCanvasElement {
  const context = contextOf(canvas);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 4) {
    const shade = 0.2126 * data[at] + 0.7152 * data[at + 1] + 0.0722 * data[at + 2];
    data[at] = data[at + 1] = data[at + 2] = DARKEST + ((255 - DARKEST) * shade) / 255;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

export function contextOf(canvas: HTMLCanvasElement): CanvasRenderingContext2D {
  const context = canvas.getContext("2d");
  if (context === null) {
    throw new Error("This browser draws no pictures.");
  }
  return context;
}
