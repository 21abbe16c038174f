// Keys of the text box: Ctrl+Enter and Shift+Enter run, Ctrl+M makes a hole of the selected words.
document.addEventListener("keydown", (event) => {
  if (!event.target.closest?.("#unmask-text")) return;
  const button = event.key === "Enter" && (event.ctrlKey || event.metaKey || event.shiftKey) ? "#unmask-run"
    : event.key === "m" && event.ctrlKey ? "#unmask-hole" : null;
  if (!button) return;
  event.preventDefault();
  event.stopPropagation();
  document.querySelector(button).click();
}, { capture: true });
// A press on the button would take the selection away from the text.
document.querySelector("#unmask-hole")?.addEventListener("pointerdown", (event) => event.preventDefault());
// On a narrow screen the buttons stand below the canvas: what they start should be seen.
document.addEventListener("click", (event) => {
  if (!event.target.closest?.("#unmask-run, #unmask-dice")) return;
  const canvas = document.querySelector("#unmask-player");
  if (canvas.getBoundingClientRect().bottom < innerHeight / 2) canvas.scrollIntoView({ block: "start" });
});
