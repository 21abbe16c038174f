// One row of tokens per model, colored by a value; choosing a token (click, Enter or space) is the event `select`.
// `props.value` is JSON text: {hint, scale: [from, to], chosen: position or null, tokens: [text], masked: [bool],
// lanes: [{label, note, levels: [-1..7], titles: [text]}]}. Token text enters by textContent and in no other way.
const host = element.querySelector(".da-host");
let active = null; // the token that has the focus: [lane, position]

const make = (tag, className, text = "") => {
  const node = document.createElement(tag);
  node.className = className;
  node.textContent = text;
  return node;
};

function token(view, lane, position) {
  const text = view.tokens[position];
  const masked = view.masked[position];
  const lead = masked ? "" : /^ */.exec(text)[0];
  const node = make("span", "da-token", lead);
  node.append(make("span", "da-chip", masked ? "" : text.slice(lead.length).replaceAll("\n", "\u21b5")));
  const level = lane.levels[position];
  const chosen = position === view.chosen;
  if (masked) node.classList.add("da-mask");
  if (!masked && text === "") node.classList.add("da-part");
  if (view.tokens[position + 1] === "" && !view.masked[position + 1]) node.classList.add("da-open");
  if (level >= 0) node.classList.add(`da-l${level}`);
  if (chosen) node.classList.add("da-asked");
  node.title = lane.titles[position];
  node.tabIndex = -1;
  node.setAttribute("role", "option");
  node.setAttribute("aria-selected", String(chosen));
  node.setAttribute("aria-label", lane.titles[position]);
  return node;
}

function legend([from, to]) {
  const swatches = make("span", "da-swatches");
  swatches.setAttribute("aria-hidden", "true");
  for (let level = 0; level < 8; level += 1) swatches.append(make("i", ""));
  [...swatches.children].forEach((swatch, level) => { swatch.style.background = `var(--da-v${level})`; });
  const scale = make("div", "da-scale da-legend");
  scale.append(from, swatches, to);
  return scale;
}

function draw() {
  const view = props.value ? JSON.parse(props.value) : null;
  host.replaceChildren();
  if (!view) return;
  const root = make("div", "da-player da-looks");
  view.lanes.forEach((lane, number) => {
    const head = make("div", "da-lane-head");
    head.append(make("span", "da-lane-name", lane.label), make("div", "da-lane-note", lane.note));
    const row = make("div", "da-canvas da-by-confidence");
    row.setAttribute("role", "listbox");
    row.setAttribute("aria-label", `${lane.label}: ${view.hint}`);
    row.append(...view.tokens.map((_, position) => token(view, lane, position)));
    row.children[view.chosen ?? 0].tabIndex = 0;
    listen(row, number);
    const section = make("section", "da-lane");
    section.append(head, row);
    root.append(section);
  });
  root.append(legend(view.scale));
  host.append(root);
  if (active) root.querySelectorAll(".da-canvas")[active[0]]?.children[active[1]]?.focus({ preventScroll: true });
}

function listen(row, number) {
  const place = (node) => [...row.children].indexOf(node.closest(".da-token"));
  const choose = (position) => {
    if (position < 0) return;
    active = [number, position];
    trigger("select", { index: position });
  };
  row.addEventListener("click", (event) => choose(place(event.target)));
  row.addEventListener("focusout", (event) => {
    if (event.relatedTarget) active = null; // gone elsewhere, not redrawn
  });
  row.addEventListener("keydown", (event) => {
    const at = place(event.target);
    const moves = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: row.children.length - 1 };
    if (event.key === "Enter" || event.key === " ") choose(at);
    else if (event.key in moves && row.children[moves[event.key]]) {
      event.target.tabIndex = -1;
      row.children[moves[event.key]].tabIndex = 0;
      row.children[moves[event.key]].focus();
    } else return;
    event.preventDefault();
  });
}

watch("value", draw);
draw();
