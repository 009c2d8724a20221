// Ways to add photos: choose, drop, paste, take a photo, use an example.
import { element } from "./words.js";

const $ = (id) => document.getElementById(id);
const EXAMPLES = ["denoise", "derain", "deblur"];

// add: called with files, and for an example with its task; complain: called with an error message.
export function connect(add, complain) {
  const files = $("files");
  for (const id of ["add", "choose"]) $(id).onclick = () => files.click();
  files.onchange = () => { add(files.files); files.value = ""; };
  $("paste").onclick = async () => {
    try {
      const found = await pasted();
      if (found.length) add(found);
      else complain("The clipboard contains no image.");
    } catch {
      complain("The browser doesn't let this page read the clipboard. Press Ctrl+V instead.");
    }
  };
  $("camera").onclick = () => photograph(add, complain);
  document.addEventListener("paste", ({ clipboardData }) => { if (clipboardData.files.length) add(clipboardData.files); });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop-here").hidden = ![...event.dataTransfer.types].includes("Files");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => { if (!relatedTarget) $("drop-here").hidden = true; });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    $("drop-here").hidden = true;
    add(event.dataTransfer.files);
  });
}

export function offerExamples(tasks, add) {
  const offered = tasks.filter(({ name }) => EXAMPLES.includes(name));
  const buttons = offered.map(({ name, label }) => {
    const source = `page/example-${name}.jpg`;
    const button = element("button", { type: "button", className: "example", "aria-label": `Try the example for ${label}` }, element("img", { src: source, alt: "", height: 72 }));
    button.onclick = async () => add([new File([await (await fetch(source)).blob()], `example-${name}.jpg`, { type: "image/jpeg" })], name);
    return button;
  });
  $("examples").append(...buttons);
  $("examples").hidden = !buttons.length;
}

async function pasted() {
  const files = [];
  for (const entry of await navigator.clipboard.read()) {
    const type = entry.types.find((one) => one.startsWith("image/"));
    if (type) files.push(new File([await entry.getType(type)], `pasted.${type.slice(6)}`, { type }));
  }
  return files;
}

async function photograph(add, complain) {
  if (!navigator.mediaDevices) return complain("Browsers allow camera access only on localhost or over HTTPS. Choose a file instead.");
  const dialog = $("camera-dialog"), video = dialog.querySelector("video");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 4096 } } });
  } catch (error) {
    return complain(error.name === "NotFoundError" ? "This device has no camera." : `The camera can't be used: ${error.message}`);
  }
  video.srcObject = stream;
  dialog.onclose = () => { stream.getTracks().forEach((track) => track.stop()); video.srcObject = null; };
  dialog.onclick = ({ target }) => {
    if (target.dataset.do === "close") dialog.close();
    if (target.dataset.do !== "take" || !video.videoWidth) return;
    const canvas = element("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((blob) => { add([new File([blob], "photo.png", { type: "image/png" })]); dialog.close(); }, "image/png");
  };
  dialog.showModal();
}
