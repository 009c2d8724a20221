// The workers of a restorer. Each has its own engine, and takes the next tile as soon as it is free.
import { builtin } from "./fetching.js";

const inNode = typeof process !== "undefined" && process.versions?.node !== undefined;

class Hand {
  constructor(worker) {
    this.worker = worker;
    this.waiting = new Map();
    this.next = 0;
    this.ended = null; // the error of every later call: a worker that has ended answers none
    const receive = ({ id, result, error, name }) => {
      const promise = this.waiting.get(id);
      if (!promise) return;
      this.waiting.delete(id);
      if (error === undefined) promise.resolve(result);
      else promise.reject(named(error, name));
    };
    const unreadable = () => this.fail("a message of a worker could not be read");
    if (inNode) {
      worker.on("message", receive);
      worker.on("messageerror", unreadable);
      worker.on("error", (error) => this.fail(error.message));
      worker.on("exit", () => this.fail("a worker has ended")); // by itself: after close(), the hand has failed already
      worker.unref(); // a restorer that isn't closed doesn't keep the process alive
    } else {
      worker.onmessage = (event) => receive(event.data);
      worker.onmessageerror = unreadable;
      worker.onerror = (event) => this.fail(event.message ?? "a worker failed to start");
    }
  }

  /** Rejects what waits and every later call. Workers answer errors of the engine, so one that fails itself lacks memory. */
  fail(message, name = "EngineError") {
    this.ended ??= named(message, name);
    for (const promise of this.waiting.values()) promise.reject(this.ended);
    this.waiting.clear();
  }

  call(action, message = {}, moved = []) {
    if (this.ended) return Promise.reject(this.ended);
    const id = this.next++;
    if (inNode) this.worker.ref();
    const promise = new Promise((resolve, reject) => {
      this.worker.postMessage({ id, action, ...message }, moved);
      this.waiting.set(id, { resolve, reject });
    });
    return promise.finally(() => inNode && this.waiting.size === 0 && this.worker.unref());
  }
}

const named = (message, name) => Object.assign(new Error(message), { name });

export class Crew {
  /** Starts `count` workers with an engine each. */
  static async start(count, module, weights) {
    const threads = inNode && (await builtin("worker_threads"));
    const here = import.meta.url; // by another name in Node's case, for which bundlers would copy the file as it is
    const start = () =>
      threads
        ? new threads.Worker(new URL("./worker.js", here), { execArgv: [] }) // not those of `node -e`
        : new Worker(new URL("./worker.js", import.meta.url), { type: "module" }); // in this form, bundlers find it
    const crew = new Crew();
    crew.hands = Array.from({ length: count }, () => new Hand(start()));
    try {
      [crew.facts] = await Promise.all(crew.hands.map((hand) => hand.call("open", { module, weights })));
    } catch (error) {
      crew.end();
      throw error;
    }
    return crew;
  }

  /** Calls one worker. */
  one(action, message, moved) {
    return this.hands[0].call(action, message, moved);
  }

  /** Calls all of them. */
  all(action, message) {
    return Promise.all(this.hands.map((hand) => hand.call(action, message)));
  }

  /**
   * Calls `take(call)` for each free worker until it returns null, and waits for all. `take` begins the next piece of
   * work with `call(action, message, moved)` and returns its promise. After an error, no more work begins, and the error is
   * thrown when all workers are free: the next job finds none that is still at work.
   */
  async share(take) {
    let failure = null;
    const turns = this.hands.map(async (hand) => {
      try {
        while (!failure) {
          const work = take((action, message, moved) => hand.call(action, message, moved));
          if (work === null) return;
          await work;
        }
      } catch (error) {
        failure ??= { error };
      }
    });
    await Promise.all(turns);
    if (failure) throw failure.error;
  }

  end() {
    for (const hand of this.hands) {
      hand.worker.terminate();
      hand.fail("the restorer was closed", "Error");
    }
  }
}
