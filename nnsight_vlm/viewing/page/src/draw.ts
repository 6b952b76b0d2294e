/** One panel on its canvas: picture, map, and marks on top of it. Sizes are screen pixels; `unit` is one of CSS. */

import { coverOf, scaleFor, stepOf } from "./colors";
import { isNamedIn, overlaps, placed, type Geometry } from "./geometry";
import { contextOf, type Drawable } from "./pictures";
import type { Box, NamedObject, Panel, Picture } from "./payload";
import type { Painting } from "./painting";

export interface Marks {
  grid: boolean;
  objects: NamedObject[];
  sinks: boolean;
  /** Lines of text for each patch of the panel; null for none. */
  texts: ((at: number) => string)[] | null;
  outlined: boolean;
  /** The patch that is looked at, by its number in the panel; -1 for none. */
  patch: number;
  opacity: number;
}

const FONT = "system-ui, sans-serif";
/** Least width and height of a patch, in CSS pixels, in which words are written. */
export const ROOM = { width: 30, height: 13 };

/** A picture that is drawn so many times larger than it is shows its pixels as squares, and not blurred. */
const LARGE = 2;

/** The picture alone, at the size of the canvas. */
export function based(picture: Picture, drawable: HTMLCanvasElement, geometry: Geometry): HTMLCanvasElement {
  const canvas = document.createElement("canvas");
  canvas.width = geometry.width;
  canvas.height = geometry.height;
  const context = contextOf(canvas);
  context.imageSmoothingQuality = "high";
  const [x0, y0, x1, y1] = placed([0, 0, picture.width, picture.height], geometry.view, geometry.width, geometry.height);
  context.imageSmoothingEnabled = x1 - x0 < LARGE * drawable.width;
  context.drawImage(drawable, x0, y0, x1 - x0, y1 - y0);
  return canvas;
}

export function bases(picture: Picture, drawable: Drawable, geometry: Geometry): Drawable {
  return { color: based(picture, drawable.color, geometry), grey: based(picture, drawable.grey, geometry) };
}

export function drawPanel(
  context: CanvasRenderingContext2D,
  panel: Panel,
  geometry: Geometry,
  base: Drawable,
  painting: Painting,
  marks: Marks,
  unit: number,
): void {
  context.globalAlpha = 1;
  context.clearRect(0, 0, geometry.width, geometry.height);
  context.drawImage(painting.values === null ? base.color : base.grey, 0, 0);
  drawMap(context, panel, geometry, painting, marks.opacity, unit);
  shadeOutside(context, panel, geometry);
  if (marks.grid || marks.outlined) {
    drawGrid(context, geometry, marks.outlined ? 0.9 : 0.45, unit);
  }
  if (marks.texts !== null) {
    drawTexts(context, geometry, marks.texts, unit);
  }
  const seen = marks.objects.filter((each) => overlaps(each.box, geometry.view));
  seen.forEach((each) => drawObject(context, each, geometry, unit));
  drawNames(context, seen, geometry, unit);
  if (marks.sinks && painting.sinks !== null) {
    drawSinks(context, panel, geometry, painting.sinks, unit);
  }
  if (marks.patch >= 0) {
    drawPatch(context, geometry, marks.patch, unit);
  }
}

function drawMap(
  context: CanvasRenderingContext2D,
  panel: Panel,
  { rects }: Geometry,
  { values, limit, signed, omitted }: Painting,
  opacity: number,
  unit: number,
): void {
  if (values === null) {
    return;
  }
  const { css } = scaleFor(signed);
  panel.tokens.forEach((token, at) => {
    if (omitted === null || omitted[token] === 0) {
      const step = stepOf(values[token], limit, signed);
      context.globalAlpha = opacity * coverOf(step, signed);
      context.fillStyle = css[step];
      context.fillRect(rects[4 * at], rects[4 * at + 1], rects[4 * at + 2], rects[4 * at + 3]);
    }
  });
  context.globalAlpha = 1;
  panel.tokens.forEach((token, at) => {
    if (omitted !== null && omitted[token] === 1) {
      hatch(context, rects.subarray(4 * at, 4 * at + 4), unit);
    }
  });
}

/** Diagonal lines: no colour stands for this patch. */
function hatch(context: CanvasRenderingContext2D, [x, y, width, height]: Int32Array, unit: number): void {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.strokeStyle = "#555";
  context.lineWidth = unit;
  context.beginPath();
  for (let at = -height; at < width; at += 4 * unit) {
    context.moveTo(x + at, y + height);
    context.lineTo(x + at + height, y);
  }
  context.stroke();
  context.restore();
}

/** Greys what the model did not see of the picture. */
function shadeOutside(context: CanvasRenderingContext2D, panel: Panel, { view, width, height }: Geometry): void {
  const [x0, y0, x1, y1] = placed(panel.crop, view, width, height);
  if (x0 < 1 && y0 < 1 && x1 > width - 1 && y1 > height - 1) {
    return;
  }
  context.fillStyle = "rgba(120, 120, 120, 0.72)";
  context.beginPath();
  context.rect(0, 0, width, height);
  context.rect(x0, y0, x1 - x0, y1 - y0);
  context.fill("evenodd");
}

function drawGrid(context: CanvasRenderingContext2D, { rects }: Geometry, strength: number, unit: number): void {
  context.beginPath();
  for (let at = 0; at < rects.length; at += 4) {
    context.rect(rects[at], rects[at + 1], rects[at + 2], rects[at + 3]);
  }
  doubled(context, unit, `rgba(255, 255, 255, ${strength})`, `rgba(0, 0, 0, ${strength})`);
}

