/**
 * The player: draws a canvas of tokens from the step frames of a masked diffusion language model.
 *
 * One ES module, no dependencies, no build step, no request. Three hosts run this same file:
 *   exported HTML   boots itself from <script type="application/json" id="trace">       (last lines)
 *   notebooks       anywidget calls the default export's render({ model, el })
 *   the Gradio app  gr.HTML calls bindGradio({ element, props, watch })
 *
 *   mount(element, options) -> player    one canvas with its controls
 *   race(element, lanes, options)        several canvases replayed by one clock, at true relative speed
 *   receive(element, options)            a function that takes any message below and shows it
 *
 * What it reads (all JSON; written by diffuapriel.sampling.trace and diffuapriel.player.wire):
 *   trace  {schema: "diffuapriel-trace", version, meta, length, mask_id, eos_id, fixed, vocab, frames}
 *   feed   {schema: "diffuapriel-feed", version, run, header?, vocab, frames, done}: part of a running trace
 *   race   {schema: "diffuapriel-race", version, lanes: [{label, note?, trace}], slow?}
 * A frame is either full ({step, ids, confidence, entropy, ...}) or holds only what changed since the step
 * before it ({step, changes: [[position, id, confidence, entropy], ...], ...}). Frames may arrive twice,
 * late or not at all: their step decides where they belong.
 *
 * Token text is model output. It enters the page through textContent and in no other way.
 */

