/** Answers of a live page while they are written, what the server is at, and whether a proof holds. */

import { element } from "./elements";
import { spelled } from "./numbers";
import type { News, Proof } from "./server";
import type { Payload } from "./payload";

type Key = "clean" | "changed";

/** The answer as the model gives it, and beside it the one under a change. */
export class Answers {
  readonly section: HTMLElement;
  readonly state = element("p", { id: "live-state", role: "status", class: "quiet" });
  readonly proof = element("p", { id: "proof", role: "status" });
  private readonly verdict = element("p", { id: "verdict", class: "quiet" });
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

  /** Empties both columns for a question. */
  begin(question: string, change: string): void {
    this.section.hidden = false;
    this.about.textContent = `\u201c${question}\u201d`;
    this.titles.clean.textContent = change === "" ? "Answer" : "As it is";
    this.titles.changed.textContent = `Changed: ${change}`;
    this.columns.changed.hidden = change === "";
    this.texts.clean.replaceChildren();
    this.texts.changed.replaceChildren();
    this.proof.replaceChildren();
    this.verdict.replaceChildren();
  }

  /** Takes in a piece of news. */
  hear(news: News): void {
    if (news.waiting !== undefined) {
      this.say(news.waiting > 0 ? `Waiting for the model: ${news.waiting} before this.` : "The model is at work.");
    }
    if (news.column !== undefined && news.text !== undefined) {
      this.say(news.column === "clean" ? "Writing the answer." : "Writing the changed answer.");
      write(this.texts[news.column], news.text);
    }
  }

  /** Whole answers, in case that none of it was heard. */
  settle(payload: Payload): void {
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
    this.proof.replaceChildren(verdict, `${capital(change)}. ${proof.holds ? held(proof) : (proof.said ?? "")}`);
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

/** What was found, in words. */
function held(proof: Proof): string {
  const facts = [
    proof.edges > 0 ? `${counted(proof.edges, "attention edge")} without any weight, which the model as it is has open` : "",
    proof.writes > 0 ? `all states that were to be written are there, in ${counted(proof.writes, "layer")}` : "",
    `nothing else is changed in ${counted(proof.layers, "layer")}`,
    proof.tokens > 0 ? `${counted(proof.tokens, "decoded token")} as in one forward over the whole sequence` : "",
    proof.pixels > 0 ? `other pixels change none of ${proof.pixels} predictions` : "",
  ].filter((each) => each !== "");
  const moved = proof.moved > 0 ? `the largest change of a logit is ${spelled(proof.moved)}` : "no logit of the answer moves";
  return `${capital(facts.join("; "))}. In effect: ${moved}.`;
}

function counted(count: number, what: string): string {
  return `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
}

function capital(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
