/** The controls above the picture: native inputs, each bound to one signal. */

import { batch, effect, type Signal } from "@preact/signals-core";
import { button, element, live, set, type Child } from "./elements";
import { layersNow } from "./layers";
import type { Measured } from "./measured";
import { nearest, wayTo } from "./painting";
import { missing } from "./readout";
import { KNOWN_QUANTITIES, QUANTITY_TITLES, type ScaleOver, type Shown, type State } from "./state";

const SHOWN_TITLES: [Shown, string][] = [
  ["objects", "objects"],
  ["sinks", "sinks"],
  ["grid", "grid lines"],
  ["numbers", "patch numbers"],
  ["lens", "lens words"],
];

export function controls(measured: Measured, state: State, measure: ((quantity: string) => void) | null): HTMLElement {
  return element(
    "div",
    { class: "controls", role: "group", "aria-label": "what is shown" },
    element("div", { class: "row" }, quantities(measured, state), layers(measured, state), heads(measured, state)),
    about(measured, state, measure),
    details(element("div", { class: "row minor" }, scales(measured, state), opacity(state)), element("div", { class: "row minor" }, shown(measured, state), pair(measured, state))),
  );
}

/** What is changed more rarely: folded where there is little room. */
function details(...rows: HTMLElement[]): HTMLElement {
  const folded = element("details", { class: "more", id: "more" }, element("summary", {}, "Colours and marks"), ...rows);
  const narrow = matchMedia("(max-width: 560px)");
  const fold = () => (folded.open = !narrow.matches);
  narrow.addEventListener("change", fold);
  fold();
  return folded;
}

/** The quantities in the page, and those that it could have. */
function quantities(measured: Measured, state: State): HTMLElement {
  const own = measured.columns.flatMap((each) => [...each.quantities.keys()]);
  const keys = [...new Set([...KNOWN_QUANTITIES, ...own])];
  const options = keys.map((key) => {
    const title = measured.columns[0].quantities.get(key)?.spec.title ?? QUANTITY_TITLES[key] ?? key;
    return radio("quantity", `quantity-${key}`, key, title, state.quantity, !own.includes(key));
  });
  return element("fieldset", { class: "choices" }, element("legend", {}, "Quantity"), ...options);
}

function radio<T extends string>(group: string, id: string, value: T, title: string, target: Signal<T>, isAbsent = false): HTMLElement {
  const input = element("input", { type: "radio", name: group, id, value });
  input.addEventListener("change", () => (target.value = value));
  effect(() => {
    input.checked = target.value === value;
  });
  const note = isAbsent ? element("span", { class: "unseen" }, " (not in this page)") : null;
  return element("label", { class: isAbsent ? "choice absent" : "choice", for: id, title: isAbsent ? "not in this page" : null }, input, element("span", {}, title, note));
}

function checkbox(id: string, title: string, target: Signal<boolean>): HTMLLabelElement {
  const input = element("input", { type: "checkbox", id });
  input.addEventListener("change", () => (target.value = input.checked));
  effect(() => {
    input.checked = target.value;
  });
  return element("label", { class: "check", for: id }, input, element("span", {}, title));
}

/** The slider over layers; moving it leaves the mean. */
function layers(measured: Measured, state: State): HTMLElement {
  const slider = element("input", { type: "range", id: "layer", min: 0, step: 1 });
  const shown = element("output", { for: "layer", class: "number" });
  const mean = checkbox("layer-mean", "mean over layers", state.mean);
  slider.addEventListener("input", () => {
    const layer = layersNow(measured, state)[Number(slider.value)] ?? state.layer.value;
    batch(() => {
      state.layer.value = layer;
      state.mean.value = false;
    });
  });
  effect(() => {
    const all = layersNow(measured, state);
    const layer = all.length === 0 ? 0 : nearest(all, state.layer.value);
    slider.max = String(Math.max(all.length - 1, 0));
    slider.value = String(Math.max(all.indexOf(layer), 0));
    slider.disabled = all.length < 2;
    const input = mean.querySelector("input");
    if (input !== null) {
      input.disabled = all.length < 2;
    }
    const isThere = measured.columns.some((each) => each.quantities.has(state.quantity.value));
    const text = !isThere ? "" : all.length === 0 ? "all at once" : state.mean.value && all.length > 1 ? `mean of ${all.length}` : String(layer);
    shown.textContent = text;
    slider.setAttribute("aria-valuetext", all.length === 0 ? text : state.mean.value ? `layer ${layer}; the mean is shown` : `layer ${layer}`);
    slider.classList.toggle("resting", state.mean.value);
  });
  return element("div", { class: "field layers" }, element("label", { for: "layer" }, "Layer"), slider, shown, mean);
}

