/** The page around the live model: its player, controls, checker and race. The model itself runs in worker.js. */

import { receive } from "./player.js";

const SPECULATIVE = "speculative";
const VALUES = { threshold: ["Threshold", 1], factor: ["Factor", 4], entropy_bound: ["Entropy bound", 4] }; // name and most
const SEEDS = 1e6;

const find = (id) => document.getElementById(id);
const json = (id) => JSON.parse(find(id).textContent);
const settings = json("settings");
const { defaults } = settings;
const BLOCKS = settings.blocks.map((length) => length || null); // of the slider; null: the whole canvas at once
let worker = null;
let running = false;

const show = receive(find("player"), { height: "none", autoplay: true, steer: (command) => ask(command) });
const showRace = receive(find("race-player"), { height: "22rem", autoplay: true, empty: "No race has been run yet." });
const opening = json("opening");
if (opening) show(opening);

// ---- controls ----------------------------------------------------------------------------------------

for (const name of settings.strategies) find("strategy").append(new Option(name.replaceAll("_", " "), name));
find("strategy").value = defaults.strategy;
find("temperature").value = defaults.temperature;
find("length").value = settings.length;
if (settings.text !== null) find("text").value = settings.text;
find("race-part").hidden = settings.models.length < 2;
find("steps").value = defaults.steps;
find("block").max = BLOCKS.length - 1;
find("block").value = BLOCKS.indexOf(defaults.block_length);
find("strategy").addEventListener("input", showValue);

const number = (id) => Number(find(id).value);
const drafts = () => find("strategy").value === SPECULATIVE;
const blockLength = () => BLOCKS[number("block")] ?? (drafts() ? Math.max(...settings.blocks) : null);
const shown = {
  length: () => `${number("length")} tokens`, steps: () => number("steps"), temperature: () => number("temperature").toFixed(2),
  value: () => Number(number("value").toFixed(3)),
  block: () => (blockLength() === null ? "the whole canvas at once" : `${blockLength()} tokens`),
  "race-length": () => `${number("race-length")} tokens`, "race-steps": () => number("race-steps"),
};
for (const [id, text] of Object.entries(shown)) {
  const write = () => { find(`${id}-shown`).textContent = text(); };
  find(id).addEventListener("input", write);
  write();
}
showValue();

/** The slider of the strategy's value, which replaces that of the steps. */
function showValue() {
  const strategy = find("strategy").value;
  const value = find("value");
  find("value-label").hidden = !(strategy in VALUES);
  find("steps-label").hidden = strategy in VALUES || drafts();
  find("block-name").textContent = drafts() ? "Draft length" : "Block length";
  find("block").dispatchEvent(new Event("input"));
  if (!(strategy in VALUES)) return;
  const [name, most] = VALUES[strategy];
  find("value-name").textContent = name;
  value.max = Math.max(most, defaults[strategy]);
  value.value = defaults[strategy];
  value.dispatchEvent(new Event("input"));
}

function options(steps) {
  const strategy = find("strategy").value;
  const value = strategy in VALUES ? { [strategy]: number("value") } : {};
  return {
    ...defaults, ...value, steps, strategy, block_length: blockLength(), temperature: number("temperature"),
    seed: Math.min(SEEDS - 1, Math.max(0, Math.trunc(number("seed")) || 0)),
  };
}

function ask(message) {
  if (!worker) return;
  if (["go", "step"].includes(message.do)) setRunning(true);
  worker.postMessage(message);
}

function setRunning(now) {
  running = now;
  for (const id of ["write", "keep", "race"]) find(id).disabled = running || !worker?.ready;
  find("stop").disabled = !running;
}

function write(what = "write") {
  if (running || !worker?.ready) return;
  setRunning(true);
  say("");
  const share = what === "keep" && blockLength() ? blockLength() / number("length") : 1; // without end, the steps are those of a block
  ask({ do: what, text: find("text").value, length: number("length"), config: options(Math.ceil(share * number("steps"))) });
}

find("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
find("keep").hidden = !settings.models[0].cache;
find("keep").addEventListener("click", () => write("keep"));
find("stop").addEventListener("click", () => ask({ do: "stop" }));
find("dice").addEventListener("click", () => {
  find("seed").value = Math.floor(Math.random() * SEEDS);
  write();
});
find("race-controls").addEventListener("submit", (event) => {
  event.preventDefault();
  setRunning(true);
  const size = BLOCKS.includes(null) ? null : blockLength();
  const plain = { ...defaults, strategy: "random", block_length: size, steps: number("race-steps"), seed: options(1).seed };
  ask({ do: "race", length: number("race-length"), config: plain });
});

// ---- what the worker says ----------------------------------------------------------------------------

function say(text) {
  find("status").textContent = text;
}

function showVerdict(stories, masks) {
  const rows = stories.map(({ text, grammatical, consistent, message }, i) => {
    const row = document.createElement("li");
    row.className = consistent ? "right" : "wrong";
    const number = stories.length > 1 ? `Story ${i + 1}: ` : "";
    const syntax = grammatical ? "grammatical" : "not grammatical";
    row.textContent = consistent ? `${number}✓ grammatical and consistent` : `${number}✗ ${syntax}: ${message}`;
    row.title = text;
    return row;
  });
  find("verdict").replaceChildren(...rows);
  say(masks ? `${masks} masks left` : "");
}

const HANDLERS = {
  progress: (share, { what }) => {
    if (what === "the race") find("race-status").textContent = `${Math.round(100 * share)} %`;
    else [find("progress").value, find("what").textContent] = [share, `A recording plays while the model is unpacked: ${what}`];
  },
  ready: (_, { provider }) => {
    worker.ready = true;
    find("loading").hidden = true;
    if (!running) setRunning(false);
    say(`The model is ready. It runs with ${provider}.`);
    document.documentElement.dataset.ready = provider;
  },
  feed: (message) => show(message),
  verdict: (stories, { masks }) => showVerdict(stories, masks),
  kept: ({ tokens, stories, right }, { checked }) => {
    say(`${tokens} tokens written${checked && stories ? `; ${right} of ${stories} stories are grammatical and consistent` : ""}`);
  },
  race: (message) => {
    find("race-status").textContent = "";
    showRace(message);
  },
  idle: () => {
    find("race-status").textContent = "";
    setRunning(false);
  },
  problem: (why) => say(`Not possible: ${why}`),
};

function begin() {
  const source = URL.createObjectURL(new Blob([json("worker")], { type: "text/javascript" }));
  worker = new Worker(source);
  worker.onmessage = ({ data }) => {
    for (const [kind, value] of Object.entries(data)) HANDLERS[kind]?.(value, data);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    HANDLERS.problem(`the model cannot run in this browser (${event.message})`);
  };
  const part = (name) => find(`part-${name}`).textContent;
  const packed = (i) => Object.fromEntries(settings.models[i].graphs.map((kind) => [kind, part(`${kind}-${i}`)]));
  const models = Object.fromEntries(settings.models.map((model, i) => [model.name, { ...model, graphs: packed(i), weights: part(`weights-${i}`) }]));
  const runtimes = Object.fromEntries(
    settings.runtimes.map((name) => [name, { script: part(`${name}-script`), binary: part(`${name}-binary`) }]),
  );
  const first = settings.models[0].name;
  worker.postMessage({ do: "load", models, runtimes, first, defaults, length: settings.length, tokenizer: part("tokenizer"), grammar: part("grammar") });
  for (const node of document.querySelectorAll('script[id^="part-"]')) node.remove(); // the worker has its copy
}

if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
else begin();
