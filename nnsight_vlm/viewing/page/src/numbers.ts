/** How numbers are written. */

/** Three digits that count, without an exponent where that is short. */
export function spelled(value: number): string {
  if (!Number.isFinite(value)) {
    return "not a number";
  }
  const size = Math.abs(value);
  if (size === 0) {
    return "0";
  }
  const text = size >= 1e-4 && size < 1e5 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
  return text.replaceAll("-", "\u2212");
}

/** Pixels of a picture: whole where they are nearly so. */
export function pixels(value: number): string {
  return String(Number(value.toFixed(1))).replace("-", "\u2212");
}
