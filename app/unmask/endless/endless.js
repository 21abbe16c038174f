// A text without end. The page holds its newest tokens only; what leaves the window is counted. `props.value` is JSON text,
// see `EndlessText.message` in text.py. Text enters by textContent and in no other way.
const host = element.querySelector(".da-host");
const MOST = 2000; // tokens on the page
const SPOKEN_MS = 20000; // between two announcements for screen readers
const BREAK = "\u001e";
let run = null; // the name of the text on the page
let next = 0; // number of the next block
let held = 0; // tokens on the page
let spoken = 0;
let log, said, cells;

const make = (tag, className = "", ...children) => {
  const node = document.createElement(tag);
  node.className = className;
  node.append(...children);
  return node;
};

function begin(words) {
  cells = Object.fromEntries(Object.keys(words.figures).map((name) => [name, make("dd")]));
  const figures = Object.entries(words.figures).map(([name, title]) => make("div", "", make("dt", "", title), cells[name]));
  log = make("div", "da-endless-log");
  for (const [name, value] of Object.entries({ tabindex: 0, role: "log", "aria-live": "off", "aria-label": words.log }))
    log.setAttribute(name, value);
  said = make("p", "da-said");
  said.setAttribute("role", "status");
  host.replaceChildren(make("section", "da-endless", make("dl", "da-endless-figures", ...figures), log, said));
  [next, held, spoken] = [0, 0, 0];
}

function add([number, text, tokens]) {
  if (number < next) return;
  const block = make("span", "da-endless-block", number > next ? " \u2026 " : "");
  text.split(BREAK).forEach((part, i) => block.append(...(i ? [make("hr")] : []), part));
  block.tokens = tokens;
  log.append(block);
  next = number + 1;
  held += tokens;
}

function draw() {
  if (!props.value) return;
  const { run: name, live, blocks, count, figures, words, language } = JSON.parse(props.value);
  if (name !== run || !log.isConnected) begin(words);
  run = name;
  const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 60; // the reader has not scrolled up
  for (const block of log.querySelectorAll(".da-fresh")) block.classList.remove("da-fresh");
  blocks.forEach(add);
  while (held > MOST) {
    held -= log.firstChild.tokens;
    log.firstChild.remove();
  }
  if (live) log.lastChild?.classList.add("da-fresh");
  if (follows) log.scrollTop = log.scrollHeight;
  const all = { ...figures, gone: (count - held).toLocaleString(language) };
  for (const [cell, value] of Object.entries(all)) cells[cell].textContent = value;
  if (!live || Date.now() - spoken > SPOKEN_MS) {
    spoken = Date.now();
    said.textContent = words.said.replace("{tokens}", figures.tokens).replace("{rate}", figures.rate);
  }
}

watch("value", draw);
draw();
