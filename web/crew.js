// The workers of a restorer. Each has its own engine, and takes the next tile as soon as it is free.

const inNode = typeof process !== "undefined" && process.versions?.node !== undefined;

class Hand {
  constructor(worker) {
    this.worker = worker;
    this.waiting = new Map();
    this.next = 0;
    const receive = ({ id, result, error }) => {
      const promise = this.waiting.get(id);
      if (!promise) return;
      this.waiting.delete(id);
      if (error === undefined) promise.resolve(result);
      else promise.reject(new Error(error));
    };
    if (inNode) {
      worker.on("message", receive);
      worker.on("error", (error) => this.fail(error.message));
      worker.unref(); // a restorer that isn't closed doesn't keep the process alive
    } else {
      worker.onmessage = (event) => receive(event.data);
      worker.onerror = (event) => this.fail(event.message ?? "a worker failed to start");
    }
  }

  fail(message) {
    for (const promise of this.waiting.values()) promise.reject(new Error(message));
    this.waiting.clear();
  }

  call(action, message = {}, moved = []) {
    const id = this.next++;
    if (inNode) this.worker.ref();
    const promise = new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
    this.worker.postMessage({ id, action, ...message }, moved);
    return promise.finally(() => inNode && this.waiting.size === 0 && this.worker.unref());
  }
}

export class Crew {
  /** Starts `count` workers with an engine each. */
  static async start(count, module, weights) {
    const threads = inNode && (await import("node:worker_threads"));
    const start = () =>
      threads
        ? new threads.Worker(new URL("./worker.js", import.meta.url), { execArgv: [] }) // not those of `node -e`
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
   * work with `call(action, message, moved)` and returns its promise. After an error, no more work begins.
   */
  async share(take) {
    let failed = false;
    const turns = this.hands.map(async (hand) => {
      try {
        while (!failed) {
          const work = take((action, message, moved) => hand.call(action, message, moved));
          if (work === null) return;
          await work;
        }
      } catch (error) {
        failed = true;
        throw error;
      }
    });
    await Promise.all(turns);
  }

  end() {
    for (const hand of this.hands) {
      hand.worker.terminate();
      hand.fail("the restorer was closed");
    }
  }
}
