/** Blocks of numbers, unpacked once and read row by row. */

import type { Block } from "./payload";

type Unsigned = Uint8Array | Uint16Array;

/** The bytes behind base64 of zlib. */
export async function inflated(text: string): Promise<ArrayBuffer> {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let at = 0; at < packed.length; at++) {
    bytes[at] = packed.charCodeAt(at);
  }
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

/** Whole numbers as they are, in order: the words of a lens. */
export async function integers(block: Block): Promise<Unsigned> {
  const bytes = await inflated(block.bytes);
  return block.dtype === "u16" ? new Uint16Array(bytes) : new Uint8Array(bytes);
}

/** Maps `[layer, head, row, token]` of one quantity, each row with a scale of its own. */
export class Maps {
  private readonly zero: number;
  private readonly top: number;

  private constructor(
    readonly shape: readonly number[],
    private readonly values: Unsigned,
    private readonly scale: Float32Array | null,
    private readonly starts: Uint32Array | null,
    private readonly index: Uint16Array | null,
    signed: boolean,
  ) {
    const full = values instanceof Uint16Array ? 65535 : 255;
    this.zero = signed ? (full + 1) / 2 : 0;
    this.top = signed ? (full - 1) / 2 : full;
  }

  static async of(block: Block, signed: boolean): Promise<Maps> {
    const [values, scale, counts, index] = await Promise.all([
      integers(block),
      block.scale === undefined ? null : inflated(block.scale),
      block.counts === undefined ? null : inflated(block.counts),
      block.index === undefined ? null : inflated(block.index),
    ]);
    const isSparse = block.encoding === "sparse" && counts !== null && index !== null;
    return new Maps(
      block.shape,
      values,
      scale === null ? null : new Float32Array(scale),
      isSparse ? startsOf(new Uint16Array(counts)) : null,
      isSparse ? new Uint16Array(index) : null,
      signed,
    );
  }

  /** Adds one row, times a factor, to `into`, `[token]`. */
  add(layer: number, head: number, row: number, into: Float32Array, factor = 1): void {
    const [, heads, rows, tokens] = this.shape;
    const place = (layer * heads + head) * rows + row;
    const unit = (factor * (this.scale === null ? 1 : this.scale[place])) / this.top;
    if (this.starts === null || this.index === null) {
      for (let token = 0, at = place * tokens; token < tokens; token++, at++) {
        into[token] += (this.values[at] - this.zero) * unit;
      }
      return;
    }
    let token = 0;
    for (let at = this.starts[place]; at < this.starts[place + 1]; at++) {
      token += this.index[at];
      into[token] += (this.values[at] - this.zero) * unit;
    }
  }
}

/** Where each row of a sparse block begins; one number more than rows. */
function startsOf(counts: Uint16Array): Uint32Array {
  const starts = new Uint32Array(counts.length + 1);
  for (let row = 0; row < counts.length; row++) {
    starts[row + 1] = starts[row] + counts[row];
  }
  return starts;
}