const VERSION = 2; // of what it reads; 1 is read too
const LEVELS = 8; // colors of a scale; player.css names them --da-v0..7 and --da-p0..7
const STEP_MS = 125; // even playback: how long one step stays at speed 1
const REDRAW_MS = 48; // about twenty redraws a second at most
const MAX_LENGTH = 16384; // tokens drawn as elements; beyond this a page of text stops being readable
const SPEEDS = [0.25, 0.5, 1, 2, 4, 8];
const RACE_SPEEDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50];
const RACE_SECONDS = 6; // a race shorter than this starts in slow motion
const KEYS = new Set([" ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "Escape"]);
const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  play: "M8 5v14l11-7z",
  pause: "M7 5h4v14H7zM13 5h4v14h-4z",
  back: "M15.5 6 8.5 12l7 6z",
  forward: "M8.5 6l7 6-7 6z",
  start: "M6 6h2v12H6zM18 6l-8.5 6 8.5 6z",
  end: "M16 6h2v12h-2zM6 6l8.5 6L6 18z",
};
// Makes ids and radio names unique on a page with several players, and several copies of this module.
const nextId = ((copy, count) => () => `${copy}-${(count += 1)}`)(Math.random().toString(36).slice(2, 8), 0);

// ---- small DOM helpers ----------------------------------------------------------------------------

function make(tag, className = "", attributes = {}, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function makeSvg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function icon(name) {
  return makeSvg("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, makeSvg("path", { d: ICONS[name] }));
}

function iconButton(name, label, onClick) {
  const button = make("button", "da-button", { type: "button", "aria-label": label, title: label }, icon(name));
  button.addEventListener("click", onClick);
  return button;
}

function setIcon(button, name, label) {
  if (button.getAttribute("aria-label") === label) return;
  button.replaceChildren(icon(name));
  button.setAttribute("aria-label", label);
  button.title = label;
}

/**
 * JupyterLab listens before we do and takes arrows and space for commands to the notebook. It leaves alone what
 * carries this attribute; other keys (save, run the cell) stay the notebook's.
 */
function claimKeys(root, signal) {
  window.addEventListener("keydown", (event) => {
    const ours = KEYS.has(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey;
    root.toggleAttribute("data-lm-suppress-shortcuts", ours);
  }, { capture: true, signal });
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const finite = (value) => (typeof value === "number" && Number.isFinite(value) ? value : NaN);
const percent = (p) => (p >= 0.9995 || p < 0.0005 ? `${(100 * p).toFixed(0)} %` : `${(100 * p).toFixed(1)} %`);
const reducedMotion = () => window.matchMedia?.("(prefers-reduced-motion: reduce)").matches ?? false;

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10000 ? 2 : 1)} s`;
}

// ---- the recording: every frame seen so far, in the order of their steps ---------------------------

class Recording {
  constructor(header) {
    const { length, mask_id: maskId, eos_id: eosId, fixed } = header;
    if (!Number.isInteger(length) || length < 1 || length > MAX_LENGTH) {
      throw new Error(`length is ${length}; the player shows 1 to ${MAX_LENGTH} tokens`);
    }
    if (!Number.isInteger(maskId)) throw new Error(`mask_id is ${maskId}; it must be an integer`);
    if (!Array.isArray(fixed) || fixed.length !== length) {
      throw new Error(`fixed must be a list of ${length} booleans, one for each position`);
    }
    Object.assign(this, { length, maskId, eosId, meta: header.meta ?? {}, done: false });
    this.fixed = Uint8Array.from(fixed, Boolean);
    this.vocab = new Map();
    this.shapes = new Map();
    this.frames = [];
    this.waiting = new Map(); // frames of differences whose predecessor has not arrived
    this.first = Infinity; // lowest and highest step, and the most masks any frame had
    this.last = -Infinity;
    this.peak = 0;
  }

  learn(vocab = {}) {
    for (const [id, text] of Object.entries(vocab)) this.vocab.set(Number(id), String(text));
    this.shapes.clear();
  }

  /** How a token is set, worked out once for each id. */
  shape(id) {
    let shape = this.shapes.get(id);
    if (!shape) this.shapes.set(id, (shape = parts(this.text(id))));
    return shape;
  }

  text(id) {
    return this.vocab.get(id) ?? `\u27e8${id}\u27e9`;
  }

  /** Steps the run will take: announced while it is running, counted when it is over. */
  get total() {
    const announced = this.done ? 0 : finite(this.meta.steps) || 0;
    return Math.max(announced, this.last, 0);
  }

  /** Index of the newest frame at or before a step. */
  indexOf(step) {
    let low = 0;
    let high = this.frames.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.frames[middle].step <= step) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  /** Index of the newest frame shown after `ms` of the run's own time. */
  indexAt(ms) {
    let index = 0;
    while (index + 1 < this.frames.length && this.frames[index + 1].elapsed <= ms) index += 1;
    return index;
  }

  get elapsed() {
    return this.frames.length ? this.frames[this.frames.length - 1].elapsed : 0;
  }

  /** Take a frame; false if that step is already here or must wait for the one before it. */
  add(raw) {
    const step = raw?.step;
    if (!Number.isInteger(step) || step < 0) throw new Error(`a frame's step is ${step}; it must be 0 or more`);
    const at = this.frames.length ? this.indexOf(step) : -1;
    if (at >= 0 && this.frames[at].step === step) return false;
    const place = at >= 0 && this.frames[at].step > step ? at : at + 1;
    const before = this.frames[place - 1];
    if (!Array.isArray(raw.ids) && before?.step !== step - 1) {
      this.waiting.set(step, raw);
      return false;
    }
    this.frames.splice(place, 0, this.unpack(raw, before));
    for (let index = place; index < this.frames.length; index += 1) this.link(index);
    this.first = this.frames[0].step;
    this.last = this.frames[this.frames.length - 1].step;
    const next = this.waiting.get(step + 1);
    if (next && this.waiting.delete(step + 1)) this.add(next);
    return true;
  }

  unpack(raw, before) {
    const frame = {
      step: raw.step, t: finite(raw.t), ms: finite(raw.ms) || 0, nfe: finite(raw.nfe),
      remasked: raw.remasked ?? [], revealed: raw.revealed ?? [], topK: new Map(),
    };
    if (Array.isArray(raw.ids)) {
      for (const name of ["ids", "confidence", "entropy"]) {
        if (!Array.isArray(raw[name]) || raw[name].length !== this.length) {
          throw new Error(`step ${raw.step}: ${name} must be a list of ${this.length}, one for each position`);
        }
      }
      frame.ids = Int32Array.from(raw.ids);
      frame.confidence = Float32Array.from(raw.confidence, finite);
      frame.entropy = Float32Array.from(raw.entropy, finite);
    } else {
      frame.ids = before.ids.slice();
      frame.confidence = before.confidence.slice();
      frame.entropy = before.entropy.slice();
      frame.revealed = [];
      for (const [position, id, confidence, entropy] of raw.changes ?? []) {
        if (!(position >= 0 && position < this.length)) {
          throw new Error(`step ${raw.step}: position ${position} is outside 0 to ${this.length - 1}`);
        }
        frame.ids[position] = id;
        frame.confidence[position] = finite(confidence);
        frame.entropy[position] = finite(entropy);
        if (id !== this.maskId) frame.revealed.push(position);
      }
    }
    for (const [position, rows] of Object.entries(raw.top_k ?? {})) frame.topK.set(Number(position), rows);
    return frame;
  }

  /** Fill in what follows from the frame before: masks left, time so far, the step each token came. */
  link(index) {
    const frame = this.frames[index];
    const before = this.frames[index - 1];
    frame.elapsed = (before?.elapsed ?? 0) + frame.ms;
    frame.born = before ? before.born.slice() : new Int32Array(this.length).fill(frame.step);
    frame.masks = 0;
    for (let p = 0; p < this.length; p += 1) {
      if (frame.ids[p] === this.maskId) frame.masks += 1;
      if (before && frame.ids[p] !== before.ids[p]) frame.born[p] = frame.step;
    }
    for (const p of frame.revealed) if (!this.fixed[p]) frame.born[p] = frame.step;
    this.peak = Math.max(this.peak, frame.masks);
  }

  /** The alternatives that were on the table when the token now at `position` was chosen. */
  alternatives(frame, position) {
    return this.frames[this.indexOf(frame.born[position])].topK.get(position) ?? [];
  }
}

function recordingFrom(message) {
  const recording = new Recording(message.header ?? message);
  recording.learn(message.vocab);
  for (const frame of message.frames ?? []) recording.add(frame);
  recording.done = message.done ?? true;
  return recording;
}

// ---- the canvas: one element a token, touched only where something changed --------------------------

/** Split a token into what stands before its chip, in it, and after it: text reads as text. */
function parts(text) {
  const trailing = /\n*$/.exec(text)[0];
  const body = text.slice(0, text.length - trailing.length);
  const lead = /^ +(?=\S)/.exec(body)?.[0] ?? "";
  let shown = body.slice(lead.length).replaceAll("\n", "\u21b5\n").replaceAll("\t", "\u21e5\t");
  const blank = /^\s*$/.test(text);
  if (blank) shown = body.replaceAll(" ", "\u00b7").replaceAll("\t", "\u21e5").replaceAll("\n", "\u21b5");
  return { lead: blank ? "" : lead, shown: shown + "\u21b5".repeat(trailing.length), trailing, blank };
}

/** A token on one line for the card: its spaces and breaks as signs, in <s>. */
function signs(text) {
  const nodes = [];
  for (const piece of text.split(/([ \n\t\r])/)) {
    if (piece === "") continue;
    const sign = { " ": "\u00b7", "\n": "\u21b5", "\t": "\u21e5", "\r": "\u240d" }[piece];
    nodes.push(sign ? make("s", "", {}, sign) : piece);
  }
  return nodes;
}

class TokenCanvas {
  constructor() {
    this.root = make("div", "da-canvas", { role: "listbox" });
    this.tokens = [];
    this.active = 0; // the one token in the tab order
  }

  reset(recording) {
    this.recording = recording;
    const length = recording?.length ?? 0;
    this.ids = new Int32Array(length).fill(-1);
    this.classes = new Array(length).fill("");
    this.active = clamp(this.active, 0, Math.max(0, length - 1));
    if (this.tokens.length !== length) {
      this.tokens = Array.from({ length }, (_, position) => this.token(position));
      this.root.replaceChildren(...this.tokens);
    }
    this.root.setAttribute("aria-label", `${length} tokens`);
    if (length) this.tokens[this.active].tabIndex = 0;
  }

  token(position) {
    const chip = make("span", "da-chip");
    const token = make("span", "da-token", { role: "option", tabindex: "-1" }, "", chip, "");
    token.position = position;
    return token;
  }

  level(frame, p, colorBy) {
    if (this.recording.fixed[p] || frame.ids[p] === this.recording.maskId) return -1;
    let share = NaN;
    if (colorBy === "confidence") share = frame.confidence[p];
    if (colorBy === "step") share = frame.born[p] / Math.max(1, this.recording.total);
    return Number.isNaN(share) ? -1 : Math.floor(clamp(share, 0, 0.9999) * LEVELS);
  }

  /** Draw a frame; `fresh` and `again` are the positions just revealed and just masked again. */
  draw(frame, { fresh, again, colorBy }) {
    const { length, maskId, eosId, fixed } = this.recording;
    for (let p = 0; p < length; p += 1) {
      const id = frame.ids[p];
      const level = this.level(frame, p, colorBy);
      let name = "da-token";
      if (fixed[p]) name += " da-fixed";
      if (id === maskId) name += again.has(p) ? " da-mask da-again" : " da-mask";
      else if (id === eosId) name += p > 0 && frame.ids[p - 1] === eosId ? " da-special da-repeat" : " da-special";
      else if (this.recording.shape(id).blank) name += " da-blank";
      if (level >= 0) name += ` da-l${level}`;
      if (fresh.has(p) && id !== maskId) name += " da-new";
      if (id !== this.ids[p]) this.write(p, id);
      if (name !== this.classes[p]) this.tokens[p].className = this.classes[p] = name;
    }
    this.ids.set(frame.ids);
  }

  write(p, id) {
    const [lead, chip, tail] = this.tokens[p].childNodes;
    const masked = id === this.recording.maskId;
    const { lead: space, shown, trailing } = masked
      ? { lead: "", shown: "", trailing: "" } : this.recording.shape(id);
    lead.data = space;
    chip.textContent = shown;
    tail.data = trailing;
    if (masked) this.tokens[p].setAttribute("aria-label", "masked");
    else this.tokens[p].removeAttribute("aria-label");
  }

  focus(position) {
    if (!this.tokens.length) return;
    this.activate(clamp(position, 0, this.tokens.length - 1));
    this.tokens[this.active].focus();
  }

  activate(position) {
    this.tokens[this.active].tabIndex = -1;
    this.active = position;
    this.tokens[position].tabIndex = 0;
  }

  /** The next position that is displayed, going by `step` = 1 or -1. */
  beside(position, step) {
    let p = position + step;
    while (this.tokens[p] && this.tokens[p].offsetParent === null) p += step;
    return this.tokens[p] ? p : position;
  }

  /** The token nearest to this one on the line above (-1) or below (1). */
  across(position, direction) {
    const rect = (p) => this.tokens[p].childNodes[1].getBoundingClientRect();
    const from = rect(position);
    const middle = (box) => (box.left + box.right) / 2;
    let best = position;
    let line = null;
    for (let p = this.beside(position, direction), last = position; p !== last; last = p, p = this.beside(p, direction)) {
      const box = rect(p);
      if (Math.abs(box.bottom - from.bottom) < from.height * 0.8) continue;
      if (line !== null && Math.abs(box.bottom - line) > from.height * 0.8) break;
      if (line === null || Math.abs(middle(box) - middle(from)) < Math.abs(middle(rect(best)) - middle(from))) best = p;
      line = box.bottom;
    }
    return best;
  }
}

// ---- the card: why this token, at this step ---------------------------------------------------------

class Card {
  constructor(id) {
    this.root = make("div", "da-card", { id, role: "tooltip", popover: "manual" });
    this.position = null;
    this.closing = 0;
    this.root.addEventListener("pointerenter", () => clearTimeout(this.closing));
    this.root.addEventListener("pointerleave", () => this.hideSoon());
  }

  show(token, recording, frame) {
    clearTimeout(this.closing);
    if (this.token !== token) this.hide();
    this.token = token;
    token.setAttribute("aria-describedby", this.root.id);
    token.classList.add("da-shown");
    this.root.replaceChildren(...this.content(token.position, recording, frame));
    this.root.showPopover?.();
    this.place(token);
  }

  /** Below the token if there is room, else above it; inside the viewport in any case. */
  place(token) {
    const anchor = token.childNodes[1].getClientRects()[0] ?? token.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const { width, height } = this.root.getBoundingClientRect();
    const below = anchor.bottom + 8;
    const top = below + height <= clientHeight - 8 ? below : anchor.top - 8 - height;
    this.root.style.left = `${clamp(anchor.left - 16, 8, Math.max(8, clientWidth - width - 8))}px`;
    this.root.style.top = `${clamp(top, 8, Math.max(8, clientHeight - height - 8))}px`;
  }

  /** Something scrolled: stay with the token while it can be seen. */
  move() {
    if (!this.token) return;
    const { top, bottom } = this.token.getBoundingClientRect();
    if (bottom < 0 || top > document.documentElement.clientHeight) this.hide();
    else this.place(this.token);
  }

  hideSoon() {
    clearTimeout(this.closing);
    this.closing = setTimeout(() => this.hide(), 140); // long enough to reach the card with the pointer
  }

  hide() {
    clearTimeout(this.closing);
    if (!this.token) return;
    this.token.removeAttribute("aria-describedby");
    this.token.classList.remove("da-shown");
    this.token = null;
    this.root.hidePopover?.();
  }

  content(p, recording, frame) {
    const id = frame.ids[p];
    const masked = id === recording.maskId;
    const facts = make("dl", "da-facts");
    const fact = (name, value) => facts.append(make("dt", "", {}, name), make("dd", "", {}, value));
    const nodes = [
      make("div", "da-card-text", {}, ...(masked ? ["masked"] : signs(recording.text(id)))),
      make("div", "da-card-where", {}, `position ${p}, id ${id}`),
    ];
    if (recording.fixed[p]) fact("given", "never changes");
    else if (masked && frame.born[p] > recording.first) fact("masked again at", `step ${frame.born[p]}`);
    else if (masked) fact("since", "the start");
    else {
      fact("appeared at step", `${frame.born[p]} of ${recording.total}`);
      if (!Number.isNaN(frame.confidence[p])) fact("probability then", percent(frame.confidence[p]));
      if (!Number.isNaN(frame.entropy[p])) fact("entropy then", `${frame.entropy[p].toFixed(2)} nats`);
    }
    nodes.push(facts);
    const rows = masked ? [] : recording.alternatives(frame, p);
    if (rows.length) nodes.push(this.bars(rows, id, recording));
    return nodes;
  }

  bars(rows, id, recording) {
    const others = make("div", "da-others");
    for (const [other, probability] of rows.slice(0, 5)) {
      const fill = make("i");
      fill.style.width = `${100 * clamp(probability, 0, 1)}%`;
      others.append(
        make("span", other === id ? "da-other da-chosen" : "da-other", {}, ...signs(recording.text(other))),
        make("span", "da-meter", { "aria-hidden": "true" }, fill),
        make("span", "da-percent", {}, percent(probability)),
      );
    }
    return others;
  }
}

// ---- the strip: masks left over the steps, and where the reader is ----------------------------------

class Strip {
  constructor(onSeek) {
    this.area = makeSvg("path", { class: "da-area" });
    this.curve = makeSvg("path", { class: "da-curve" });
    this.needle = makeSvg("line", { class: "da-head-line", y1: 0, y2: 100 });
    const svg = makeSvg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" },
      this.area, this.curve, this.needle);
    this.root = make("div", "da-strip", { title: "masks left over the steps" }, svg);
    const seek = (event) => {
      const box = this.root.getBoundingClientRect();
      onSeek(clamp((event.clientX - box.left) / Math.max(1, box.width), 0, 1));
    };
    this.root.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.root.setPointerCapture(event.pointerId);
      seek(event);
    });
    this.root.addEventListener("pointermove", (event) => {
      if (this.root.hasPointerCapture(event.pointerId)) seek(event);
    });
  }

  draw(recording) {
    const x = (step) => (1000 * step) / Math.max(1, recording.total);
    const y = (masks) => 98 - (94 * masks) / Math.max(1, recording.peak);
    let line = "";
    for (const frame of recording.frames) {
      // Steps, not slopes: the count holds until the next frame.
      line += line ? `H${x(frame.step).toFixed(1)}V${y(frame.masks).toFixed(1)}`
        : `M${x(frame.step).toFixed(1)} ${y(frame.masks).toFixed(1)}`;
    }
    this.curve.setAttribute("d", line);
    this.area.setAttribute("d", line ? `${line}V100H${x(recording.first).toFixed(1)}Z` : "");
  }

  point(recording, step) {
    const x = (1000 * step) / Math.max(1, recording.total);
    this.needle.setAttribute("x1", x);
    this.needle.setAttribute("x2", x);
  }
}