/** A line of white on black, which is seen on every colour. */
function doubled(context: CanvasRenderingContext2D, unit: number, light = "#fff", dark = "#000"): void {
  context.lineWidth = 1.6 * unit;
  context.strokeStyle = light;
  context.stroke();
  context.lineWidth = 0.7 * unit;
  context.strokeStyle = dark;
  context.stroke();
}

function drawObject(context: CanvasRenderingContext2D, object: NamedObject, geometry: Geometry, unit: number): void {
  const { view, width, height } = geometry;
  const [left, top, right, bottom] = placed(object.box, view, width, height);
  context.beginPath();
  if (object.outline === null || object.outline.length < 3) {
    context.rect(left, top, right - left, bottom - top);
  } else {
    for (const [x, y] of object.outline) {
      const [at, down] = placed([x, y, x, y], view, width, height);
      context.lineTo(at, down);
    }
    context.closePath();
  }
  context.lineJoin = "round";
  context.lineWidth = 3.5 * unit;
  context.strokeStyle = "rgba(255, 255, 255, 0.95)";
  context.stroke();
  context.lineWidth = 1.5 * unit;
  context.strokeStyle = "#0b57d0";
  context.stroke();
}

/** The names of objects above or below them, where they hide no other name. */
function drawNames(context: CanvasRenderingContext2D, objects: NamedObject[], geometry: Geometry, unit: number): void {
  const { view, width, height } = geometry;
  const size = (width < 260 * unit ? 9 : 11) * unit;
  const tall = size + 4 * unit;
  const taken: Box[] = [];
  context.font = `${size}px ${FONT}`;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const object of objects.filter((each) => isNamedIn(each.box, view))) {
    const shown = fitted(context, object.name, 160 * unit);
    const wide = context.measureText(shown).width + 6 * unit;
    const [left, top, , bottom] = placed(object.box, view, width, height);
    const x = Math.max(0, Math.min(left, width - wide));
    const tops = [top - tall, bottom, top].filter((each) => each >= 0 && each + tall <= height);
    const places = tops.map((y): Box => [x, y, x + wide, y + tall]);
    const place = places.find((each) => !taken.some((other) => overlaps(each, other)));
    if (place !== undefined) {
      taken.push(place);
      context.fillStyle = "rgba(255, 255, 255, 0.92)";
      context.fillRect(x, place[1], wide, tall);
      context.fillStyle = "#0b3a8f";
      context.fillText(shown, x + 3 * unit, place[1] + tall / 2);
    }
  }
}

function drawSinks(context: CanvasRenderingContext2D, panel: Panel, { rects }: Geometry, sinks: Uint8Array, unit: number): void {
  panel.tokens.forEach((token, at) => {
    if (sinks[token] === 1) {
      const [x, y, width, height] = rects.subarray(4 * at, 4 * at + 4);
      const reach = Math.min(5 * unit, 0.32 * Math.min(width, height));
      context.beginPath();
      context.moveTo(x + width / 2, y + height / 2 - reach);
      context.lineTo(x + width / 2 + reach, y + height / 2);
      context.lineTo(x + width / 2, y + height / 2 + reach);
      context.lineTo(x + width / 2 - reach, y + height / 2);
      context.closePath();
      context.lineWidth = 3 * unit;
      context.strokeStyle = "#fff";
      context.stroke();
      context.lineWidth = 1.3 * unit;
      context.strokeStyle = "#000";
      context.stroke();
    }
  });
}

/** Texts in the patches, one below the other, where there is room for them. */
function drawTexts(context: CanvasRenderingContext2D, { rects }: Geometry, texts: ((at: number) => string)[], unit: number): void {
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineJoin = "round";
  for (let at = 0; at < rects.length / 4; at++) {
    const [x, y, width, height] = rects.subarray(4 * at, 4 * at + 4);
    if (width < ROOM.width * unit || height < ROOM.height * unit * texts.length) {
      continue;
    }
    const size = Math.min(11 * unit, (0.8 * height) / texts.length);
    context.font = `${size}px ${FONT}`;
    texts.forEach((text, line) => {
      const shown = fitted(context, text(at), width - 3 * unit);
      const middle = y + (height * (line + 1)) / (texts.length + 1);
      context.lineWidth = 2.5 * unit;
      context.strokeStyle = "rgba(255, 255, 255, 0.9)";
      context.strokeText(shown, x + width / 2, middle);
      context.fillStyle = "#111";
      context.fillText(shown, x + width / 2, middle);
    });
  }
}

/** A text cut so that it fits. */
function fitted(context: CanvasRenderingContext2D, text: string, room: number): string {
  if (context.measureText(text).width <= room) {
    return text;
  }
  const letters = [...text.slice(0, 200)];
  while (letters.length > 0 && context.measureText(`${letters.join("")}\u2026`).width > room) {
    letters.pop();
  }
  return letters.length === 0 ? "" : `${letters.join("")}\u2026`;
}

function drawPatch(context: CanvasRenderingContext2D, { rects }: Geometry, at: number, unit: number): void {
  const [x, y, width, height] = rects.subarray(4 * at, 4 * at + 4);
  context.beginPath();
  context.rect(x, y, width, height);
  context.lineJoin = "miter";
  context.lineWidth = 4 * unit;
  context.strokeStyle = "#fff";
  context.stroke();
  context.lineWidth = 2 * unit;
  context.strokeStyle = "#000";
  context.stroke();
}
