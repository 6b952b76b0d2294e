/** What a person asks of a live page: signals, and the request that is made of them. */

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals-core";
import type { Box } from "./payload";
import { Refusal, type Facts, type Role, type Sent } from "./server";

export const KINDS = ["none", "cut", "patch"] as const;
export type Kind = (typeof KINDS)[number];
/** What more can be measured than attention, which always is. */
export const MORE = ["contribution", "gradient", "causal"] as const;
/** The place that is drawn on the picture. */
export const BOXED = "box";

export interface Form {
  question: Signal<string>;
  length: Signal<string>;
  more: Signal<string[]>;
  kind: Signal<Kind>;
  source: Signal<string>;
  target: Signal<string>;
  layers: Signal<string>;
  heads: Signal<string>;
  how: Signal<string>;
  where: Signal<string>;
  layer: Signal<string>;
  pixels: Signal<boolean>;
  /** In pixels of the picture: left, top, right, bottom. */
  box: Signal<Box>;
  pictures: Record<Role, Signal<Sent | null>>;
  /** Whether a place of the present change is the box. */
  isBoxed: ReadonlySignal<boolean>;
  /** What is wrong, and with which field. */
  wrong: Signal<Refusal | null>;
}

export function formOf(facts: Facts): Form {
  const kind = signal<Kind>("none");
  const [source, target, where] = [signal("image"), signal("text"), signal("image")];
  const pictures = { picture: signal(facts.pictures.picture ?? null), other: signal(facts.pictures.other ?? null) };
  return {
    question: signal(facts.question ?? ""),
    length: signal(String(facts.longest)),
    more: signal([]),
    kind,
    source,
    target,
    layers: signal("all"),
    heads: signal("all"),
    how: signal("mask"),
    where,
    layer: signal("0"),
    pixels: signal(false),
    box: signal(middle(pictures.picture.value)),
    pictures,
    isBoxed: computed(() => (kind.value === "cut" ? source.value === BOXED || target.value === BOXED : kind.value === "patch" && where.value === BOXED)),
    wrong: signal<Refusal | null>(null),
  };
}

/** The middle of a picture: where a box begins. */
export function middle(picture: Sent | null): Box {
  const { width, height } = picture ?? { width: 4, height: 4 };
  return [width / 4, height / 4, (3 * width) / 4, (3 * height) / 4].map(Math.round) as Box;
}

/** The request for an answer. */
export function asking(form: Form, facts: Facts): Record<string, unknown> {
  return {
    question: questionOf(form),
    max_new_tokens: whole("max_new_tokens", form.length.value, 1, facts.longest),
    change: changeOf(form, facts),
    quantities: ["weight", ...form.more.value],
  };
}

/** The request for a proof. */
export function proving(form: Form, facts: Facts): Record<string, unknown> {
  return { question: questionOf(form), change: changeOf(form, facts), pixels: canTryPixels(form) && form.pixels.value };
}

/** Whether other pixels can be tried: the whole picture is cut from all text, so that they must change nothing. */
export function canTryPixels({ kind, source, target, layers, heads, how }: Form): boolean {
  const isWhole = [layers.value, heads.value].every((each) => ["", "all"].includes(each.trim()));
  return kind.value === "cut" && source.value === "image" && target.value === "text" && how.value === "mask" && isWhole;
}

function questionOf(form: Form): string {
  if (form.pictures.picture.value === null) {
    throw new Refusal("there is no picture yet; choose one, or drop one here", "picture");
  }
  if (form.question.value.trim() === "") {
    throw new Refusal("write a question about the picture", "question");
  }
  return form.question.value;
}

function changeOf(form: Form, facts: Facts): Record<string, unknown> | null {
  if (form.kind.value === "none") {
    return null;
  }
  if (form.kind.value === "cut") {
    const [source, target] = [placed(form, form.source.value), placed(form, form.target.value)];
    return { kind: "cut", source, target, layers: form.layers.value.trim(), heads: headsOf(form.heads.value, facts.heads), how: form.how.value };
  }
  if (form.pictures.other.value === null) {
    throw new Refusal("there is no other picture yet; choose one, or drop one here", "other");
  }
  return { kind: "patch", where: placed(form, form.where.value), layer: whole("layer", form.layer.value, -facts.layers, facts.layers - 1) };
}

/** A place as requests spell it. */
function placed(form: Form, place: string): unknown {
  if (place !== BOXED) {
    return place;
  }
  const [left, top, right, bottom] = form.box.value;
  if (!(left < right && top < bottom)) {
    throw new Refusal("this box is empty: left must be less than right, and top less than bottom", "box");
  }
  return { box: form.box.value };
}

function headsOf(text: string, count: number): number[] | null {
  const parts = text.split(/[\s,]+/).filter((each) => each !== "");
  if (parts.length === 0 || (parts.length === 1 && parts[0] === "all")) {
    return null;
  }
  const heads = parts.map(Number);
  if (!heads.every((each) => Number.isInteger(each) && each >= 0 && each < count)) {
    throw new Refusal(`write all, or numbers from 0 to ${count - 1}, such as ${count > 2 ? "0, 2" : "0"}`, "heads");
  }
  return heads;
}

function whole(field: string, text: string, least: number, most: number): number {
  const number = Number(text);
  if (text.trim() === "" || !Number.isInteger(number) || number < least || number > most) {
    throw new Refusal(`write a whole number from ${least} to ${most}`, field);
  }
  return number;
}

/** The change in words; empty where there is none. */
export function changed(form: Form): string {
  const place = (name: string) => (name === BOXED ? `the box ${form.box.value.join(", ")}` : name);
  if (form.kind.value === "cut") {
    const layers = form.layers.value.trim() === "all" ? "all layers" : `layers ${form.layers.value.trim()}`;
    const heads = ["", "all"].includes(form.heads.value.trim()) ? "" : `, heads ${form.heads.value.trim()}`;
    return `${place(form.source.value)} hidden from ${place(form.target.value)} in ${layers}${heads}${form.how.value === "zero" ? ", weight lost" : ""}`;
  }
  return form.kind.value === "patch" ? `${place(form.where.value)} after layer ${form.layer.value.trim()} from the other picture` : "";
}
