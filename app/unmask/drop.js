// A file that is dropped anywhere on the canvas' column is opened as the button beside would: by Gradio's own upload.
const stage = document.querySelector(".da-stage") ?? element;
const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
const mark = (on) => stage.classList.toggle("da-dropping", on);
stage.addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  mark(true);
});
stage.addEventListener("dragleave", (event) => {
  if (!stage.contains(event.relatedTarget)) mark(false);
});
stage.addEventListener("drop", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  mark(false);
  const button = document.querySelector("#open-trace");
  const input = button?.parentElement?.querySelector("input[type=file]");
  if (!input) return;
  input.files = event.dataTransfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
