/** Tables whose headings sort their rows: up, down, and back to the order of the file. */

import { button } from "./elements";

const ORDERS = ["none", "ascending", "descending"] as const;
type Order = (typeof ORDERS)[number];

/** Makes a button of every heading of a table. */
export function sortable(table: HTMLTableElement, say: (text: string) => void): void {
  const [body] = table.tBodies;
  const headings = [...(table.tHead?.rows[0]?.cells ?? [])];
  const rows = [...body.rows];
  headings.forEach((heading, column) => {
    const name = heading.textContent ?? "";
    heading.replaceChildren(
      button(name, () => {
        const order = ORDERS[(ORDERS.indexOf(orderOf(heading)) + 1) % ORDERS.length];
        headings.forEach((each) => each.setAttribute("aria-sort", each === heading ? order : "none"));
        body.append(...sorted(rows, column, order, heading.classList.contains("number")));
        say(order === "none" ? "In the order of the file." : `Sorted by ${name}, ${order}.`);
      }),
    );
    heading.setAttribute("aria-sort", "none");
  });
}

function orderOf(heading: Element): Order {
  return ORDERS.find((each) => each === heading.getAttribute("aria-sort")) ?? "none";
}

/** Rows in another order; cells without a value come last, whichever way. */
function sorted(rows: HTMLTableRowElement[], column: number, order: Order, isNumber: boolean): HTMLTableRowElement[] {
  if (order === "none") {
    return rows;
  }
  const way = order === "ascending" ? 1 : -1;
  const compare = isNumber ? (one: string, other: string) => numeric(one) - numeric(other) || 0 : new Intl.Collator("en", { numeric: true }).compare;
  const keyed = rows.map((row) => ({ row, value: valueOf(row.cells[column]) }));
  return keyed.sort((one, other) => Number(one.value === "") - Number(other.value === "") || way * compare(one.value, other.value)).map(({ row }) => row);
}

/** The number that a cell was rounded from, or its text. */
function valueOf(cell: HTMLTableCellElement): string {
  return cell.dataset.value ?? cell.textContent ?? "";
}

/** A number; an infinite one is as large as any. */
function numeric(text: string): number {
  const value = Number(text.replace("\u221e", "Infinity"));
  return Number.isFinite(value) ? value : Math.sign(value) * Number.MAX_VALUE;
}
