/** Where patches lie on a canvas. */

import type { Box, Panel, Picture } from "./payload";

export interface Geometry {
  /** What of the picture the canvas shows, in the picture's pixels. */
  view: Box;
  /** Size of the canvas, in the unit that was asked for: screen pixels, or an export's. */
  width: number;
  height: number;
  /** `x, y, width, height` of each patch of the panel, on whole units, so that neighbours share an edge. */
  rects: Int32Array;
}

/** What of a picture a panel shows: a tile its own part, all others the whole picture, with what lies around it. */
export function viewOf(panel: Panel, picture: Picture): Box {
  const [x0, y0, x1, y1] = panel.crop;
  if (panel.kind === "tile") {
    return panel.crop;
  }
  return [Math.min(x0, 0), Math.min(y0, 0), Math.max(x1, picture.width), Math.max(y1, picture.height)];
}

export function aspectOf(view: Box): number {
  return Math.max(view[2] - view[0], 1e-6) / Math.max(view[3] - view[1], 1e-6);
}

export function geometryOf(panel: Panel, picture: Picture, width: number): Geometry {
  const view = viewOf(panel, picture);
  const height = Math.max(1, Math.round(width / aspectOf(view)));
  const rects = new Int32Array(4 * panel.boxes.length);
  panel.boxes.forEach((box, at) => {
    const [x0, y0, x1, y1] = placed(box, view, width, height).map(Math.round);
    rects.set([x0, y0, Math.max(x1 - x0, 1), Math.max(y1 - y0, 1)], 4 * at);
  });
  return { view, width, height, rects };
}

/** A box of the picture on the canvas. */
export function placed(box: Box, view: Box, width: number, height: number): Box {
  const across = width / (view[2] - view[0]);
  const down = height / (view[3] - view[1]);
  return [(box[0] - view[0]) * across, (box[1] - view[1]) * down, (box[2] - view[0]) * across, (box[3] - view[1]) * down];
}

/** The patch of a panel under a point of its canvas, as its number in the panel; -1 where there is none. */
export function patchUnder(geometry: Geometry, x: number, y: number): number {
  const { rects } = geometry;
  for (let at = 0; at < rects.length; at += 4) {
    if (x >= rects[at] && x < rects[at] + rects[at + 2] && y >= rects[at + 1] && y < rects[at + 1] + rects[at + 3]) {
      return at / 4;
    }
  }
  return -1;
}

/** The patch beside another in a direction; the same one at the edge. */
export function neighbour(panel: Panel, at: number, down: number, right: number): number {
  const [row, column] = panel.cells[at];
  const found = panel.cells.findIndex(([y, x]) => y === row + down && x === column + right);
  return found < 0 ? at : found;
}

/** Whether two boxes have a part in common. */
export function overlaps(one: Box, other: Box): boolean {
  return one[0] < other[2] && other[0] < one[2] && one[1] < other[3] && other[1] < one[3];
}

/** Whether an object's name is written in a view: where its upper left corner is, so that tiles do not repeat it. */
export function isNamedIn(box: Box, view: Box): boolean {
  return box[0] >= view[0] - 1 && box[0] < view[2] - 1 && box[1] >= view[1] - 1 && box[1] < view[3] - 1;
}

/** Whether a panel shows more of its picture than the model saw. */
export function hasOutside(panel: Panel, picture: Picture): boolean {
  const [x0, y0, x1, y1] = viewOf(panel, picture);
  const least = Math.max(x1 - x0, y1 - y0) / 400;
  const [left, top, right, bottom] = panel.crop;
  return left - x0 > least || top - y0 > least || x1 - right > least || y1 - bottom > least;
}
