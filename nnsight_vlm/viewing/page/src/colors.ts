/**
 * Colours of values. Both scales are computed in OKLab, where equal steps look equal: lightness falls evenly with the
 * size of a value, so the order of values is seen without seeing hues, and in print. Signed values are white at 0.
 */

export const STEPS = 256;

export interface Scale {
  css: string[];
  /** Whether text on each colour is black; else it is white. */
  isPale: boolean[];
}

type Lch = (share: number) => [number, number, number];

const pale: Lch = (t) => [0.985 - 0.635 * t, 0.03 + 0.17 * (1 - (1 - t) ** 2.2), 105 - 165 * t];
const signedSide = (hue: number): Lch => (t) => [0.985 - 0.555 * t, 0.2 * t ** 0.8, hue];
const red = signedSide(35);
const blue = signedSide(255);

/** From pale yellow (0) over orange and red to violet (1). */
export const SEQUENTIAL = scaleOf(pale);
/** From blue (-1) over white (0) to red (1). */
export const DIVERGING = scaleOf((t) => (t < 0.5 ? blue(1 - 2 * t) : red(2 * t - 1)));

/** The number of a value's colour; `limit` is the value of the last one. */
export function stepOf(value: number, limit: number, signed: boolean): number {
  const share = limit > 0 ? value / limit : 0;
  const place = signed ? (share + 1) / 2 : share;
  return Math.round(Math.min(Math.max(place, 0), 1) * (STEPS - 1));
}

/** How much of the picture the smallest values hide, of what the largest ones do. */
const FAINT = 0.25;

/** How much a colour hides of what is under it, of the most: what is next to nothing is nearly clear. */
export function coverOf(step: number, signed: boolean): number {
  const share = step / (STEPS - 1);
  return FAINT + (1 - FAINT) * (signed ? Math.abs(2 * share - 1) : share);
}

export function scaleFor(signed: boolean): Scale {
  return signed ? DIVERGING : SEQUENTIAL;
}

function scaleOf(lch: Lch): Scale {
  const css: string[] = [];
  const isPale: boolean[] = [];
  for (let step = 0; step < STEPS; step++) {
    const parts = screen(...lch(step / (STEPS - 1)));
    css.push(`#${parts.map((part) => encoded(part).toString(16).padStart(2, "0")).join("")}`);
    isPale.push(0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2] > 0.179);
  }
  return { css, isPale };
}

/** A colour in linear sRGB, with as much chroma as a screen has at this lightness. */
function screen(lightness: number, chroma: number, hue: number): number[] {
  let kept = chroma;
  while (kept > 0.001 && !linear(lightness, kept, hue).every((part) => part > -0.0005 && part < 1.0005)) {
    kept -= 0.002;
  }
  return linear(lightness, Math.max(kept, 0), hue).map((part) => Math.min(Math.max(part, 0), 1));
}

/** OKLCH as linear sRGB. */
function linear(lightness: number, chroma: number, hue: number): [number, number, number] {
  const angle = (hue * Math.PI) / 180;
  const a = chroma * Math.cos(angle);
  const b = chroma * Math.sin(angle);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}

/** A part of a colour as a byte. */
function encoded(part: number): number {
  const curved = part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055;
  return Math.round(255 * curved);
}