// ---- the controls: built once, wired by Player ------------------------------------------------------

function colorChoice(name, value, onChange) {
  const group = make("fieldset", "da-choice", { "aria-label": "Color by" });
  for (const [key, label] of [["confidence", "Confidence"], ["step", "Step"], ["off", "Off"]]) {
    const input = make("input", "", { type: "radio", name, value: key });
    input.checked = key === value;
    input.addEventListener("change", () => onChange(key));
    group.append(make("label", "", {}, input, label));
  }
  return group;
}

function select(label, options, value, onChange) {
  const node = make("select", "", { "aria-label": label, title: label });
  for (const [key, text] of options) node.append(make("option", "", { value: key }, text));
  node.value = value;
  node.addEventListener("change", () => onChange(node.value));
  return make("span", "da-select", {}, node);
}

function legend(colorBy, total, again) {
  const root = make("div", "da-legend");
  if (colorBy !== "off") {
    const swatches = make("span", "da-swatches", { "aria-hidden": "true" });
    for (let level = 0; level < LEVELS; level += 1) {
      const swatch = make("i");
      swatch.style.background = `var(--da-${colorBy === "step" ? "p" : "v"}${level})`;
      swatches.append(swatch);
    }
    const [from, to] = colorBy === "step" ? ["step 0", `${total}`] : ["probability 0", "1"];
    root.append(make("span", "da-scale", {}, from, swatches, to));
  }
  const keys = [["mask", "masked"], ["fixed", "given"], ...(again ? [["again", "masked again"]] : [])];
  for (const [key, text] of keys) {
    root.append(make("span", `da-key da-key-${key}`, {}, make("i", "", { "aria-hidden": "true" }), text));
  }
  return root;
}

