/** Going through layers, from the slider and from the keys of words and pictures. */

import type { Measured } from "./measured";
import { nearest } from "./painting";
import { numbered, type State } from "./state";

/** The numbered layers of the quantity that is chosen. */
export function layersNow(measured: Measured, state: State): number[] {
  return numbered(measured.columns[0].quantities.get(state.quantity.value)?.spec.layers ?? []);
}

/** Goes some layers up or down; from the mean to the layer that was shown before. */
export function changeLayer(measured: Measured, state: State, by: number): void {
  const layers = layersNow(measured, state);
  if (layers.length === 0) {
    return;
  }
  if (state.mean.value) {
    state.mean.value = false;
    return;
  }
  const at = layers.indexOf(nearest(layers, state.layer.value)) + by;
  state.layer.value = layers[Math.min(Math.max(at, 0), layers.length - 1)];
}
