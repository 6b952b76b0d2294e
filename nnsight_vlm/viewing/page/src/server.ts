/** The server that made a live page: what it is asked, and what it answers, as it comes. */

export type Role = "picture" | "other";

/** A picture as the server has it: its size, and a copy to look at. */
export interface Sent {
  width: number;
  height: number;
  uri: string;
}

/** What a page is told when it opens. */
export interface Facts {
  page: string;
  model: string;
  layers: number;
  heads: number;
  /** The most tokens that an answer may have, and bytes that a picture's file may. */
  longest: number;
  bytes: number;
  question: string | null;
  /** Questions that this model knows. */
  examples: string[];
  pictures: Partial<Record<Role, Sent>>;
}

export interface Proof {
  holds: boolean;
  /** Why it does not hold, and what was found where. */
  said?: string;
  found?: string;
  layers: number;
  edges: number;
  writes: number;
  tokens: number;
  pixels: number;
  moved: number;
}

/** One line of an answer. */
export interface News {
  waiting?: number;
  column?: "clean" | "changed";
  text?: string;
  /** A measurement that goes on, how much of it is done, and of how much. */
  step?: string;
  done?: number;
  of?: number;
  payload?: unknown;
  proof?: Proof;
  error?: string;
  field?: string;
}

/** What was asked is refused, in words; about one field of the form, where `field` names one. */
export class Refusal extends Error {
  constructor(
    words: string,
    readonly field: string | null = null,
  ) {
    super(words);
  }
}

const GONE = "The server has stopped. Start it again in its terminal (nnsight-vlm serve), and open the address that it prints.";
const FORGOTTEN = "The server has closed this page, because it was not heard of for a while. Load it again.";
const ENDED = "The server stopped before the answer was complete.";

/** One open page, as the server knows it. */
export class Server {
  private constructor(
    private readonly token: string,
    readonly facts: Facts,
  ) {}

  /** Opens a page. */
  static async open(): Promise<Server> {
    const token = new URLSearchParams(location.search).get("token") ?? "";
    const answer = await sent("api/pages", token, { method: "POST" });
    return new Server(token, await answer.json());
  }

  /** Hands over a picture's file. */
  async show(role: Role, file: Blob): Promise<Sent> {
    if (file.size > this.facts.bytes) {
      throw new Refusal(`this file has ${megabytes(file.size)} MB, and a picture may have ${megabytes(this.facts.bytes)} MB; make it smaller`, role);
    }
    const answer = await sent(this.path(`pictures/${role}`), this.token, { method: "PUT", body: file }, role);
    return answer.json();
  }

  /** Asks for something that takes the model's time; tells every piece of news, and returns the last. */
  async work(what: "ask" | "prove", body: unknown, hear: (news: News) => void, signal: AbortSignal): Promise<News> {
    const answer = await sent(this.path(what), this.token, { method: "POST", body: JSON.stringify(body), signal });
    let last: News = {};
    for await (const news of linesOf(answer)) {
      last = news;
      hear(news);
    }
    if (last.error !== undefined) {
      throw new Refusal(last.error, last.field ?? null);
    }
    if (last.payload === undefined && last.proof === undefined) {
      throw new Refusal(ENDED);
    }
    return last;
  }

  /** Stays in touch; returns once the server no longer knows this page, with the reason in words. */
  async ended(): Promise<string> {
    try {
      for (;;) {
        for await (const _ of linesOf(await sent(this.path("alive"), this.token, {}))) {
          // a line now and then
        }
      }
    } catch (error) {
      return error instanceof Error ? error.message : GONE;
    }
  }

  /** Says that nobody looks at this page any more. */
  close(): void {
    void fetch(this.path(""), { method: "DELETE", headers: { "x-token": this.token }, keepalive: true }).catch(() => undefined);
  }

  private path(rest: string): string {
    return `api/pages/${this.facts.page}${rest === "" ? "" : `/${rest}`}`;
  }
}

/** A request that was answered with what was asked for. */
async function sent(path: string, token: string, request: RequestInit, field: string | null = null): Promise<Response> {
  let answer: Response;
  try {
    answer = await fetch(`/${path}`, { ...request, headers: { "x-token": token } });
  } catch (error) {
    throw told(error);
  }
  if (answer.ok) {
    return answer;
  }
  const words: unknown = await answer.json().then((body) => body.error, () => null);
  throw new Refusal(answer.status === 410 ? FORGOTTEN : typeof words === "string" ? words : `The server answered ${answer.status}.`, field);
}

/** The lines of an answer, each of them JSON. */
async function* linesOf(answer: Response): AsyncGenerator<News> {
  if (answer.body === null) {
    return;
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch((error) => {
      throw told(error);
    });
    if (done) {
      return;
    }
    const lines = (rest + value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      yield JSON.parse(line);
    }
  }
}

/** An error of the connection in words; one that the page itself caused, as it is. */
function told(error: unknown): unknown {
  const isOwn = error instanceof DOMException && error.name === "AbortError";
  return isOwn ? error : new Refusal(GONE);
}

function megabytes(bytes: number): string {
  return (bytes / 2 ** 20).toFixed(bytes < 2 ** 20 ? 1 : 0);
}
