/** The live page: a form, answers as they are written, and the viewer of the last one. */

import { effect, signal } from "@preact/signals-core";
import { button, element, live } from "./elements";
import { Answers } from "./liveanswers";
import { changeFields } from "./livechange";
import { checkbox, complaint, field, input } from "./livefields";
import { asking, BOXED, canTryPixels, changed, formOf, MORE, proving, type Form } from "./liveform";
import { pictureCard, take } from "./livepicture";
import { python } from "./livepython";
import { checked, type Payload } from "./payload";
import { Refusal, Server, type Sent } from "./server";
import { show } from "./show";
import { QUANTITY_TITLES } from "./state";
import { themes } from "./themes";

/** One open page. */
class Live {
  readonly root: HTMLElement;
  private readonly form: Form;
  private readonly answers = new Answers();
  private readonly view = element("div", { id: "view" });
  /** What the server does for this page now; null where it rests. */
  private readonly work = signal<AbortController | null>(null);
  private readonly over = signal("");
  /** The question and the picture that the viewer shows; null before the first answer. */
  private readonly seen = signal<{ question: string; picture: Sent | null } | null>(null);
  private shown: AbortController | null = null;
  private chosen: () => string = () => "";
  private done = 0;

  constructor(private readonly server: Server) {
    const { facts } = server;
    this.form = formOf(facts);
    const title = element("h1", {}, "Ask ", element("bdi", {}, facts.model));
    const about = element("p", { class: "quiet" }, `${facts.layers} layers of ${facts.heads} heads. Pictures, questions and answers are forgotten once this page is closed.`);
    const gone = element("p", { id: "gone", class: "missing", role: "alert" });
    effect(() => {
      gone.textContent = this.over.value;
      gone.hidden = this.over.value === "";
    });
    this.root = element("div", { id: "live" }, element("header", {}, element("div", {}, title, about), element("div", { class: "tools" }, themes())), element("main", {}, gone, this.asker(), this.outdated(), this.answers.section, this.view));
    void server.ended().then((words) => this.end(words));
  }

  /** Asks what the page begins with, if it begins with something. */
  begin(): void {
    document.documentElement.dataset.ready = "true";
    if (this.form.question.value !== "" && this.form.pictures.picture.value !== null) {
      void this.ask();
    }
  }

  /** The form. */
  private asker(): HTMLElement {
    const { form, server } = this;
    const picture = pictureCard("picture", form, server, () => this.drawn());
    const other = pictureCard("other", form, server, null);
    const { examples } = server.facts;
    const typed = input(form.question, { maxlength: 4000, enterkeyhint: "send" });
    const known = examples.length > 0 ? `This small model knows questions about its own world, such as: ${examples[0]}` : null;
    const question = field("question", "Question", typed, form.wrong, known);
    const length = field("max_new_tokens", "Tokens at most", input(form.length, { type: "number", min: 1, max: server.facts.longest }), form.wrong);
    const more = MORE.map((each) => checkbox(`more-${each}`, QUANTITY_TITLES[each], () => form.more.value.includes(each), (on) => this.measure(each, on)));
    const fields = element(
      "div",
      { class: "fields" },
      element("div", { class: "entries asked" }, question, length),
      examples.length > 1 ? this.examples(examples) : null,
      changeFields(form, server.facts, other),
      element("fieldset", { class: "checks" }, element("legend", {}, "Measure, beside attention"), ...more),
      this.acts(),
      complaint("request", form.wrong),
      this.asPython(),
    );
    const made = element("form", { id: "ask", "aria-label": "what is asked", novalidate: true }, picture, fields);
    made.addEventListener("submit", (event) => {
      event.preventDefault();
      void this.ask();
    });
    pasted((file) => void take("picture", file, form, server));
    return made;
  }

  /** Says that what is shown is of another picture than the form has, and greys it. */
  private outdated(): HTMLElement {
    const told = element("p", { id: "outdated", class: "missing", role: "status" });
    effect(() => {
      const isOld = this.seen.value !== null && this.seen.value.picture !== this.form.pictures.picture.value;
      told.hidden = !isOld;
      told.textContent = isOld ? `The answer and the map below are about the previous picture and \u201c${this.seen.value?.question}\u201d. Ask again for those of this one.` : "";
      [this.answers.section, this.view].forEach((each) => each.classList.toggle("outdated", isOld));
    });
    return told;
  }

  /** The buttons, and what the server is at. */
  private acts(): HTMLElement {
    const ask = element("button", { type: "submit", id: "do-ask", class: "main" }, "Ask");
    const prove = button("Prove the change", () => void this.prove(), { id: "do-prove" });
    const pixels = checkbox("ask-pixels", "on other pixels too", () => this.form.pixels.value, (on) => (this.form.pixels.value = on));
    const stop = button("Stop", () => this.work.value?.abort(), { id: "do-stop" });
    const about = element("p", { id: "pixels-about", class: "quiet" }, "On other pixels too: the same question is put about random pixels. With the whole picture hidden from all text, no prediction may change.");
    effect(() => {
      prove.hidden = this.form.kind.value === "none";
      pixels.hidden = about.hidden = !canTryPixels(this.form);
      stop.hidden = this.work.value === null;
      ask.disabled = prove.disabled = this.over.value !== "";
    });
    return element("div", { class: "row acts" }, ask, stop, prove, pixels, this.answers.state, about);
  }

  /** A menu of questions that the model knows; the one that is chosen is put into the field. */
  private examples(known: string[]): HTMLElement {
    const menu = element("select", { id: "examples" }, element("option", { value: "" }, "Choose one"), ...known.map((each) => element("option", { value: each }, each)));
    menu.addEventListener("change", () => {
      this.form.question.value = menu.value === "" ? this.form.question.value : menu.value;
      menu.value = "";
    });
    return element("div", { class: "entry" }, element("label", { for: menu.id }, "Examples"), menu);
  }

