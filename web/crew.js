// The workers of a restorer: each has its own engine, and takes the next tile as soon as it is free.

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
    const fail = (error) => {
      for (const promise of this.waiting.values()) promise.reject(new Error(error.message ?? "a worker failed to start"));
      this.waiting.clear();
    };
    if (inNode) {
      worker.on("message", receive);
      worker.on("error", fail);
      worker.unref(); // a restorer that nobody closed does not keep the process alive
    } else {
      worker.onmessage = (event) => receive(event.data);
      worker.onerror = fail;
    }
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
    const url = new URL("./worker.js", import.meta.url);
    const Kind = inNode ? (await import("node:worker_threads")).Worker : Worker;
    const crew = new Crew();
    crew.hands = Array.from({ length: count }, () => new Hand(new Kind(url, { type: "module" })));
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
   * Calls `take(call)` again and again until it returns null, on as many workers as there are, and waits for all.
   * `take` begins the next piece of work with `call(action, message, moved)` and returns its promise.
   */
  async share(take) {
    await Promise.all(
      this.hands.map(async (hand) => {
        for (;;) {
          const work = take((action, message, moved) => hand.call(action, message, moved));
          if (work === null) return;
          await work;
        }
      }),
    );
  }

  end() {
    for (const hand of this.hands) hand.worker.terminate();
  }
}
