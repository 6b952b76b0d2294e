/** Answers of a live page while they are written, what the server is at, and whether a proof holds. */

import { element } from "./elements";
import { spelled } from "./numbers";
import type { News, Proof } from "./server";
import type { Payload } from "./payload";
import { QUANTITY_TITLES } from "./state";

type Key = "clean" | "changed";

/** The answer as the model gives it, and beside it the one under a change. */
export class Answers {
  readonly section: HTMLElement;
  readonly state = element("p", { id: "live-state", role: "status", class: "quiet" });
  readonly proof = element("div", { id: "proof", role: "status" });
  private readonly verdict = element("p", { id: "verdict", class: "quiet" });
  private coming: (() => void) | null = null;
  private readonly about = element("p", { class: "quiet", id: "asked" });
  private readonly texts: Record<Key, HTMLElement>;
  private readonly titles: Record<Key, HTMLElement>;
  private readonly columns: Record<Key, HTMLElement>;

  constructor() {
    const each = <T>(make: (key: Key) => T): Record<Key, T> => ({ clean: make("clean"), changed: make("changed") });
    this.titles = each(() => element("h3", {}));
    this.texts = each((key) => element("p", { class: "stream", id: `stream-${key}`, "aria-live": "polite" }));
    this.columns = each((key) => element("div", { class: "written" }, this.titles[key], this.texts[key]));
    const both = element("div", { class: "answers" }, this.columns.clean, this.columns.changed);
    this.section = element("section", { "aria-labelledby": "answers-title", hidden: true }, element("h2", { id: "answers-title", class: "unseen" }, "Answer"), this.about, both, this.verdict, this.proof);
  }

  /** Once something is heard of its answer, a question takes the place of the one before; a refused one never does. */
  begin(question: string, change: string): void {
    this.coming = () => this.start(question, change);
  }

  /** Empties both columns for a question. */
  private start(question: string, change: string): void {
    this.coming = null;
    this.section.hidden = false;
    this.about.textContent = `\u201c${question}\u201d`;
    this.titles.clean.textContent = change === "" ? "Answer" : "As it is";
    this.titles.changed.textContent = `Changed: ${change}`;
    this.columns.changed.hidden = change === "";
    this.texts.clean.replaceChildren();
    this.texts.changed.replaceChildren();
    this.proof.replaceChildren();
    this.verdict.replaceChildren();
    this.section.scrollIntoView({ block: "nearest" }); // on a narrow screen the form is longer than it
  }

  /** Takes in a piece of news. */
  hear(news: News): void {
    if (news.waiting !== undefined) {
      this.say(news.waiting > 0 ? `Waiting for the model: ${news.waiting} before this; what was stopped ends after its present step.` : "The model is at work.");
    }
    if (news.step !== undefined) {
      this.say(`Measuring ${QUANTITY_TITLES[news.step] ?? news.step}, ${news.done ?? 0} of ${news.of ?? 0} ${news.step === "causal" ? "patches" : "words"}.`);
    }
    if (news.column !== undefined && news.text !== undefined) {
      this.coming?.();
      this.say(news.column === "clean" ? "Writing the answer." : "Writing the changed answer.");
      write(this.texts[news.column], news.text);
    }
  }

  /** Whole answers, in case that none of it was heard. */
  settle(payload: Payload): void {
    this.coming?.();
    for (const column of payload.columns as (Payload["columns"][number] & { answer: string })[]) {
      write(this.texts[column.key === "changed" ? "changed" : "clean"], column.answer);
    }
    const [clean, changed] = [this.texts.clean, this.texts.changed].map((each) => each.textContent);
    this.verdict.textContent = this.columns.changed.hidden ? "" : clean === changed ? "The change leaves the answer as it is." : "The change makes another answer.";
  }

  say(text: string): void {
    if (this.state.textContent !== text) {
      this.state.textContent = text;
    }
  }

  prove(proof: Proof, change: string): void {
    const verdict = element("strong", { class: proof.holds ? "held" : "failed" }, proof.holds ? "Proved. " : "Not proved. ");
    this.section.hidden = false;
    const [title, found] = proof.holds ? ["What was checked", held(proof)] : ["What was found", `${capital(proof.found ?? "")}.`];
    const details = element("details", {}, element("summary", {}, title), element("p", {}, found));
    this.proof.replaceChildren(element("p", {}, verdict, `${capital(change)}. ${proof.holds ? plain(proof) : (proof.said ?? "")}`), details);
  }
}

/** Adds what is new to a text, so that a screen reader says that alone. */
function write(target: HTMLElement, text: string): void {
  const before = target.textContent ?? "";
  if (text.startsWith(before)) {
    target.append(...(text.length > before.length ? [text.slice(before.length)] : []));
  } else {
    target.replaceChildren(text);
  }
}

/** What a proof comes to. */
function plain(proof: Proof): string {
  const pixels = proof.pixels > 0 ? " Other pixels change no prediction." : "";
  const moved = proof.moved > 0 ? `the change moves the scores of words (logits) by up to ${spelled(proof.moved)}` : "the change moves no score of any word";
  return `The model did this, and nothing else in it was changed.${pixels} In effect: ${moved}.`;
}

/** What was found, in words. */
function held(proof: Proof): string {
  const facts = [
    proof.edges > 0 ? `${counted(proof.edges, "attention edge")} without any weight, which the model as it is has open` : "",
    proof.writes > 0 ? `all states that were to be written are there, in ${counted(proof.writes, "layer")}` : "",
    `nothing else is changed in ${counted(proof.layers, "layer")}`,
    proof.tokens > 0 ? `${counted(proof.tokens, "decoded token")} as in one forward over the whole sequence` : "",
    proof.pixels > 0 ? `other pixels change none of ${proof.pixels} predictions` : "",
  ].filter((each) => each !== "");
  return `${capital(facts.join("; "))}.`;
}

function counted(count: number, what: string): string {
  return `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