  /** The same in Python, folded. */
  private asPython(): HTMLElement {
    const code = element("code", { id: "python-code" });
    live(code, () => python(this.form, this.server.facts.model));
    return element("details", { id: "python" }, element("summary", {}, "In Python"), element("pre", { tabindex: 0, role: "group", "aria-label": "in Python" }, code));
  }

  /** A box was drawn: it is the place that is changed, unless another place is already. */
  private drawn(): void {
    const { kind, source, where, isBoxed } = this.form;
    if (!isBoxed.value) {
      kind.value = kind.value === "none" ? "cut" : kind.value;
      (kind.value === "cut" ? source : where).value = BOXED;
    }
  }

  private measure(quantity: string, isOn: boolean): void {
    const others = this.form.more.value.filter((each) => each !== quantity);
    this.form.more.value = isOn ? [...others, quantity] : others;
  }

  private async ask(): Promise<void> {
    const { form, answers, server } = this;
    await this.working("ask", () => asking(form, server.facts), async (body, signal) => {
      const start = performance.now();
      const change = changed(form);
      const seen = { question: form.question.value, picture: form.pictures.picture.value };
      answers.begin(form.question.value, change);
      const news = await server.work("ask", body, (each) => answers.hear(each), signal);
      const payload = titled(checked(news.payload), change);
      answers.settle(payload);
      await this.display(payload, signal);
      if (!signal.aborted) {
        this.seen.value = seen;
      }
      answers.say(`Done in ${seconds(start)}.`);
    });
  }

  private async prove(): Promise<void> {
    const { form, answers, server } = this;
    await this.working("prove", () => proving(form, server.facts), async (body, signal) => {
      const start = performance.now();
      const change = changed(form);
      answers.proof.replaceChildren();
      answers.say("Proving.");
      const { proof } = await server.work("prove", body, (each) => answers.hear(each), signal);
      if (proof !== undefined) {
        answers.prove(proof, change);
      }
      answers.say(`Done in ${seconds(start)}.`);
    });
  }

  /** Does one thing that takes the model's time, in place of what is being done; says what is wrong beside its field. */
  private async working(name: string, request: () => unknown, act: (body: unknown, signal: AbortSignal) => Promise<void>): Promise<void> {
    this.work.value?.abort();
    const mine = new AbortController();
    this.work.value = mine;
    this.form.wrong.value = null;
    document.documentElement.dataset.busy = name;
    try {
      await act(request(), mine.signal);
    } catch (error) {
      if (!mine.signal.aborted) {
        this.refused(error);
      } else if (this.work.value === mine) {
        this.answers.say("Stopped.");
      }
    }
    if (this.work.value === mine) {
      this.work.value = null;
      delete document.documentElement.dataset.busy;
      document.documentElement.dataset.done = String(++this.done);
    }
  }

  private refused(error: unknown): void {
    const refusal = error instanceof Refusal ? error : new Refusal(`This page failed: ${error instanceof Error ? error.message : String(error)}`);
    const target = refusal.field === null ? null : document.getElementById(`ask-${refusal.field}`) ?? document.getElementById(refusal.field === "box" ? "box-left" : `choose-${refusal.field}`);
    const isSeen = target !== null && target.offsetParent !== null;
    this.form.wrong.value = isSeen ? refusal : new Refusal(refusal.message, "request");
    this.answers.say("");
    target?.focus();
  }

  /** The viewer of an answer, in place of the one before. */
  private async display(payload: Payload, signal: AbortSignal): Promise<void> {
    const until = new AbortController();
    const holder = element("div", {});
    const measure = (quantity: string) => {
      this.measure(quantity, true);
      void this.ask();
    };
    const chosen = await show({ payload: async () => payload }, holder, { isPart: true, until: until.signal, chosen: this.chosen(), measure });
    if (signal.aborted) {
      until.abort();
      return;
    }
    this.shown?.abort();
    this.shown = until;
    this.chosen = chosen;
    const focused = document.activeElement;
    const isInside = this.view.contains(focused);
    this.view.replaceChildren(holder);
    if (isInside) {
      const same = focused === null ? null : document.getElementById(focused.id);
      (same ?? holder.querySelector<HTMLElement>("input:checked"))?.focus();
    }
  }

  private end(words: string): void {
    this.work.value?.abort();
    this.over.value = words;
  }
}

/** A payload whose changed column is called as the form calls the change. */
function titled(payload: Payload, change: string): Payload {
  const columns = payload.columns.map((each) => (each.key === "changed" ? { ...each, title: change } : each));
  return { ...payload, columns };
}

/** A picture that is pasted anywhere. */
function pasted(act: (file: File) => void): void {
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
    if (file !== undefined) {
      event.preventDefault();
      act(file);
    }
  });
}

function seconds(start: number): string {
  return `${((performance.now() - start) / 1000).toFixed(2)} s`;
}

async function main(): Promise<void> {
  const server = await Server.open();
  const page = new Live(server);
  document.title = `${server.facts.model} \u00b7 nnsight_vlm`;
  document.body.prepend(page.root);
  page.begin();
  addEventListener("pagehide", () => server.close());
  addEventListener("pageshow", (event) => (event.persisted ? location.reload() : undefined));
  for (const name of ["dragover", "drop"]) {
    addEventListener(name, (event) => event.preventDefault());
  }
}

main().catch((error: unknown) => {
  const words = error instanceof Error ? error.message : String(error);
  document.body.prepend(element("main", {}, element("h1", {}, "This page could not be opened"), element("p", { class: "missing", role: "alert" }, words)));
});
