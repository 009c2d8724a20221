// What the page asks of whatever restores pictures. A backend is an object with these members; the page knows no more
// of it, so another one (in the browser itself, say) needs no change elsewhere.
//
//   place                 text: where pictures are processed
//   describe()            -> Promise of {tasks: [{name, label, presets: ["fast", perhaps "best"]}],
//                                        formats: [NAME], looks: [NAME]}; looks are the controls of a finished
//                            result that encode() knows: "strength", later "colour" and "detail"
//   unlock(key)           the key to send from now on
//   restore(file, {task, preset}, {signal, progress})
//                         -> Promise of a result {blob, seconds, change, notes, ...}; progress is called with
//                            {state: "sending" | "waiting" | "working", ahead?, seconds?, left?, share?, retry?}
//   encode(file, {task, preset}, result, look, format, {signal})
//                         -> Promise of {blob, notes}: the result as the look has it, at the picture's own depth
//   preview(blob, {signal}) -> Promise of a Blob that browsers can draw
//   forget(result)        the result is not needed any more
//
// All reject with a BackendError, or with the signal's reason.

export const HARDLY_CHANGED = 0.5 / 255; // mean absolute change on the scale from 0 to 1

export class BackendError extends Error {
  // code: "key" (missing or wrong), "offline" (no answer), "gone" (no longer there), "refused" (the message says why)
  constructor(message, code = "refused") {
    super(message);
    this.code = code;
  }
}
