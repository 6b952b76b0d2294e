/** Where a page's data come from: the one thing a live page does otherwise than a saved one. */

import { checked, type Payload } from "./payload";

export interface Source {
  payload(): Promise<Payload>;
}

/** Data that were written into the page. */
export function embedded(id: string): Source {
  return {
    async payload() {
      const holder = document.getElementById(id);
      if (holder === null) {
        throw new Error("This page holds no data.");
      }
      return checked(JSON.parse(holder.textContent ?? ""));
    },
  };
}
