/** The present picture as SVG: patches as rectangles, with legend and caption. Texts are text nodes, so they stay texts. */

import { coverOf, scaleFor, STEPS, stepOf } from "./colors";
import { ROOM } from "./draw";
import { aspectOf, isNamedIn, overlaps, placed, viewOf } from "./geometry";
import { range, ticks } from "./legend";
import type { Measured } from "./measured";
import { spelled } from "./numbers";
import { headed, type Derived, type Painting } from "./painting";
import type { Drawable } from "./pictures";
import type { NamedObject, Panel, Picture } from "./payload";
import { lensWord } from "./readout";
import type { State } from "./state";

const SPACE = "http://www.w3.org/2000/svg";
const FONT = "Helvetica, Arial, sans-serif";
const MARGIN = 16;

/** Where a panel stands on the page, in CSS pixels from the corner of all of them. */
export interface PanelPlace {
  panel: number;
  isTwin: boolean;
  x: number;
  y: number;
  width: number;
}

export function shape(name: string, attributes: Record<string, string | number>, ...children: (Node | string)[]): SVGElement {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, typeof value === "number" ? String(Number(value.toFixed(2))) : value);
  }
  made.append(...children);
  return made;
}

/** The whole figure. */
export function figure(measured: Measured, state: State, derived: Derived, places: PanelPlace[], drawables: Drawable[]): SVGSVGElement {
  const { payload } = measured;
  const [painting, twin] = [derived.painting.value, derived.twin.value];
  const shown = painting.values === null && twin !== null ? twin : painting;
  const panels = places.map((place) => panelGroup(measured, state, place.isTwin && twin !== null ? twin : painting, place, drawables[payload.panels[place.panel].picture]));
  const ends = places.map(({ panel, y, width }) => {
    const spec = payload.panels[panel];
    return y + width / aspectOf(viewOf(spec, payload.pictures[spec.picture]));
  });
  const wide = Math.max(360, ...places.map((place) => place.x + place.width));
  const below = Math.max(...ends, 0) + 14;
  const texts = captions(measured, state, painting, twin).flatMap(({ text, size, bold }) => wrapped(text, (wide / size) * 1.9).map((line) => ({ line, size, bold })));
  const [bar, start] = shown.values === null ? [[], below] : [legendOf(shown, state, below), below + 40];
  let at = start;
  const lines = texts.map(({ line, size, bold }) => {
    at += size * 1.4;
    return shape("text", { x: 0, y: at, "font-size": size, "font-weight": bold ? 600 : 400, fill: "#1a1a1a" }, line);
  });
  const [width, height] = [wide + 2 * MARGIN, at + 2 * MARGIN];
  const root = shape("svg", { xmlns: SPACE, width, height, viewBox: `0 0 ${width} ${height}`, "font-family": FONT }) as SVGSVGElement;
  root.append(
    shape("title", {}, `${payload.title}: ${painting.of} ${painting.title}`),
    shape("pattern", { id: "hatch", width: 4, height: 4, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, shape("path", { d: "M0 0V4", stroke: "#555", "stroke-width": 1.6 })),
    shape("rect", { width, height, fill: "#fff" }),
    shape("g", { transform: `translate(${MARGIN} ${MARGIN})` }, ...panels, ...bar, ...lines),
  );
  return root;
}

function panelGroup(measured: Measured, state: State, painting: Painting, place: PanelPlace, drawable: Drawable): SVGElement {
  const panel = measured.payload.panels[place.panel];
  const picture = measured.payload.pictures[panel.picture];
  const view = viewOf(panel, picture);
  const [width, height] = [place.width, place.width / aspectOf(view)];
  const boxes = panel.boxes.map((box) => placed(box, view, width, height));
  const clip = `clip-${place.isTwin ? "twin-" : ""}${place.panel}`;
  const source = painting.values === null ? drawable.color : drawable.grey;
  const [x0, y0, x1, y1] = placed([0, 0, picture.width, picture.height], view, width, height);
  const objects = state.show.objects.value ? measured.payload.objects.filter((each) => each.picture === panel.picture && overlaps(each.box, view)) : [];
  return shape(
    "g",
    { transform: `translate(${place.x} ${place.y})` },
    shape("clipPath", { id: clip }, shape("rect", { width, height })),
    shape(
      "g",
      { "clip-path": `url(#${clip})` },
      shape("image", { href: encoded(source, picture), x: x0, y: y0, width: x1 - x0, height: y1 - y0, preserveAspectRatio: "none" }),
      ...cells(panel, boxes, painting, state.opacity.value / 100),
      ...outside(panel, view, width, height),
      ...lines(panel, boxes, state),
      ...texts(measured, panel, boxes, state),
      ...objects.flatMap((each) => outlined(each, view, width, height)),
      ...(state.show.sinks.value ? diamonds(panel, boxes, painting) : []),
    ),
  );
}

/** Photographs stay as small as they came. */
function encoded(canvas: HTMLCanvasElement, picture: Picture): string {
  return picture.uri.startsWith("data:image/png") ? canvas.toDataURL("image/png") : canvas.toDataURL("image/jpeg", 0.9);
}

function rectangle([x0, y0, x1, y1]: number[], attributes: Record<string, string | number>): SVGElement {
  return shape("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0, ...attributes });
}

function cells(panel: Panel, boxes: number[][], { values, limit, signed, omitted }: Painting, opacity: number): SVGElement[] {
  const { css } = scaleFor(signed);
  return panel.tokens.flatMap((token, at) => {
    if (values === null) {
      return [];
    }
    const isOut = omitted !== null && omitted[token] === 1;
    const step = stepOf(values[token], limit, signed);
    const cover = isOut ? 1 : coverOf(step, signed);
    return [rectangle(boxes[at], { fill: isOut ? "url(#hatch)" : css[step], "fill-opacity": Number((opacity * cover).toFixed(3)), "shape-rendering": "crispEdges" })];
  });
}

function outside(panel: Panel, view: [number, number, number, number], width: number, height: number): SVGElement[] {
  const [x0, y0, x1, y1] = placed(panel.crop, view, width, height);
  if (x0 < 1 && y0 < 1 && x1 > width - 1 && y1 > height - 1) {
    return [];
  }
  const around = `M0 0H${width}V${height}H0ZM${x0} ${y0}H${x1}V${y1}H${x0}Z`;
  return [shape("path", { d: around, "fill-rule": "evenodd", fill: "#787878", "fill-opacity": 0.72 })];
}

function lines(panel: Panel, boxes: number[][], state: State): SVGElement[] {
  const at = panel.tokens.indexOf(state.patch.value ?? -1);
  const grid = state.show.grid.value || state.show.numbers.value ? boxes.map((box) => rectangle(box, { fill: "none", stroke: "#000", "stroke-opacity": 0.5, "stroke-width": 0.5 })) : [];
  return at < 0 ? grid : [...grid, rectangle(boxes[at], { fill: "none", stroke: "#fff", "stroke-width": 4 }), rectangle(boxes[at], { fill: "none", stroke: "#000", "stroke-width": 2 })];
}

/** Positions and lens words in patches that have room for them. */
function texts(measured: Measured, panel: Panel, boxes: number[][], state: State): SVGElement[] {
  const word = lensWord(measured, state);
  const { numbers, lens } = state.show;
  return panel.tokens.flatMap((token, at) => {
    const [x0, y0, x1, y1] = boxes[at];
    const shown = [...(numbers.value ? [String(measured.payload.positions[token])] : []), ...(lens.value ? [word(token)?.word.trim() ?? ""] : [])];
    if (x1 - x0 < ROOM.width || y1 - y0 < ROOM.height * shown.length) {
      return [];
    }
    const cut = shown.map((text) => [...text].slice(0, Math.floor((x1 - x0) / 5.5)).join(""));
    return cut.map((text, line) => {
      const place = { x: (x0 + x1) / 2, y: y0 + ((y1 - y0) * (line + 1)) / (shown.length + 1) + 3.5, "font-size": 10, "text-anchor": "middle" };
      return shape("text", { ...place, fill: "#111", stroke: "#fff", "stroke-width": 2, "paint-order": "stroke" }, text);
    });
  });
}

function outlined(object: NamedObject, view: [number, number, number, number], width: number, height: number): SVGElement[] {
  const box = placed(object.box, view, width, height);
  const corners = (object.outline ?? []).map(([x, y]) => placed([x, y, x, y], view, width, height).slice(0, 2).map((each) => each.toFixed(1)).join(","));
  const drawn = (attributes: Record<string, string | number>) => (corners.length > 2 ? shape("polygon", { points: corners.join(" "), fill: "none", ...attributes }) : rectangle(box, { fill: "none", ...attributes }));
  const text = { x: Math.max(box[0], 0) + 3, y: Math.max(box[1] - 4, 11), "font-size": 11 };
  const name = [shape("text", { ...text, stroke: "#fff", "stroke-width": 3, "stroke-linejoin": "round", fill: "#fff" }, object.name), shape("text", { ...text, fill: "#0b3a8f" }, object.name)];
  return [
    drawn({ stroke: "#fff", "stroke-width": 3.5 }),
    drawn({ stroke: "#0b57d0", "stroke-width": 1.5 }),
    ...(isNamedIn(object.box, view) ? name : []),
  ];
}

function diamonds(panel: Panel, boxes: number[][], { sinks }: Painting): SVGElement[] {
  return panel.tokens.flatMap((token, at) => {
    if (sinks === null || sinks[token] !== 1) {
      return [];
    }
    const [x0, y0, x1, y1] = boxes[at];
    const [x, y, reach] = [(x0 + x1) / 2, (y0 + y1) / 2, Math.min(5, 0.32 * Math.min(x1 - x0, y1 - y0))];
    const d = `M${x} ${y - reach}L${x + reach} ${y}L${x} ${y + reach}L${x - reach} ${y}Z`;
    return [shape("path", { d, fill: "none", stroke: "#fff", "stroke-width": 3 }), shape("path", { d, fill: "none", stroke: "#000", "stroke-width": 1.3 })];
  });
}

function legendOf(painting: Painting, state: State, top: number): SVGElement[] {
  const { css } = scaleFor(painting.signed);
  const wide = 240;
  const stops = Array.from({ length: 33 }, (_, at) => {
    const step = Math.round((at * (STEPS - 1)) / 32);
    return shape("stop", { offset: at / 32, "stop-color": css[step], "stop-opacity": coverOf(step, painting.signed).toFixed(3) });
  });
  const numbers = ticks(painting).map((each, at) => shape("text", { x: (wide * at) / 2, y: top + 26, "font-size": 11, "text-anchor": ["start", "middle", "end"][at], fill: "#1a1a1a" }, spelled(each)));
  return [
    shape("linearGradient", { id: "scale" }, ...stops),
    shape("rect", { y: top, width: wide, height: 12, fill: "url(#scale)", "fill-opacity": state.opacity.value / 100, stroke: "#777", "stroke-width": 0.5 }),
    ...numbers,
  ];
}

interface Caption {
  text: string;
  size: number;
  bold: boolean;
}

/** What the figure shows, its range, and how it was made. */
function captions(measured: Measured, state: State, painting: Painting, twin: Painting | null): Caption[] {
  const { payload } = measured;
  const changed = measured.columns.slice(1).map(headed);
  const maps = [painting, ...(twin === null ? [] : [twin])].filter((each) => each.of !== "");
  const of = maps.map((each, at) => `${maps.length > 1 ? ["Left: ", "Right: "][at] : ""}${each.of}: ${each.title}, ${each.where}${each.values === null ? `. No map: ${each.why}` : ""}`);
  const spans = maps.filter((each) => each.values !== null).slice(0, 1).map((each) => range(each, state));
  const marks = state.show.sinks.value && painting.sinks !== null && painting.sinks.includes(1) ? ["Diamonds: sinks."] : [];
  const facts = payload.facts.map(([name, value]) => `${name}: ${value}`).join("; ");
  return [
    { text: payload.title, size: 13, bold: true },
    ...[...of, ...spans, ...marks, ...changed].map((text) => ({ text, size: 12, bold: false })),
    { text: facts, size: 9, bold: false },
  ];
}

/** A text in lines of so many letters; words that are longer are cut. */
function wrapped(text: string, letters: number): string[] {
  const found: string[] = [];
  let line = "";
  for (const word of text.split(/\s+/).flatMap((each) => each.match(new RegExp(`.{1,${Math.floor(letters)}}`, "gu")) ?? [])) {
    if (line !== "" && line.length + word.length + 1 > letters) {
      found.push(line);
      line = "";
    }
    line = line === "" ? word : `${line} ${word}`;
  }
  return line === "" ? found : [...found, line];
}
