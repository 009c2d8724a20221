// The interface of a backend, which restores photos. The page uses only these members, so another backend (in the
// browser, for example) needs no changes elsewhere.
//
//   place                 text: where photos are processed
//   takes, accept         optional: the formats it takes, as text and as the attribute of a file input; by default those
//                         of index.html
//   api                   false if there is no API whose documentation the page could link to
//   describe()            -> Promise of {tasks: [{name, label, presets: ["fast", optionally "best"]}],
//                                        formats: [NAME], looks: [NAME]}; looks are the controls of a finished
//                            result that encode() supports: "strength", "colour" and "detail" (see look.js)
//   unlock(key)           the key to send with all later requests
//   restore(file, {task, preset}, {signal, progress})
//                         -> Promise of a result {blob, seconds, change, notes, ...}; progress is called with
//                            {state: "sending" | "loading" | "waiting" | "working", ahead?, seconds?, left?, share?, retry?}
//   encode(file, {task, preset}, result, look, format, {signal})
//                         -> Promise of {blob, notes}: the result with the look applied, at the photo's bit depth
//   preview(blob, {signal}) -> Promise of a Blob that browsers can display
//   forget(result)        the result is no longer needed
//
// All of them reject with a BackendError or the signal's reason.

export const HARDLY_CHANGED = 0.5 / 255; // mean absolute change on the scale from 0 to 1

export class BackendError extends Error {
  // code: "key" (missing or wrong), "offline" (no response), "gone" (no longer available), "refused" (see the message)
  constructor(message, code = "refused") {
    super(message);
    this.code = code;
  }
}
