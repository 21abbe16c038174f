// The tour's line: five steps, each over once the visitor has done it. Where they are is kept in the browser.
const words = JSON.parse(props.value);
const KEY = "diffuapriel-tour";
const root = element.querySelector(".da-tour") ?? element;
const last = words.steps.length;
let step = 0; // from 0; `last`: the tour is over
let player = null;
const storage = () => {
  try {
    return window.localStorage;
  } catch {
    return null; // a browser may forbid it
  }
};
const run = () => document.querySelector("#unmask-run button") ?? document.querySelector("#unmask-run");
const raceTab = () => [...document.querySelectorAll("[role=tab]")].find((tab) => tab.textContent.trim() === words.race);

/** The positions of the word white, and the one that the visitor has changed. */
const whites = (frame) => [...frame.ids.keys()].filter((p) => player.recording.text(frame.ids[p]).trim() === "white");

// What "Do it for me" does at each step.
const deeds = [
  () => {
    player.seek(Infinity);
    const [first] = whites(player.recording.frames[player.newest]);
    if (first !== undefined) player.steer({ do: "type", first, last: first, text: " red" });
  },
  () => {
    const frame = player.recording.frames[player.newest];
    const at = whites(frame).pop() ?? [...player.recording.remarks.at.keys()].pop();
    if (at !== undefined) player.steer({ do: "mask", first: at, last: at });
  },
  () => player.steer({ do: "go" }),
  () => {
    document.querySelector("#unmask-order input[value=left]")?.click();
    setTimeout(() => run()?.click(), 300); // once the order has set the block length
  },
  () => raceTab()?.click(),
];

// Whether a step is done, by the newest frame of the run.
const done = [
  (frame) => [...frame.edits.values()].some((kind) => kind === "type" || kind === "choose"),
  (frame) => frame.masks > 0 && [...frame.edits.values()].includes("mask"),
  (frame) => frame.masks === 0 && !player.recording.live,
  (frame) => frame.masks === 0 && !player.recording.live && player.recording.meta.block_length === words.one,
  () => false, // by a click on the tab
];

const go = (to) => {
  step = to;
  storage()?.setItem(KEY, `${step}`);
  draw();
};

const button = (text, action, kind = "") => {
  const node = document.createElement("button");
  node.type = "button";
  node.className = `da-tour-button ${kind}`;
  node.textContent = text;
  node.addEventListener("click", action);
  return node;
};

const draw = () => {
  root.setAttribute("aria-label", words.name);
  const line = document.createElement("p");
  line.setAttribute("role", "status");
  if (step >= last) {
    line.textContent = "";
    root.replaceChildren(line, button(words.again, () => go(0)));
    return;
  }
  const place = document.createElement("small");
  place.textContent = words.place.replace("{n}", step + 1).replace("{all}", last);
  line.append(place, " ");
  words.steps[step].split("*").forEach((part, i) => {
    const node = i % 2 ? document.createElement("strong") : document.createTextNode("");
    node.textContent = part;
    line.append(node);
  });
  const held = root.contains(document.activeElement);
  const doIt = button(words.do, () => player && deeds[step](), "da-do");
  root.replaceChildren(line, doIt, button(words.skip, () => go(last)));
  if (held) doIt.focus();
};

document.addEventListener("da-draw", (event) => {
  if (!event.target.closest("#unmask-player")) return;
  player = event.detail.player;
  const { recording, newest } = player;
  if (step < last && done[step](recording.frames[newest])) go(step + 1);
});
document.addEventListener("click", (event) => {
  if (step === last - 1 && event.target.closest?.("[role=tab]")?.textContent.trim() === words.race) go(last);
});
step = Math.min(last, Number(storage()?.getItem(KEY)) || 0);
draw();