// ---- one player -------------------------------------------------------------------------------------

class Player {
  constructor(element, options = {}) {
    this.id = nextId();
    this.options = { controls: true, colorBy: "confidence", empty: "Nothing has run yet.", ...options };
    this.colorBy = this.options.colorBy;
    this.recording = null;
    this.index = 0; // the frame on the screen, or about to be
    this.drawn = -1; // the frame that is on the screen
    this.follow = true; // keep up with the newest frame while a run is live
    this.playing = false;
    this.speed = "1";
    this.stale = new Set(); // of "frame", "strip": what the next redraw must do
    this.lastDraw = -Infinity;
    this.abort = new AbortController();
    this.build(element);
    if (this.options.trace) this.load(this.options.trace);
    else this.refresh();
  }

  build(element) {
    this.canvas = new TokenCanvas();
    this.card = new Card(`da-card-${this.id}`);
    this.status = make("div", "da-sr", { role: "status", "aria-live": "polite" });
    this.problem = make("div", "da-problem", { role: "alert", hidden: "" });
    this.root = make("div", "da-player", { role: "group", "aria-label": "Player" });
    if (this.options.height) this.root.style.setProperty("--da-height", this.options.height);
    this.empty = make("div", "da-empty", {}, this.options.empty);
    this.body = [this.buildHead(), this.canvas.root, this.buildFoot()]; // put in when there is something to show
    if (!this.options.controls) this.body = [this.canvas.root];
    this.root.append(this.problem, this.empty, this.card.root, this.status);
    this.setColor(this.colorBy);
    this.listen();
    element.append(this.root);
  }

