/** How panels stand: tiles as they lie in their picture, thumbnails apart, frames as a strip. */

import { element } from "./elements";
import { aspectOf } from "./geometry";
import type { PanelView } from "./panels";
import type { Box, Panel, Payload } from "./payload";

/** All panels, picture by picture. */
export function arranged(payload: Payload, views: PanelView[]): HTMLElement[] {
  const groups: HTMLElement[] = [];
  const frames = views.filter((each) => payload.panels[each.number].kind === "frame");
  payload.pictures.forEach((picture, number) => {
    const own = views.filter((each) => payload.panels[each.number].picture === number && !frames.includes(each));
    if (own.length > 0) {
      const isOne = payload.pictures.length === 1;
      groups.push(element("div", { role: "group", class: "picture", "aria-label": picture.label }, isOne || own.length === 1 ? null : element("h3", {}, picture.label), ...parts(payload, own)));
    }
  });
  if (frames.length > 0) {
    groups.push(element("div", { role: "group", class: "strip", "aria-label": "frames" }, ...frames.map((each) => each.figure)));
  }
  return groups;
}

/** One picture's panels. */
function parts(payload: Payload, views: PanelView[]): HTMLElement[] {
  const of = (kind: Panel["kind"]) => views.filter((each) => payload.panels[each.number].kind === kind);
  const tiles = of("tile");
  const others = [...of("picture"), ...of("thumbnail")].map((each) => each.figure);
  return tiles.length === 0 ? others : [tiled(payload, tiles), ...others];
}

/** Tiles where they lie in the picture, as wide and as tall as they are there. */
function tiled(payload: Payload, tiles: PanelView[]): HTMLElement {
  const crops = tiles.map((each) => payload.panels[each.number].crop);
  const lefts = edges(crops.map((crop) => crop[0]));
  const tops = edges(crops.map((crop) => crop[1]));
  const holder = element("div", { class: "tiles" }, ...tiles.map((each) => each.figure));
  const places = crops.map((crop) => `${place(lefts, crop[0])}.${place(tops, crop[1])}`);
  if (new Set(places).size < places.length) {
    return holder;
  }
  const widths = lefts.map((left) => Math.max(...crops.filter((crop) => near(crop[0], left)).map((crop) => crop[2] - crop[0])));
  holder.style.gridTemplateColumns = widths.map((width) => `minmax(0, ${width}fr)`).join(" ");
  holder.style.setProperty("--aspect", String(aspectOf(union(crops))));
  tiles.forEach((each, at) => {
    each.figure.style.gridColumn = String(place(lefts, crops[at][0]) + 1);
    each.figure.style.gridRow = String(place(tops, crops[at][1]) + 1);
  });
  return holder;
}

function near(one: number, other: number): boolean {
  return Math.abs(one - other) < 1.5;
}

function edges(values: number[]): number[] {
  const found: number[] = [];
  for (const value of [...values].sort((one, other) => one - other)) {
    if (!found.some((each) => near(each, value))) {
      found.push(value);
    }
  }
  return found;
}

function place(found: number[], value: number): number {
  return found.findIndex((each) => near(each, value));
}

function union(crops: Box[]): Box {
  return [
    Math.min(...crops.map((crop) => crop[0])),
    Math.min(...crops.map((crop) => crop[1])),
    Math.max(...crops.map((crop) => crop[2])),
    Math.max(...crops.map((crop) => crop[3])),
  ];
}
