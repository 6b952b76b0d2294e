/** A payload with its numbers unpacked: what was measured, and what a row of it is. */

import { integers, Maps } from "./blocks";
import type { ColumnSpec, LensSpec, Payload, QuantitySpec, SinkSpec, Word } from "./payload";

/** How many matrices `[row, token]` are kept; one is made when a patch is looked at. */
const KEPT = 6;

/** A place among the layers of a quantity; null is the mean over them. */
export type LayerPlace = number | null;

/** One quantity of one column. */
export class Quantity {
  private readonly matrices = new Map<string, Float32Array>();

  constructor(
    readonly spec: QuantitySpec,
    private readonly maps: Maps,
    private readonly tokens: number,
  ) {}

  /** Whether a row was measured. */
  has(row: number): boolean {
    return this.place(row) >= 0;
  }

  /** What a row reads of each image token, `[token]`; null where it was not measured. */
  row(layer: LayerPlace, head: number, row: number): Float32Array | null {
    const place = this.place(row);
    if (place < 0) {
      return null;
    }
    const values = new Float32Array(this.tokens);
    this.addInto(layer, head, place, values);
    return values;
  }

  /** The largest size of a row's values over all layers, without the tokens left out. */
  limit(head: number, row: number, omitted: Uint8Array | null): number {
    let largest = 0;
    for (let layer = 0; layer < this.spec.layers.length; layer++) {
      largest = Math.max(largest, largestOf(this.row(layer, head, row), omitted));
    }
    return largest;
  }

  /** What every row reads of one image token, `[row]`; NaN where it was not measured. */
  column(layer: LayerPlace, head: number, token: number): Float32Array {
    const matrix = this.matrix(layer, head);
    const found = new Float32Array(this.spec.rows).fill(NaN);
    for (let row = 0; row < this.spec.rows; row++) {
      const place = this.place(row);
      if (place >= 0) {
        found[row] = matrix[place * this.tokens + token];
      }
    }
    return found;
  }

  /** Where a row lies in the block: rows that were not measured may take no room there. */
  private place(row: number): number {
    const measured = this.spec.has;
    if (row < 0 || row >= this.spec.rows) {
      return -1;
    }
    if (measured === null) {
      return row;
    }
    const at = measured.indexOf(row);
    return at < 0 || this.maps.shape[2] === this.spec.rows ? (at < 0 ? -1 : row) : at;
  }

  private addInto(layer: LayerPlace, head: number, place: number, into: Float32Array): void {
    if (layer !== null) {
      this.maps.add(layer, head, place, into);
      return;
    }
    const count = this.spec.layers.length;
    for (let each = 0; each < count; each++) {
      this.maps.add(each, head, place, into, 1 / count);
    }
  }

  private matrix(layer: LayerPlace, head: number): Float32Array {
    const key = `${layer}.${head}`;
    let matrix = this.matrices.get(key);
    if (matrix === undefined) {
      const rows = this.maps.shape[2];
      matrix = new Float32Array(rows * this.tokens);
      for (let place = 0; place < rows; place++) {
        this.addInto(layer, head, place, matrix.subarray(place * this.tokens, (place + 1) * this.tokens));
      }
      if (this.matrices.size >= KEPT) {
        this.matrices.delete(this.matrices.keys().next().value as string);
      }
      this.matrices.set(key, matrix);
    }
    return matrix;
  }
}

/** The words that a lens reads out of image tokens. */
export class Lens {
  constructor(
    readonly spec: LensSpec,
    private readonly words: ArrayLike<number>,
    private readonly chances: Maps,
    private readonly tokens: number,
  ) {}

  /** The word at a token after a layer and its probability; null where that layer was not read. */
  at(layer: number, token: number): { word: string; probability: number } | null {
    const place = this.spec.layers.indexOf(layer);
    if (place < 0) {
      return null;
    }
    const word = this.spec.vocabulary[this.words[place * this.tokens + token]];
    return word === undefined ? null : { word, probability: this.row(place)[token] };
  }

  private kept: { place: number; values: Float32Array } | null = null;

  private row(place: number): Float32Array {
    if (this.kept === null || this.kept.place !== place) {
      const values = new Float32Array(this.tokens);
      this.chances.add(place, 0, 0, values);
      this.kept = { place, values };
    }
    return this.kept.values;
  }
}

/** One column: a prompt and its answer, as they are or under an intervention. */
export interface Column {
  key: string;
  title: string;
  words: Word[];
  sinks: SinkSpec | null;
  lens: Lens | null;
  quantities: Map<string, Quantity>;
}

export interface Measured {
  payload: Payload;
  columns: Column[];
}

export async function unpacked(payload: Payload): Promise<Measured> {
  const columns = await Promise.all(payload.columns.map((each) => columnOf(each, payload.tokens)));
  return { payload, columns };
}

async function columnOf(spec: ColumnSpec, tokens: number): Promise<Column> {
  const quantities = new Map<string, Quantity>();
  const each = Object.entries(spec.quantities).map(async ([key, one]) => {
    return [key, new Quantity(one, await Maps.of(one.data, one.signed), tokens)] as const;
  });
  for (const [key, quantity] of await Promise.all(each)) {
    quantities.set(key, quantity);
  }
  return { ...spec, lens: spec.lens === null ? null : await lensOf(spec.lens, tokens), quantities };
}

async function lensOf(spec: LensSpec, tokens: number): Promise<Lens> {
  const chances = { ...spec.probability, shape: [spec.layers.length, 1, 1, tokens] };
  return new Lens(spec, await integers(spec.words), await Maps.of(chances, false), tokens);
}

/** The largest size among values, without those left out. */
export function largestOf(values: Float32Array | null, omitted: Uint8Array | null): number {
  let largest = 0;
  for (let at = 0; values !== null && at < values.length; at++) {
    if (omitted === null || omitted[at] === 0) {
      largest = Math.max(largest, Math.abs(values[at]));
    }
  }
  return largest;
}