  buildHead() {
    this.name = make("span", "da-name");
    this.liveMark = make("span", "da-live", { hidden: "" }, "live");
    this.about = make("div", "da-about");
    const special = make("input", "", { type: "checkbox" });
    special.checked = true;
    special.addEventListener("change", () => this.canvas.root.classList.toggle("da-no-special", !special.checked));
    const settings = make("div", "da-settings", {}, make("label", "da-check", {}, special, "special tokens"),
      colorChoice(`da-color-${this.id}`, this.colorBy, (key) => this.setColor(key)));
    return make("div", "da-head", {}, make("div", "da-title", {}, this.name, this.liveMark, this.about), settings);
  }

  buildFoot() {
    this.strip = new Strip((share) => this.seek(Math.round(share * this.recording.total)));
    this.scrubber = make("input", "da-scrubber", { type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": "Step" });
    this.scrubber.addEventListener("input", () => this.seek(Number(this.scrubber.value)));
    this.buttons = {
      start: iconButton("start", "To the start", () => this.seek(0)),
      back: iconButton("back", "One step back", () => this.stepBy(-1)),
      play: iconButton("play", "Play", () => this.toggle()),
      forward: iconButton("forward", "One step forward", () => this.stepBy(1)),
      end: iconButton("end", "To the end", () => this.seek(Infinity)),
    };
    this.buttons.play.classList.add("da-play");
    this.speedSelect = select("Speed", [...SPEEDS.map((s) => [`${s}`, `${s}\u00d7`]), ["real", "real time"]], this.speed,
      (value) => this.setSpeed(value));
    this.jump = make("button", "da-jump", { type: "button", hidden: "" }, "To the newest step");
    this.jump.addEventListener("click", () => this.seek(Infinity));
    this.stepText = make("span");
    this.timeText = make("small");
    this.legend = make("div");
    return make("div", "da-foot", {}, this.strip.root, this.scrubber, make("div", "da-bar", {},
      make("div", "da-buttons", {}, ...Object.values(this.buttons)), this.speedSelect,
      make("div", "da-state", {}, this.stepText, this.timeText), this.jump, this.legend));
  }

  listen() {
    const signal = this.abort.signal;
    const tokens = this.canvas.root;
    const tokenOf = (event) => event.target.closest?.(".da-token");
    const reveal = (event) => tokenOf(event) && this.showCard(tokenOf(event));
    tokens.addEventListener("pointerover", reveal, { signal });
    tokens.addEventListener("pointerout", () => this.card.hideSoon(), { signal });
    tokens.addEventListener("focusin", (event) => {
      if (!tokenOf(event)) return;
      this.canvas.activate(tokenOf(event).position);
      reveal(event);
    }, { signal });
    tokens.addEventListener("focusout", () => this.card.hideSoon(), { signal });
    window.addEventListener("scroll", () => this.card.move(), { signal, passive: true, capture: true });
    this.root.addEventListener("keydown", (event) => this.onKey(event), { signal });
    claimKeys(this.root, signal);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.options.controls) return;
    const { target, key } = event;
    if (key === "Escape") {
      if (!this.card.token) return;
      this.card.hide();
    } else if (target.closest(".da-canvas")) {
      if (!this.canvasKey(key)) return;
    } else if (key === " " && !target.matches("button, select, input:not([type=range])")) {
      this.toggle();
    } else if (target.matches("select, input[type=radio]")) {
      return;
    } else if (key === "ArrowLeft" || key === "ArrowRight") {
      this.stepBy(key === "ArrowLeft" ? -1 : 1);
    } else if (key === "Home" || key === "End") {
      this.seek(key === "Home" ? 0 : Infinity);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  canvasKey(key) {
    const at = this.canvas.active;
    const moves = {
      ArrowRight: () => this.canvas.beside(at, 1), ArrowLeft: () => this.canvas.beside(at, -1),
      ArrowDown: () => this.canvas.across(at, 1), ArrowUp: () => this.canvas.across(at, -1),
      Home: () => this.canvas.beside(-1, 1), End: () => this.canvas.beside(this.canvas.tokens.length, -1),
    };
    if (key === " ") this.toggle();
    else if (moves[key]) this.canvas.focus(moves[key]());
    else return false;
    return true;
  }

  showCard(token) {
    const frame = this.recording?.frames[this.drawn];
    if (frame) this.card.show(token, this.recording, frame);
  }

  // -- what goes in --

  /** Show a whole trace (or a feed message with a header), from its last frame. */
  load(trace) {
    this.pause();
    this.guard(() => {
      check(trace);
      this.adopt(recordingFrom(trace));
      this.index = this.newest;
    });
    return this;
  }

  /** Add frames to the run on the screen; a header starts a new run. */
  append(frames, header = null, { vocab = {}, done = false } = {}) {
    this.guard(() => {
      if (header) this.adopt(recordingFrom({ header, vocab: header.vocab, frames: [], done: false }));
      if (!this.recording) return; // a late joiner: the next message with a header has everything
      this.recording.learn(vocab);
      const reading = this.recording.frames[this.index]?.step ?? 0;
      for (const frame of frames) this.recording.add(frame);
      if (done) this.recording.done = true;
      this.index = this.follow ? this.newest : this.recording.indexOf(reading);
      this.mark("frame", "strip");
    });
    return this;
  }

  adopt(recording) {
    this.card.hide();
    this.recording = recording;
    this.follow = true;
    this.index = 0;
    this.drawn = -1;
    this.empty.remove();
    if (!this.canvas.root.isConnected) this.problem.after(...this.body);
    this.canvas.reset(recording);
    this.describe();
    this.mark("frame", "strip");
  }

  guard(action) {
    try {
      this.problem.hidden = true;
      action();
    } catch (error) {
      this.fail(error);
    }
  }

  fail(error) {
    this.problem.textContent = `This trace cannot be shown: ${error.message}`;
    this.problem.hidden = false;
    this.empty.remove();
  }

  describe() {
    const { model, architecture, strategy, steps, temperature, seed } = this.recording.meta;
    this.name.textContent = this.options.title ?? model ?? "";
    const facts = [
      architecture !== model && architecture, strategy, steps != null && `${steps} steps`,
      temperature != null && `temperature ${temperature}`, seed != null && `seed ${seed}`, `${this.recording.length} tokens`,
    ];
    this.about.textContent = facts.filter(Boolean).join(" \u00b7 ");
  }

  // -- moving --

  get newest() {
    return Math.max(0, (this.recording?.frames.length ?? 0) - 1);
  }

  /** Go to a step, as the reader asks; `Infinity` is the newest. */
  seek(step) {
    if (!this.recording) return;
    this.pause();
    this.index = this.recording.indexOf(step);
    this.follow = this.index === this.newest;
    this.mark("frame");
    this.announce();
  }

  stepBy(amount) {
    if (this.recording?.frames.length) this.seek(this.recording.frames[clamp(this.index + amount, 0, this.newest)].step);
  }

  /** Go to where the run was after `ms` of its own time; for an outside clock. */
  seekTime(ms) {
    if (!this.recording) return;
    this.follow = false;
    const index = this.recording.indexAt(ms);
    if (index === this.index) return;
    this.index = index;
    this.mark("frame");
  }

  get duration() {
    return this.recording?.elapsed ?? 0;
  }

  get remasks() {
    return this.recording?.frames.some((frame) => frame.remasked.length) ?? false;
  }

  setSpeed(speed) {
    this.speed = speed;
    this.rewindClock();
  }

  setColor(colorBy) {
    this.colorBy = colorBy;
    for (const key of ["confidence", "step"]) this.canvas.root.classList.toggle(`da-by-${key}`, key === colorBy);
    this.mark("frame", "strip");
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (!this.recording || this.newest === 0) return;
    if (this.index === this.newest && this.recording.done) this.index = 0;
    this.playing = true;
    this.status.textContent = "";
    this.rewindClock();
    this.mark("frame");
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.mark("frame");
    this.announce();
  }

  /** Playback runs on a clock: where it stood, and when that was. */
  rewindClock() {
    this.clockStart = performance.now();
    this.clockIndex = this.index;
  }

  tick(now) {
    const passed = Math.max(0, now - this.clockStart); // a frame may carry a time before the click that it follows
    const frames = this.recording.frames;
    this.index = this.speed === "real" && this.recording.elapsed > 0
      ? Math.max(this.index, this.recording.indexAt(frames[this.clockIndex].elapsed + passed))
      : Math.min(this.newest, this.clockIndex + Math.floor((passed * (Number(this.speed) || 1)) / STEP_MS));
    if (this.index < this.newest) return;
    this.follow = true;
    this.playing = false;
    if (this.recording.done) this.announce();
  }

  /** Say where the reader is, but never chatter while frames run by. */
  announce() {
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => { this.status.textContent = this.sentence(); }, 250);
  }

  sentence() {
    const frame = this.recording?.frames[this.index];
    if (!frame) return "";
    return `step ${frame.step} of ${this.recording.total}, ${frame.masks} ${frame.masks === 1 ? "mask" : "masks"} left`;
  }

  // -- drawing --

  mark(...what) {
    for (const part of what) this.stale.add(part);
    this.waitingFrame ??= requestAnimationFrame((now) => this.onFrame(now));
  }

  onFrame(now) {
    this.waitingFrame = null;
    if (this.abort.signal.aborted) return;
    const before = this.index;
    if (this.playing) this.tick(now);
    if (this.index !== before) this.stale.add("frame");
    if (now - this.lastDraw >= REDRAW_MS && this.stale.size) {
      this.lastDraw = now;
      this.refresh();
    }
    if (this.playing || this.stale.size) this.mark();
  }

  refresh() {
    const recording = this.recording;
    const frame = recording?.frames[this.index];
    if (frame && this.stale.has("frame")) this.drawTokens(frame);
    if (this.stale.has("strip")) {
      if (recording) this.strip.draw(recording);
      const fresh = legend(this.colorBy, recording?.total ?? 0, this.remasks);
      this.legend.replaceWith(fresh);
      this.legend = fresh;
    }
    this.stale.clear();
    this.drawControls(frame);
    if (frame) this.options.onDraw?.(this, frame);
  }

  drawTokens(frame) {
    const { frames } = this.recording;
    // Playing forward may skip frames; what they revealed is still new to the reader's eye.
    const from = this.drawn >= 0 && this.index > this.drawn && (this.playing || this.follow || !this.options.controls)
      ? this.drawn + 1 : this.index;
    const fresh = new Set();
    for (let i = from; i <= this.index; i += 1) for (const p of frames[i].revealed) fresh.add(p);
    this.canvas.draw(frame, { fresh, again: new Set(frame.remasked), colorBy: this.colorBy });
    this.drawn = this.index;
    if (this.card.token) this.card.show(this.card.token, this.recording, frame);
  }

  drawControls(frame) {
    const recording = this.recording;
    const total = recording?.total ?? 0;
    const step = frame?.step ?? 0;
    const live = Boolean(recording && !recording.done);
    this.scrubber.max = total;
    this.scrubber.value = step;
    this.scrubber.style.setProperty("--da-played", `${total ? (100 * step) / total : 0}%`);
    this.scrubber.setAttribute("aria-valuetext", this.sentence());
    if (recording) this.strip.point(recording, step);
    this.stepText.textContent = this.sentence();
    this.timeText.textContent = frame ? this.timing(frame) : "";
    this.liveMark.hidden = !live;
    this.jump.hidden = !live || this.follow || this.playing;
    setIcon(this.buttons.play, this.playing ? "pause" : "play", this.playing ? "Pause" : "Play");
    this.buttons.play.disabled = this.scrubber.disabled = this.newest === 0;
    this.buttons.start.disabled = this.buttons.back.disabled = this.index === 0;
    this.buttons.end.disabled = this.buttons.forward.disabled = this.index === this.newest;
  }

  timing(frame) {
    const pieces = [];
    if (!Number.isNaN(frame.t)) pieces.push(`t = ${frame.t.toFixed(3)}`);
    if (!Number.isNaN(frame.nfe)) pieces.push(`${frame.nfe} forward ${frame.nfe === 1 ? "pass" : "passes"}`);
    if (this.recording.elapsed > 0) pieces.push(duration(frame.elapsed));
    return pieces.join(" \u00b7 ");
  }

  destroy() {
    this.abort.abort();
    clearTimeout(this.speaking);
    this.card.hide();
    this.root.remove();
  }
}

function check(message) {
  if (!(message?.version >= 1 && message.version <= VERSION)) {
    throw new Error(`version ${message?.version} was written by another release; this player reads 1 to ${VERSION}`);
  }
}

/** One player inside `element`. Options: trace, title, colorBy, controls, height (a CSS length), empty, onDraw. */
export function mount(element, options = {}) {
  return new Player(element, options);
}

// ---- the race: several players, one clock -----------------------------------------------------------

/**
 * Replay runs side by side at true relative speed. `lanes` is a list of {label, note, trace}; the runs'
 * own times come from their frames' ms. Options: slow (how many times slower than real), autoplay, colorBy.
 * Returns {seek(ms), play(), pause(), duration, players, destroy()}.
 */
export function race(element, lanes, options = {}) {
  return new Race(element, lanes, options);
}

class Race {
  constructor(element, lanes, { slow = null, autoplay = true, colorBy = "confidence" } = {}) {
    this.colorBy = colorBy;
    this.time = 0;
    this.playing = false;
    this.root = make("div", "da-player da-race", { role: "group", "aria-label": "Race" });
    this.lanes = lanes.map((lane) => this.buildLane(lane));
    this.players = this.lanes.map((lane) => lane.player);
    this.duration = Math.max(0, ...this.players.map((player) => player.duration));
    this.speed = `${slow ? 1 / slow : this.fittingSpeed()}`;
    this.legend = make("div");
    this.root.append(make("div", "da-lanes", {}, ...this.lanes.map((lane) => lane.root)), this.buildFoot());
    this.setColor(this.colorBy);
    this.abort = new AbortController();
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    claimKeys(this.root, this.abort.signal);
    element.append(this.root);
    if (autoplay && !reducedMotion()) this.play();
    else this.seek(this.duration);
  }

  buildLane({ label, note, trace }) {
    const clock = make("span", "da-clock");
    const bar = make("i");
    const root = make("section", "da-lane", { "aria-label": label });
    root.append(make("div", "da-lane-head", {},
      make("span", "da-lane-name", {}, label), clock, ...(note ? [make("div", "da-lane-note", {}, note)] : [])),
    make("div", "da-progress", { "aria-hidden": "true" }, bar));
    const player = mount(root, { controls: false, trace });
    return { label, root, clock, bar, player };
  }

  buildFoot() {
    this.button = iconButton("play", "Play", () => this.toggle());
    this.button.classList.add("da-play");
    this.scrubber = make("input", "da-scrubber", {
      type: "range", min: 0, max: Math.max(1, this.duration), step: "any", value: 0, "aria-label": "Time",
    });
    this.scrubber.addEventListener("input", () => this.seek(Number(this.scrubber.value)));
    const name = (s) => (s === 1 ? "real time" : s < 1 ? `${Math.round(1 / s)}\u00d7 slower` : `${s}\u00d7 faster`);
    const speeds = [...new Set([...RACE_SPEEDS, Number(this.speed)])].sort((a, b) => a - b);
    this.speedSelect = select("Speed", speeds.map((s) => [`${s}`, name(s)]), this.speed, (value) => {
      this.speed = value;
      this.rewindClock();
    });
    this.state = make("div", "da-state");
    this.verdict = make("div", "da-verdict", { role: "status", "aria-live": "polite" });
    return make("div", "da-race-foot", {}, this.scrubber, make("div", "da-bar", {},
      make("div", "da-buttons", {}, iconButton("start", "To the start", () => this.seek(0)), this.button,
        iconButton("end", "To the end", () => this.seek(this.duration))),
      this.speedSelect, this.state, this.verdict), make("div", "da-bar", {},
      colorChoice(`da-color-${nextId()}`, this.colorBy, (key) => this.setColor(key)), this.legend));
  }

  setColor(colorBy) {
    this.colorBy = colorBy;
    for (const player of this.players) player.setColor(colorBy);
    const { recording } = this.players[0] ?? {};
    const fresh = legend(colorBy, recording?.total ?? 0, this.players.some((player) => player.remasks));
    this.legend.replaceWith(fresh);
    this.legend = fresh;
  }

  /** The fastest offered speed, real time at most, at which the race can be followed by eye. */
  fittingSpeed() {
    const fits = RACE_SPEEDS.filter((s) => s <= 1 && this.duration / 1000 / s >= RACE_SECONDS);
    return fits.length ? fits[fits.length - 1] : RACE_SPEEDS[0];
  }

  onKey(event) {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const choosing = target.matches("select, input[type=radio]");
    if (key === "Escape") this.players.forEach((player) => player.card.hide());
    else if (key === " " && !choosing && !target.matches("button")) this.toggle();
    else if (target.closest(".da-canvas")) {
      if (!this.players.find(({ root }) => root.contains(target)).canvasKey(key)) return;
    } else if ((key === "ArrowLeft" || key === "ArrowRight") && !choosing) {
      this.seek(this.time + ((key === "ArrowLeft" ? -1 : 1) * this.duration) / 50);
    } else if ((key === "Home" || key === "End") && !choosing) {
      this.seek(key === "Home" ? 0 : this.duration);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  seek(ms) {
    this.pause();
    this.show(clamp(ms, 0, this.duration));
  }

  toggle() {
    if (this.playing) this.pause();
    else this.play();
  }

  play() {
    if (this.duration <= 0) return;
    if (this.time >= this.duration) this.time = 0;
    this.playing = true;
    this.rewindClock();
    this.loop();
  }

  pause() {
    this.playing = false;
    cancelAnimationFrame(this.waitingFrame);
    this.show(this.time);
  }

  rewindClock() {
    this.clockStart = performance.now();
    this.clockTime = this.time;
  }

  loop() {
    this.waitingFrame = requestAnimationFrame((now) => {
      if (!this.playing) return;
      this.show(Math.min(this.duration, this.clockTime + Math.max(0, now - this.clockStart) * Number(this.speed)));
      if (this.time >= this.duration) this.pause();
      else this.loop();
    });
  }

  show(ms) {
    this.time = ms;
    this.scrubber.value = ms;
    this.scrubber.style.setProperty("--da-played", `${this.duration ? (100 * ms) / this.duration : 0}%`);
    this.scrubber.setAttribute("aria-valuetext", `${duration(ms)} of ${duration(this.duration)}`);
    this.state.textContent = `${duration(ms)} of ${duration(this.duration)}`;
    setIcon(this.button, this.playing ? "pause" : "play", this.playing ? "Pause" : "Play");
    for (const lane of this.lanes) this.showLane(lane, ms);
    const over = ms >= this.duration && this.duration > 0;
    const verdict = over ? this.result() : "";
    if (this.verdict.textContent !== verdict) this.verdict.textContent = verdict;
  }

  showLane(lane, ms) {
    const { player } = lane;
    player.seekTime(ms);
    const done = ms >= player.duration;
    const place = this.players.filter((other) => other.duration < player.duration).length;
    const ordinal = ["first", "second", "third", "fourth"][place] ?? `number ${place + 1}`;
    lane.root.classList.toggle("da-done", done);
    lane.bar.style.width = `${player.duration ? (100 * Math.min(ms, player.duration)) / player.duration : 0}%`;
    lane.clock.textContent = done ? `${ordinal}, ${duration(player.duration)}` : duration(ms);
  }

  result() {
    const order = [...this.lanes].sort((a, b) => a.player.duration - b.player.duration);
    const [first, ...rest] = order;
    if (!rest.length) return `${first.label} took ${duration(first.player.duration)}`;
    const behind = rest.map(({ label, player }) =>
      `${label} took ${(player.duration / Math.max(1e-9, first.player.duration)).toFixed(2)} times as long`);
    return `${first.label} finished first; ${behind.join("; ")}`;
  }

  destroy() {
    this.abort.abort();
    this.playing = false;
    cancelAnimationFrame(this.waitingFrame);
    this.players.forEach((player) => player.destroy());
    this.root.remove();
  }
}

// ---- hosts ------------------------------------------------------------------------------------------

/** A function that shows whatever message it is given in `element`: a trace, part of one, or a race. */
export function receive(element, options = {}) {
  let shown = null; // a Player or a Race
  let run = null;
  const player = () => {
    if (!(shown instanceof Player)) {
      shown?.destroy();
      shown = mount(element, options);
    }
    return shown;
  };
  const show = (message) => {
    if (message.schema === "diffuapriel-race") {
      check(message);
      if (!Array.isArray(message.lanes)) throw new Error("a race needs a list of lanes");
      shown.destroy();
      run = null;
      shown = race(element, message.lanes, { ...options, slow: message.slow });
    } else if (message.schema === "diffuapriel-feed") {
      check(message);
      const header = message.run !== run ? message.header : null;
      if (message.run !== run && !header) return; // joined late: wait for a message that has a header
      run = message.run;
      player().append(message.frames, header, message);
    } else {
      run = null;
      player().load(message);
    }
  };
  const take = (message) => {
    try {
      show(message);
    } catch (error) {
      player().fail(error);
    }
  };
  take.destroy = () => shown?.destroy();
  player();
  return take;
}

/** gr.HTML: `value` is a message, as JSON text (fast) or as an object. */
export function bindGradio({ element, props, watch }, options = {}) {
  const host = element.querySelector(".da-host") ?? element;
  host.replaceChildren();
  const take = receive(host, options);
  const read = () => {
    const value = props.value;
    if (!value) return;
    // An object arrives as a deep proxy, on which every read is slow: copy it out once.
    take(typeof value === "string" ? JSON.parse(value) : JSON.parse(JSON.stringify(value)));
  };
  watch("value", read);
  read();
  return take;
}

/** anywidget: `message` holds the newest message; `snapshot_id` names the static picture that we stand in for. */
function render({ model, el }) {
  const host = make("div");
  const hidden = make("style", "", {}, `#${CSS.escape(model.get("snapshot_id"))} { display: none; }`);
  el.append(host);
  document.head.append(hidden);
  const take = receive(host, { height: model.get("height") || undefined });
  const read = () => Object.keys(model.get("message")).length && take(model.get("message"));
  model.on("change:message", read);
  read();
  return () => {
    model.off("change:message", read);
    hidden.remove();
    take.destroy();
  };
}

export default { render };

// An exported file carries its trace in the page. Elsewhere there is no such element and nothing happens.
const embedded = typeof document === "undefined" ? null : document.querySelector('script#trace[type="application/json"]');
if (embedded) receive(document.querySelector("#player") ?? document.body, { height: "none" })(JSON.parse(embedded.textContent));