function heads(measured: Measured, state: State): HTMLElement {
  const select = element("select", { id: "head" });
  select.addEventListener("change", () => (state.head.value = select.value));
  effect(() => {
    const names = measured.columns[0].quantities.get(state.quantity.value)?.spec.heads ?? ["mean"];
    select.replaceChildren(...names.map((name) => element("option", { value: name }, name === "mean" ? "mean of heads" : `head ${name}`)));
    select.value = names.includes(state.head.value) ? state.head.value : names[0];
    select.disabled = names.length < 2;
    const spec = measured.columns[0].quantities.get(state.quantity.value)?.spec;
    set(select, "title", names.length < 2 && spec !== undefined ? spec.missing : null);
  });
  return element("div", { class: "field" }, element("label", { for: "head" }, "Head"), select);
}

function scales(measured: Measured, state: State): HTMLElement {
  return element(
    "fieldset",
    { class: "choices" },
    element("legend", {}, "Colour scale"),
    radio<ScaleOver>("scale", "scale-map", "map", "each map's own", state.scale),
    radio<ScaleOver>("scale", "scale-layers", "layers", "fixed over layers", state.scale),
    measured.columns.some((each) => each.sinks !== null) ? checkbox("omit", "without sinks", state.omit) : null,
  );
}

function shown(measured: Measured, state: State): HTMLElement {
  const { columns, payload } = measured;
  const isThere: Record<Shown, boolean> = {
    grid: true,
    numbers: true,
    objects: payload.objects.length > 0,
    sinks: columns.some((each) => each.sinks !== null),
    lens: columns.some((each) => each.lens !== null),
  };
  const boxes: Child[] = SHOWN_TITLES.filter(([key]) => isThere[key]).map(([key, title]) => checkbox(`show-${key}`, title, state.show[key]));
  return element("fieldset", { class: "checks" }, element("legend", {}, "Show"), ...boxes);
}

/** How two columns are compared. */
function pair(measured: Measured, state: State): HTMLElement | null {
  const ways = [checkbox("beside", "side by side", state.beside), checkbox("difference", "difference (first \u2212 second)", state.difference)];
  return measured.columns.length < 2 ? null : element("fieldset", { class: "checks" }, element("legend", {}, "Columns"), ...ways);
}

function opacity(state: State): HTMLElement {
  const slider = element("input", { type: "range", id: "opacity", min: 10, max: 100, step: 10 });
  slider.addEventListener("input", () => (state.opacity.value = Number(slider.value)));
  effect(() => {
    slider.value = String(state.opacity.value);
    slider.setAttribute("aria-valuetext", `${state.opacity.value} per cent`);
  });
  return element("div", { class: "field" }, element("label", { for: "opacity" }, "Map over picture"), slider);
}

/** What quantities are not, and why. */
const ATTENTION = ["Attention is not a cause.", "A word may read a patch and make no use of it."];
const GRADIENT = ["A gradient is an estimate.", "It says what a small change of a patch would do, and not what the patch did."];

/** What the quantity is; what it is not; and the way to the one that is. */
function about(measured: Measured, state: State, measure: ((quantity: string) => void) | null): HTMLElement {
  const sentence = element("span");
  live(sentence, () => measured.columns[0].quantities.get(state.quantity.value)?.spec.about ?? "");
  const go = button("Show what cutting each patch costs", () => (state.quantity.value = "causal"), { class: "link", id: "to-causal" });
  const caution = element("span", { class: "caution" });
  const absent = element("div");
  const more = element("span");
  effect(() => {
    const line = measured.columns[0].quantities.get(state.quantity.value)?.spec.missing ?? "";
    more.replaceChildren(...(line === "" ? [] : [" For heads, layers or words that are not here: ", element("code", {}, line)]));
  });
  effect(() => {
    const key = state.quantity.value;
    const [claim, reason] = key === "gradient" ? GRADIENT : ATTENTION;
    caution.hidden = key === "causal";
    caution.replaceChildren(element("strong", {}, claim), ` ${reason} `, go);
    const isAbsent = !measured.columns.some((each) => each.quantities.has(key));
    const how = measure === null ? wayTo(measured, key) : "";
    const act = measure === null ? null : button("Measure it now", () => measure(key), { id: "measure" });
    absent.replaceChildren(...(isAbsent ? [missing(`This page does not have the ${QUANTITY_TITLES[key] ?? key} of patches.`, how), ...(act === null ? [] : [act])] : []));
  });
  return element("div", { class: "about" }, element("p", {}, sentence, " ", caution, more), absent);
}
