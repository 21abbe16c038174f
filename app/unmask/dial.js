// The dial of passes: a slider whose stops are measured points. `props.value` is JSON text, see `message` in dial.py, or
// "": no dial. A choice is sent as {stop} and is shown at once; what the page answers to an earlier choice is not.
const PATIENCE_MS = 4000; // a choice that the page has not taken by then was refused
const host = element.querySelector(".da-host");
const make = (tag, className = "", ...children) => {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
};
let said = null; // the message on the screen
let wanted = null; // the stop that was chosen, until the page has its settings
let timer, slider, rate, marks, quality, note;

function build() {
  slider = make("input", "da-dial-slider");
  Object.assign(slider, { type: "range", min: 0, max: said.stops.length - 1, step: 1, id: "unmask-dial-slider" });
  const label = make("label", "", said.label);
  label.htmlFor = slider.id;
  rate = make("output");
  rate.htmlFor = slider.id;
  marks = make("div", "da-dial-marks", ...said.stops.map((stop) => make("i", stop.loses ? "da-loses" : "")));
  marks.setAttribute("aria-hidden", "true");
  quality = make("p", "da-dial-quality");
  quality.setAttribute("role", "status");
  note = make("p", "da-dial-note");
  slider.addEventListener("input", () => draw(Number(slider.value)));
  slider.addEventListener("change", choose);
  // Back to the stop that the thumb was last at: a press there is no change.
  slider.addEventListener("click", () => host.firstChild.classList.contains("da-free") && choose());
  slider.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose();
  });
  host.replaceChildren(make("section", "da-dial", make("div", "da-dial-head", label, rate), slider, marks, quality, note));
}

function choose() {
  const stop = Number(slider.value);
  wanted = stop === said.at ? null : stop;
  draw(stop);
  clearTimeout(timer);
  timer = setTimeout(() => wanted !== null && settle(), PATIENCE_MS);
  trigger("input", { stop });
}

function draw(at) {
  const free = at === null;
  const stop = said.stops[at];
  if (!free) slider.value = at;
  host.firstChild.classList.toggle("da-free", free);
  rate.textContent = free ? said.own : stop.rate;
  quality.textContent = free ? "" : stop.quality;
  note.textContent = free ? "" : said.note;
  slider.setAttribute("aria-valuetext", free ? said.own : stop.rate);
  slider.style.setProperty("--range_progress", `${(100 * slider.value) / Math.max(1, said.stops.length - 1)}%`);
  [...marks.children].forEach((mark, i) => mark.classList.toggle("da-here", i === at));
}

function show() {
  const before = said;
  said = props.value ? JSON.parse(props.value) : null;
  if (said === null) return host.replaceChildren();
  const facts = (message) => JSON.stringify([message.model, message.label, message.stops]);
  if (before === null || facts(before) !== facts(said) || !host.firstChild) {
    wanted = null;
    build();
  }
  if (wanted === null || said.at === wanted) settle();
}

function settle() {
  wanted = null;
  draw(said.at);
}

watch("value", show);
show();
