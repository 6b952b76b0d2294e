/** The pictures: a canvas for each panel, which the pointer and the arrow keys go over. */

import { effect, untracked } from "@preact/signals-core";
import { bases, drawPanel, type Marks } from "./draw";
import { element, set } from "./elements";
import { aspectOf, geometryOf, neighbour, patchUnder, viewOf, type Geometry } from "./geometry";
import type { Measured } from "./measured";
import type { Painting } from "./painting";
import type { Box, Panel, Picture } from "./payload";
import { contextOf, type Drawable } from "./pictures";
import { changeLayer } from "./layers";
import { letGo, pinPatch, type State } from "./state";
import { lensWord } from "./readout";

/** One panel and its canvas. */
export class PanelView {
  readonly figure: HTMLElement;
  private readonly canvas: HTMLCanvasElement;
  private readonly panel: Panel;
  private readonly picture: Picture;
  private geometry: Geometry;
  private base: Drawable | null = null;
  private cursor = 0;
  private isDue = false;

  constructor(
    private readonly measured: Measured,
    readonly number: number,
    private readonly state: State,
    private readonly painting: () => Painting,
    private readonly drawable: Drawable,
    isTwin = false,
  ) {
    this.panel = measured.payload.panels[number];
    this.picture = measured.payload.pictures[this.panel.picture];
    this.geometry = geometryOf(this.panel, this.picture, 1);
    this.canvas = element("canvas", {
      [isTwin ? "data-twin" : "data-panel"]: number,
      tabindex: 0,
      role: "application",
      "aria-roledescription": "picture in patches",
      "aria-label": `${this.panel.label}, ${this.panel.rows} rows by ${this.panel.columns} columns of patches`,
      "aria-describedby": "panel-keys",
    });
    const isAlone = measured.payload.panels.length === 1;
    this.figure = element("figure", { class: `panel ${this.panel.kind}` }, this.canvas, isAlone ? null : element("figcaption", {}, this.panel.label));
    this.figure.style.setProperty("--aspect", String(aspectOf(viewOf(this.panel, this.picture))));
    this.listen();
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    effect(() => this.due());
  }

  /** The patch under a point of the canvas, in CSS pixels, as its number among the tokens; -1 where there is none. */
  tokenAt(x: number, y: number): number {
    const ratio = this.ratio;
    const at = patchUnder(this.geometry, x * ratio, y * ratio);
    return at < 0 ? -1 : this.panel.tokens[at];
  }

  /** Where a token lies on the canvas, in CSS pixels; null where the panel does not have it. */
  boxOf(token: number): Box | null {
    const at = this.panel.tokens.indexOf(token);
    if (at < 0) {
      return null;
    }
    const [x, y, width, height] = [...this.geometry.rects.subarray(4 * at, 4 * at + 4)].map((each) => each / this.ratio);
    return [x, y, x + width, y + height];
  }

  /** Draws now. */
  draw(): void {
    this.isDue = false;
    if (this.base === null) {
      return;
    }
    const context = contextOf(this.canvas);
    drawPanel(context, this.panel, this.geometry, this.base, untracked(this.painting), untracked(() => this.marks()), this.ratio);
  }

  /** Fits the canvas to its place. */
  resize(): void {
    const width = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (width === 0 || (width === this.canvas.width && this.base !== null)) {
      return;
    }
    this.geometry = geometryOf(this.panel, this.picture, width);
    this.canvas.width = this.geometry.width;
    this.canvas.height = this.geometry.height;
    this.base = bases(this.picture, this.drawable, this.geometry);
    this.draw();
  }

  private get ratio(): number {
    return this.canvas.clientWidth > 0 ? this.canvas.width / this.canvas.clientWidth : 1;
  }

  /** Draws at the next frame; reads all that a drawing depends on, so that the effect is run again for it. */
  private due(): void {
    this.painting();
    this.marks();
    if (!this.isDue) {
      this.isDue = true;
      requestAnimationFrame(() => this.draw());
    }
  }

  private marks(): Marks {
    const { show, opacity, patch } = this.state;
    const { payload } = this.measured;
    return {
      grid: show.grid.value,
      objects: show.objects.value ? payload.objects.filter((each) => each.picture === this.panel.picture) : [],
      sinks: show.sinks.value,
      texts: this.texts(),
      outlined: show.numbers.value,
      patch: patch.value === null ? -1 : this.panel.tokens.indexOf(patch.value),
      opacity: opacity.value / 100,
    };
  }

  private texts(): ((at: number) => string)[] | null {
    const { tokens } = this.panel;
    const { positions } = this.measured.payload;
    const texts: ((at: number) => string)[] = [];
    if (this.state.show.numbers.value) {
      texts.push((at) => String(positions[tokens[at]]));
    }
    if (this.state.show.lens.value) {
      const word = lensWord(this.measured, this.state);
      texts.push((at) => word(tokens[at])?.word.trim() ?? "");
    }
    return texts.length === 0 ? null : texts;
  }

  private listen(): void {
    const { canvas, state } = this;
    canvas.addEventListener("pointermove", (event) => this.hover(this.tokenAt(event.offsetX, event.offsetY)));
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("click", (event) => {
      const token = this.tokenAt(event.offsetX, event.offsetY);
      if (token >= 0) {
        this.cursor = this.panel.tokens.indexOf(token);
        pinPatch(state, token);
      }
    });
    canvas.addEventListener("focus", () => {
      if (canvas.matches(":focus-visible")) {
        this.hover(this.panel.tokens[this.cursor] ?? -1);
      }
    });
    canvas.addEventListener("blur", () => this.hover(-1));
    canvas.addEventListener("keydown", (event) => this.key(event));
    effect(() => set(canvas, "data-pinned", this.panel.tokens.includes(state.pinnedPatch.value ?? -1)));
  }

  private hover(token: number): void {
    this.state.hoveredPatch.value = token < 0 ? null : token;
  }

  private key(event: KeyboardEvent): void {
    const act = Object.hasOwn(this.keys, event.key) ? this.keys[event.key] : undefined;
    if (act === undefined || event.ctrlKey || event.metaKey || event.altKey || this.panel.tokens.length === 0) {
      return;
    }
    event.preventDefault();
    act();
  }

  private readonly keys: Record<string, () => void> = {
    ArrowUp: () => this.move(-1, 0),
    ArrowDown: () => this.move(1, 0),
    ArrowLeft: () => this.move(0, -1),
    ArrowRight: () => this.move(0, 1),
    Home: () => this.go(0),
    End: () => this.go(this.panel.tokens.length - 1),
    PageUp: () => changeLayer(this.measured, this.state, 1),
    PageDown: () => changeLayer(this.measured, this.state, -1),
    Enter: () => pinPatch(this.state, this.panel.tokens[this.cursor]),
    " ": () => pinPatch(this.state, this.panel.tokens[this.cursor]),
    Escape: () => letGo(this.state),
  };

  private move(down: number, right: number): void {
    this.go(neighbour(this.panel, this.cursor, down, right));
  }

  private go(cursor: number): void {
    this.cursor = cursor;
    this.hover(this.panel.tokens[cursor]);
  }
}
