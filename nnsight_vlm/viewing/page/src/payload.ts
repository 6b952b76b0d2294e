/** What a page shows: format 1, as nnsight_vlm/viewing writes it. */

export type Box = [number, number, number, number];

/** Numbers as they travel: base64 of zlib-compressed little-endian arrays. */
export interface Block {
  encoding: "dense" | "sparse";
  shape: number[];
  dtype: "u8" | "u16";
  bytes: string;
  scale?: string;
  counts?: string;
  index?: string;
  floor?: number;
  dropped?: number;
}

export interface Picture {
  uri: string;
  width: number;
  height: number;
  label: string;
}

export interface Panel {
  picture: number;
  kind: "picture" | "tile" | "thumbnail" | "frame";
  label: string;
  crop: Box;
  rows: number;
  columns: number;
  tokens: number[];
  boxes: Box[];
  cells: [number, number][];
}

export interface NamedObject {
  picture: number;
  name: string;
  box: Box;
  outline: [number, number][] | null;
}

export interface Word {
  text: string;
  space: boolean;
  part: "system" | "query" | "markup" | "generated";
  row: number;
  why: string;
  changed: boolean;
  logprob: number | null;
  /** A line break before it. */
  line?: boolean;
  /** The picture that it stands for. */
  picture?: number;
}

export interface QuantitySpec {
  title: string;
  unit: string;
  about: string;
  signed: boolean;
  /** What is smaller may be rounding. */
  least?: number;
  layers: (number | string)[];
  heads: string[];
  rows: number;
  has: number[] | null;
  missing: string;
  data: Block;
}

export interface SinkSpec {
  layers: number[];
  tokens: number[][];
}

export interface LensSpec {
  layers: number[];
  vocabulary: string[];
  words: Block;
  probability: Block;
}

export interface ColumnSpec {
  key: string;
  title: string;
  words: Word[];
  sinks: SinkSpec | null;
  lens: LensSpec | null;
  quantities: Record<string, QuantitySpec>;
}

export interface Payload {
  format: number;
  title: string;
  version?: string;
  /** For quantities in no column: the line of Python that gives them. */
  missing?: Record<string, string>;
  facts: [string, string][];
  notes: string[];
  pictures: Picture[];
  tokens: number;
  positions: number[];
  panels: Panel[];
  unplaced: number[];
  objects: NamedObject[];
  columns: ColumnSpec[];
}

/** The payload of a page, or an error in words where it is of another kind. */
export function checked(given: unknown): Payload {
  const payload = given as Payload;
  if (typeof given !== "object" || given === null || payload.format !== 1) {
    throw new Error("This page holds data of a format that its viewer does not know. Save it again with one version of nnsight_vlm.");
  }
  if (!Array.isArray(payload.columns) || payload.columns.length === 0 || !Array.isArray(payload.panels)) {
    throw new Error("This page holds no words or no picture.");
  }
  return payload;
}
