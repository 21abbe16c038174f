/**
 * The player: draws a canvas of tokens from the step frames of a masked diffusion language model.
 *
 * One ES module, no dependencies, no build step, no request. Three hosts run this same file:
 *   exported HTML   boots itself from <script type="application/json" id="trace">       (last lines)
 *   notebooks       anywidget calls the default export's render({ model, el })
 *   the Gradio app  gr.HTML calls bindGradio({ element, props, watch })
 *
 *   mount(element, options) -> player    one canvas with its controls; with `options.steer` it can be edited
 *   race(element, lanes, options)        several canvases replayed by one clock, at true relative speed
 *   receive(element, options)            a function that takes any message below and shows it
 *
 * Input (JSON, written by diffuapriel.trace.trace and diffuapriel.trace.messages):
 *   trace  {schema: "diffuapriel-trace", version, meta, length, mask_id, eos_id, fixed, vocab, frames}
 *   feed   {schema: "diffuapriel-feed", version, run, header?, vocab, frames, done, ...}: part of a running trace,
 *          with the state of the run: {turn, live, total, remarks, steer, other}, see diffuapriel.trace.messages
 *   race   {schema: "diffuapriel-race", version, lanes: [{label, note?, trace}], slow?, verdict?, tied?}
 * A frame is either complete ({step, ids, confidence, entropy, ...}) or holds only the changes since the previous
 * step ({step, changes: [[position, id, confidence, entropy], ...], ...}). Frames may arrive twice, late or not at
 * all: their step gives their order. A frame with `edits` is an edit by a person.
 *
 * Output, if the host can steer: options.steer({run, do, at, first, last, ...}), one call per command.
 *
 * Token text is model output. It enters the page through textContent only.
 */

const VERSION = 3; // of the messages and traces it reads
const LEVELS = 8; // colors of a scale; player.css names them --da-v0..7, --da-p0..7 and --da-e0..7
const SCALES = { confidence: "v", step: "p", entropy: "e" };
const ENTROPIES = [1, 2, 4, 8, 16]; // nats at the upper end of the entropy scale
const STEP_MS = 125; // even playback: duration of a step at speed 1
const REDRAW_MS = 48; // at most about twenty redraws per second
const MAX_LENGTH = 16384; // tokens drawn as elements; longer texts are not readable on a page
const SPEEDS = [0.25, 0.5, 1, 2, 4, 8];
const RACE_SPEEDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 50];
const RACE_SECONDS = 6; // a race shorter than this starts in slow motion
const KEYS = new Set([" ", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "Escape"]);
const CANDIDATES = 5;
const DRAG_PX = 12; // a pointer that goes farther drags
const LEAST_DRAFT = 0.5; // of the text's type size
const RUN_COMMANDS = new Set(["go", "step"]);
const FIXING_EDITS = new Set(["pin", "type", "choose"]); // edits after which the sampler keeps a token
const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  play: "M8 5v14l11-7z",
  pause: "M7 5h4v14H7zM13 5h4v14h-4z",
  back: "M15.5 6 8.5 12l7 6z",
  forward: "M8.5 6l7 6-7 6z",
  start: "M6 6h2v12H6zM18 6l-8.5 6 8.5 6z",
  end: "M16 6h2v12h-2zM6 6l8.5 6L6 18z",
};
// All visible text; a host may replace it (options.words).
const WORDS = {
  decimal: ".", untitled: "Player", race: "Race", lane: "Lane", live: "live", empty: "Nothing has run yet.",
  colorBy: "Color by", confidence: "Confidence", step: "Step", entropy: "Entropy", off: "Off",
  special: "special tokens", speed: "Speed", realTime: "real time", slower: "{n}\u00d7 slower", slowMotion: "in slow motion, {n}\u00d7 slower than it was", faster: "{n}\u00d7 faster",
  timeOf: "{time} of {all}", places: ["first", "second", "third", "fourth"], placed: "{place}, {time}",
  took: "{name} took {time}", won: "{name} finished first; {others}", behind: "{name} took {n} times as long",
  toStart: "To the start", back: "One step back", play: "Play", pause: "Pause", forward: "One step forward",
  toEnd: "To the end", toNewest: "To the newest step", time: "Time",
  steps: "{n} steps", stepsOne: "1 step", temperature: "temperature {n}", seed: "seed {n}", tokens: "{n} tokens", tokensOne: "1 token",
  sentence: "step {step} of {total}, {masks} masks left", sentenceOne: "step {step} of {total}, 1 mask left",
  revealed: "{n} revealed", meanConfidence: "mean confidence {p}", passes: "{n} forward passes", passesOne: "1 forward pass",
  stripTitle: "masks left, mean confidence and tokens revealed over the steps",
  stripMasks: "masks left", stripConfidence: "mean confidence", stripRevealed: "revealed in a step", stripEdits: "your edits",
  scaleStep: "step 0", scaleProbability: "probability 0", scaleEntropy: "entropy 0", scaleNats: "{n} nats",
  masked: "masked", keyDraft: "draft", drafted: "draft: {text}", draftHint: "A draft: the next step verifies it.", blank: "white space", given: "given", yours: "yours", again: "masked again", breaks: "breaks the story", differs: "differs",
  guesses: "What the model would put here now:", guessing: "Asking the model\u2026", guessHint: "Click to see what the model would put here.",
  where: "position {p}, id {id}", part: "part {n} of {total} of the character", continued: "continues the character", byte: "byte {hex}", giveUp: "This trace cannot be shown: {why}",
  never: "stays", since: "since", theStart: "the start", maskedAgainAt: "masked again at", clearedAt: "cleared by you at",
  typedAt: "written by you at", chosenAt: "chosen by you at", movedAt: "moved by you at", pinned: "pinned", byYou: "by you", atStep: "step {n}",
  appeared: "appeared at step", ofTotal: "{n} of {total}", probabilityThen: "probability then", rankThen: "rank",
  rankOf: "number {n}", rankFirst: "the most probable", entropyThen: "entropy then", nats: "{n} nats",
  // What the strategy compared when the token was revealed.
  why_low_confidence: "confidence {score} was the highest of {among}",
  why_entropy: "entropy {score} was the lowest of {among}",
  why_margin: "its margin over the second-best token, {score}, was the largest of {among}",
  why_random: "its random number, {score}, was the highest of {among}",
  why_first_hitting: "its hitting time, {score}, came first of {among}",
  why_threshold: "confidence {score} reached the threshold {threshold}",
  why_below: "no position reached the threshold {threshold}; confidence {score} was the highest of {among}",
  why_chance: "each masked position had a chance of {chance}; its random number, {score}, was below it",
  why_speculative: "what the model writes after the text before it; probability {score}",
  why_verified: "what the model writes after the text before it; probability {score}, number {place} of the {k} that this step accepted",
  why_drawn: "drawn among {among}, weighted by {name}; here {score}",
  why_place: "{name} {score} was number {place} of {among}; {k} were revealed together",
  among: "{n} masked positions", amongOne: "1 masked position",
  amongBlock: "the {n} masked positions of its block of {block}", amongBlockOne: "1 masked position of its block of {block}",
  why_next: "; the runner-up had {runner_up}", why_last: "; it was the last one", why_lastOnes: "; they were the last ones",
  name_low_confidence: "confidence", name_entropy: "entropy", name_margin: "margin over the second-best token",
  name_random: "random number", name_threshold: "confidence", name_first_hitting: "hitting time",
  // Steering.
  model: "The model", resume: "Go on", goOnFrom: "Go on from step {step}", oneStep: "One step", undo: "Undo",
  hint: "Click a token to pin, clear or change it; drag over several to mask them.",
  branchHint: "An edit here branches off at step {step}; the current ending is kept for comparison.",
  token: "Token {p}", range: "Tokens {first} to {last}", pin: "Pin", unpin: "Unpin", clear: "Clear to [MASK]",
  typeOver: "Type over it", put: "Write", choose: "Use {text}, {p}", editing: "{n} tokens, editable", editingOne: "1 token, editable",
  help: "Editing and keys", more: "Colors, speed and keys", other: "The other ending", otherFrom: "as it was before step {step}", now: "This one",
  differ: "{n} of {total} tokens differ", differOne: "1 of {total} tokens differs", same: "no token differs",
  differSoFar: "{n} of {total} tokens differ so far", differSoFarOne: "1 of {total} tokens differs so far", sameSoFar: "no token differs so far",
  swap: "Continue with this one",
  keys: [
    ["Arrows", "from token to token; with Shift, select several"], ["Enter", "open the token: type over it, pin, clear, candidates"],
    ["Delete", "clear to [MASK]"], ["P", "pin or unpin"], ["1 to 5", "use that candidate"],
    ["R", "let the model continue from here"], [".", "one step"], ["Space", "pause the model, or play and pause the replay"],
    ["U", "undo the last edit"], ["Escape", "close, clear the selection"],
  ],
};
// Unique ids and radio names on a page with several players and several copies of this module.
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
 * JupyterLab handles keys first and uses arrows and space as notebook commands. It ignores elements with this
 * attribute; other keys (save, run the cell) remain the notebook's.
 */
function claimKeys(root, signal) {
  window.addEventListener("keydown", (event) => {
    const ours = KEYS.has(event.key) && !event.ctrlKey && !event.metaKey && !event.altKey;
    root.toggleAttribute("data-lm-suppress-shortcuts", ours);
  }, { capture: true, signal });
}

/** A text of WORDS with its {placeholders} replaced. */
const say = (key, values = {}) => WORDS[key].replace(/\{(\w+)\}/g, (hole, name) => `${values[name] ?? hole}`);

/** A text of WORDS that counts: `keyOne` for one. */
const count = (key, n, values = {}) => say(n === 1 ? `${key}One` : key, { n, ...values });

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const finite = (value) => (typeof value === "number" && Number.isFinite(value) ? value : NaN);
/** A number with so many decimals, as the language writes it. */
const fixed = (n, digits) => n.toFixed(digits).replace(".", WORDS.decimal);
const percent = (p) => {
  if (p > 0 && p < 0.0005) return `< ${fixed(0.1, 1)} %`;
  return `${fixed(100 * p, p >= 0.9995 || p === 0 ? 0 : 1)} %`;
};
const reducedMotion = () => window.matchMedia?.("(prefers-reduced-motion: reduce)").matches ?? false;

/** Two numbers with just enough decimals to differ, at least two. */
function withDistinctDecimals(a, b = null) {
  let digits = 2;
  while (digits < 6 && b !== null && a !== b && a.toFixed(digits) === b.toFixed(digits)) digits += 1;
  return [fixed(a, digits), b === null ? "" : fixed(b, digits)];
}

function duration(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : `${fixed(ms / 1000, ms < 10000 ? 2 : 1)} s`;
}

// ---- characters of several tokens; the same rule as diffuapriel/trace/characters.py -----------------------------

/** A draft as it fits the room of the token that comes, and its type size: smaller, and cut where that is not enough. */
export function fitted(draft, shown) {
  const pen = document.createElement("canvas").getContext("2d");
  const wide = (text) => pen.measureText(text).width;
  const room = wide(shown);
  if (LEAST_DRAFT * wide(draft) <= room || !room) return [draft, room ? Math.min(1, room / wide(draft)) : LEAST_DRAFT];
  const letters = [...draft];
  let kept = letters.length - 1;
  while (kept > 1 && LEAST_DRAFT * wide(`${letters.slice(0, kept).join("")}\u2026`) > room) kept -= 1;
  return [kept > 1 ? `${letters.slice(0, kept).join("")}\u2026` : letters[0], LEAST_DRAFT];
}

const END = "\u2219"; // for a drafted end of the text, where there is no room for its name
const PENDING = "\u25cc"; // for bytes that are not a character yet
const PARTIAL = /[^\0-\x7f]|\\x[89a-f][0-9a-f]/; // what a token draws may depend on its neighbors
const JOINS = /^[\p{M}\u200d\u{1f3fb}-\u{1f3ff}]/u;
const FLAG_HALF = /^[\u{1f1e6}-\u{1f1ff}]$/u;

/** What each token of a row draws: a character in its first token, "" in the others. null: nothing continues there. */
export function spread(texts) {
  const drawn = texts.map((text) => text ?? "");
  for (let start = 0, end = 0; end <= texts.length; end += 1) {
    if (texts[end] != null && PARTIAL.test(texts[end])) continue;
    if (end > start) drawn.splice(start, end - start, ...spreadRun(drawn.slice(start, end)));
    start = end + 1;
  }
  return drawn;
}

function spreadRun(texts) {
  const raw = texts.map(rawBytes);
  const owners = raw.flatMap((data, index) => data.map(() => index));
  const bytes = raw.flat();
  const drawn = texts.map(() => "");
  for (let at = 0, owner = 0, previous = "", size = 1; at < bytes.length; at += size) {
    const character = characterAt(bytes, at);
    const joins = previous !== "" && character !== null && (JOINS.test(character) || previous.endsWith("\u200d")
      || (FLAG_HALF.test(character) && FLAG_HALF.test(previous)));
    if (!joins) owner = owners[at];
    if (character !== null) drawn[owner] += character;
    else if (!drawn[owner].endsWith(PENDING)) drawn[owner] += PENDING;
    previous = character === null ? "" : joins ? previous + character : character;
    size = character === null ? 1 : utf8.encode(character).length;
  }
  return drawn;
}

const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The display string of a token as bytes. */
function rawBytes(text) {
  return text.split(/(\\x[89a-f][0-9a-f])/).flatMap((piece, i) => (i % 2 ? [parseInt(piece.slice(2), 16)] : [...utf8.encode(piece)]));
}

/** The character that begins at an offset; null if the bytes there are none. */
function characterAt(bytes, at) {
  const size = bytes[at] < 0x80 ? 1 : bytes[at] < 0xe0 ? 2 : bytes[at] < 0xf0 ? 3 : 4;
  try {
    return strictUtf8.decode(Uint8Array.from(bytes.slice(at, at + size)));
  } catch {
    return null;
  }
}

// ---- the recording: all frames so far, ordered by step ----------------------------------------------

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
    Object.assign(this, { length, maskId, eosId, meta: header.meta ?? {}, done: false, live: false, planned: null });
    this.fixed = Uint8Array.from(fixed, Boolean);
    this.vocab = new Map();
    this.partial = new Set(); // ids of tokens that may hold a part of a character
    this.shapes = new Map();
    this.frames = [];
    this.waiting = new Map(); // differences whose previous frame has not arrived
    this.first = Infinity; // lowest and highest step, and the most masks in any frame
    this.last = -Infinity;
    this.peak = 0;
    this.most = 0; // tokens revealed in one step
    this.maxEntropy = 0; // the largest entropy of any token
    this.remarks = { step: -1, at: new Map() }; // notes on single tokens, and the step they apply to
    this.guesses = { step: -1, at: new Map() }; // what the model would put at each mask, and the step that holds for
  }

  learn(vocab = {}) {
    for (const [id, text] of Object.entries(vocab)) {
      this.vocab.set(Number(id), String(text));
      if (PARTIAL.test(text) && Number(id) !== this.maskId) this.partial.add(Number(id));
    }
    this.shapes.clear();
    for (const frame of this.frames) frame.drawn = null;
  }

  /** The typography of what a token draws, computed once per text. */
  shape(text) {
    let shape = this.shapes.get(text);
    if (!shape) this.shapes.set(text, (shape = parts(text)));
    return shape;
  }

  /** What the token at `position` draws: its text, or its share of a character of several tokens. */
  textAt(frame, position) {
    const id = frame.ids[position];
    if (!this.partial.has(id)) return this.text(id);
    frame.drawn ??= spread(Array.from(frame.ids, (i) => (i === this.maskId || i === this.eosId ? null : this.text(i))));
    return frame.drawn[position];
  }

  /** Whether the token at `position` only continues a character. */
  continues(frame, position) {
    return this.partial.has(frame.ids[position]) && this.textAt(frame, position) === "";
  }

  /** [first, last] of the tokens that share a character with the one at `position`, usually that one alone. */
  sharers(frame, position) {
    let first = position;
    let last = position;
    while (first > 0 && this.continues(frame, first)) first -= 1;
    while (this.continues(frame, last + 1)) last += 1;
    return [first, last];
  }

  /** A candidate for `position` as it would be drawn there; a part of a character that stays one, as a byte. */
  candidate(frame, position, id) {
    if (!this.partial.has(id)) return this.text(id);
    const ids = frame.ids.slice();
    ids[position] = id;
    const other = { ids };
    const text = this.textAt(other, this.sharers(other, position)[0]);
    const byte = /\\x([0-9a-f]{2})$/.exec(this.text(id));
    return text === PENDING && byte ? say("byte", { hex: byte[1].toUpperCase() }) : text;
  }

  text(id) {
    return this.vocab.get(id) ?? `\u27e8${id}\u27e9`;
  }

  /** Whether what two neighboring tokens draw are pieces of one word; null for a mask. */
  joins(left, right) {
    if (left === null || right === null) return false;
    return right === "" || (/(?:[\p{L}\p{M}\p{N}'\u2019]|^)$/u.test(left) && /^[\p{L}\p{M}\p{N}'\u2019]/u.test(right));
  }

  /** The last frame of a run; null while frames arrive. */
  get ending() {
    return this.live || !this.frames.length ? null : this.frames[this.frames.length - 1];
  }

  /** Total steps: announced while the run is live, counted when it is done. */
  get total() {
    const announced = this.done ? 0 : this.planned ?? (finite(this.meta.steps) || 0);
    return Math.max(announced, this.last, 0);
  }

  /** Nats at the upper end of the entropy scale. */
  get entropyScale() {
    return ENTROPIES.find((nats) => nats >= this.maxEntropy) ?? ENTROPIES[ENTROPIES.length - 1];
  }

  /** Apply the fields of a message other than its frames. */
  note({ live, total, remarks, done, guesses }) {
    if (guesses) this.guesses = { step: guesses.step, at: byPosition(guesses.at) };
    if (done !== undefined) this.done = Boolean(done);
    this.live = Boolean(live ?? !this.done);
    if (Number.isInteger(total)) this.planned = total;
    if (remarks) this.remarks = { step: remarks.step, at: byPosition(remarks.at) };
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

  /** Index of the newest frame after `ms` of the run's own time. */
  indexAt(ms) {
    let index = 0;
    while (index + 1 < this.frames.length && this.frames[index + 1].elapsed <= ms) index += 1;
    return index;
  }

  get elapsed() {
    return this.frames.length ? this.frames[this.frames.length - 1].elapsed : 0;
  }

  /** Add a frame; false if the step is known already or has to wait for the previous one. */
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
      remasked: raw.remasked ?? [], revealed: raw.revealed ?? [], topK: byPosition(raw.top_k),
      why: byPosition(raw.why), runnerUp: finite(raw.runner_up), threshold: finite(raw.threshold), edits: byPosition(raw.edits),
      draft: new Map(raw.draft ?? []),
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
    return frame;
  }

  /** Derive from the previous frame: masks left, elapsed time, the step and the author of each token. */
  link(index) {
    const frame = this.frames[index];
    const before = this.frames[index - 1];
    frame.elapsed = (before?.elapsed ?? 0) + frame.ms;
    frame.born = before ? before.born.slice() : new Int32Array(this.length).fill(frame.step);
    frame.masks = 0;
    let sure = 0;
    let sum = 0;
    for (let p = 0; p < this.length; p += 1) {
      if (frame.ids[p] === this.maskId) frame.masks += 1;
      if (before && frame.ids[p] !== before.ids[p]) frame.born[p] = frame.step;
      if (!Number.isNaN(frame.confidence[p])) {
        sure += 1;
        sum += frame.confidence[p];
      }
      if (frame.entropy[p] > this.maxEntropy) this.maxEntropy = frame.entropy[p];
    }
    frame.meanConfidence = sum / sure; // NaN until the model has revealed a token
    if (before) for (const p of frame.revealed) frame.born[p] = frame.step;
    this.attribute(frame, before);
    this.peak = Math.max(this.peak, frame.masks);
    if (!frame.edits.size) this.most = Math.max(this.most, frame.revealed.length);
  }

  /** Which tokens are fixed, and which a person wrote or pinned. Frames share unchanged arrays. */
  attribute(frame, before) {
    frame.fixed = before?.fixed ?? this.fixed;
    frame.mine = before?.mine ?? new Uint8Array(this.length);
    if (!frame.edits.size) return;
    frame.fixed = frame.fixed.slice();
    frame.mine = frame.mine.slice();
    for (const [p, kind] of frame.edits) {
      frame.fixed[p] = frame.mine[p] = FIXING_EDITS.has(kind) ? 1 : 0;
      if (kind === "pin" && this.fixed[p] && frame.ids[p] === this.frames[0].ids[p]) frame.mine[p] = 0;
    }
  }

  /** The candidates when the present token at `position` was drawn; at a mask, what the model would put there now. */
  alternatives(frame, position) {
    if (frame.ids[position] === this.maskId) return (this.guesses.step === frame.step && this.guesses.at.get(position)) || [];
    return this.birth(frame, position).topK.get(position) ?? [];
  }

  /** The frame that revealed the present token at `position`. */
  birth(frame, position) {
    return this.frames[this.indexOf(frame.born[position])];
  }

  /** The note on the token at `position`, or "". */
  remark(frame, position) {
    return this.remarks.step === frame.step ? this.remarks.at.get(position) ?? "" : "";
  }

  /** How many masked positions a step compared: those of the first block that has any (`StrategyInput.candidates`). */
  compared(frame) {
    const before = this.frames[this.indexOf(frame.step - 1)];
    const { block_length: size, block_start: start } = this.meta;
    const free = before.fixed.indexOf(0);
    const first = start === "prompt" ? (free < 0 ? this.length : free) : 0;
    const block = (p) => (size ? Math.floor(Math.max(0, p - first) / size) : 0);
    const masked = [...before.ids.keys()].filter((p) => before.ids[p] === this.maskId);
    return masked.filter((p) => block(p) === block(masked[0])).length;
  }

  /** Why the strategy selected this position at that step, in a sentence; "" if unknown. */
  reason(frame, position) {
    const birth = this.birth(frame, position);
    const score = birth.why.get(position)?.[1];
    if (typeof score !== "number" || birth.edits.has(position)) return "";
    const { strategy, alg_temp: algTemp, options_since: since = 0 } = this.meta;
    if (birth.step <= since) return ""; // made with other options, which are not known
    if (strategy === "speculative") { // each token is verified after those before it: nothing is compared
      const accepted = [...birth.why.keys()].sort((a, b) => a - b);
      const values = { score: percent(score), place: accepted.indexOf(position) + 1, k: accepted.length };
      return say(accepted.length > 1 ? "why_verified" : "why_speculative", values);
    }
    const n = this.compared(birth);
    if (strategy === "ancestral" || strategy.startsWith("remdm")) {
      return say("why_chance", { chance: percent(birth.threshold), score: withDistinctDecimals(score, birth.threshold)[0] });
    }
    const rule = { factor: "low_confidence", entropy_bound: "entropy" }[strategy] ?? strategy;
    if (!WORDS[`name_${rule}`]) return "";
    const scores = [...birth.why.values()].map((pair) => pair[1]);
    const better = scores.filter((other) => (rule === "entropy" ? other < score : other > score)).length;
    const runnerUp = Number.isNaN(birth.runnerUp) ? null : birth.runnerUp;
    const [shown, next] = withDistinctDecimals(score, runnerUp);
    const block = this.meta.block_length;
    const among = count(block ? "amongBlock" : "among", n, { block });
    const values = { score: shown, among, threshold: birth.threshold, place: better + 1, k: scores.length, name: say(`name_${rule}`) };
    if (algTemp > 0 && ["low_confidence", "entropy", "margin"].includes(strategy)) return say("why_drawn", values);
    const end = runnerUp !== null ? say("why_next", { runner_up: next }) : scores.length > 1 ? say("why_lastOnes") : say("why_last");
    if (strategy === "threshold") return say(score >= birth.threshold ? "why_threshold" : "why_below", values) + end;
    return say(scores.length > 1 ? "why_place" : `why_${rule}`, values) + end;
  }
}

function byPosition(values) {
  return new Map(Object.entries(values ?? {}).map(([position, value]) => [Number(position), value]));
}

/** Whether two tokens differ; a mask is no token yet. */
const differ = (a, b, maskId) => a !== b && a !== maskId && b !== maskId;

function recordingFrom(message) {
  const recording = new Recording(message.header ?? message);
  recording.learn(message.vocab);
  for (const frame of message.frames ?? []) recording.add(frame);
  recording.done = message.done ?? true;
  recording.note(message);
  return recording;
}

// ---- the canvas: one element per token, updated only on change ------------------------------------------

/** Split a token into the text before, inside and after its chip, so that the canvas reads as text. */
function parts(text) {
  const trailing = /\n*$/.exec(text)[0];
  const body = text.slice(0, text.length - trailing.length);
  const lead = /^ +(?=\S)/.exec(body)?.[0] ?? "";
  let shown = body.slice(lead.length).replaceAll("\n", "\u21b5\n").replaceAll("\t", "\u21e5\t");
  const white = /^\s*$/.test(text);
  const blank = white && text !== " "; // one space is the space between two words
  if (blank) shown = body.replaceAll(" ", "\u00b7").replaceAll("\t", "\u21e5").replaceAll("\n", "\u21b5");
  return { lead: blank ? "" : lead, shown: shown + "\u21b5".repeat(trailing.length), trailing, blank, white };
}

/** A token on one line for the card, with spaces and line breaks as symbols in <s>. */
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
    this.editable = false;
    this.selected = null; // [first, last] if several tokens are selected
  }

  reset(recording) {
    this.recording = recording;
    const length = recording?.length ?? 0;
    this.frame = null; // the drawn frame
    this.texts = new Array(length).fill(null); // as drawn; null for a mask
    this.ids = new Int32Array(length).fill(-1);
    this.wide = new Array(length).fill(null); // the text whose width a position has
    this.drafts = new Array(length).fill(null); // as drawn
    this.classes = new Array(length).fill("");
    this.labels = new Array(length).fill(null);
    this.active = clamp(this.active, 0, Math.max(0, length - 1));
    if (this.tokens.length !== length) {
      this.tokens = Array.from({ length }, (_, position) => this.token(position));
      this.root.replaceChildren(...this.tokens);
    }
    this.name();
    if (length) this.tokens[this.active].tabIndex = 0;
    if (this.selected) this.select(null);
  }

  /** Whether the tokens can be edited. */
  setEditable(editable) {
    this.editable = editable;
    this.root.classList.toggle("da-editable", editable);
    if (editable) this.root.setAttribute("aria-multiselectable", "true");
    else this.root.removeAttribute("aria-multiselectable");
    this.name();
  }

  name() {
    this.root.setAttribute("aria-label", count(this.editable ? "editing" : "tokens", this.recording?.length ?? 0));
  }

  /** Select a range of tokens; null clears the selection. */
  select(from, to = from) {
    const old = this.selected;
    this.selected = from === null ? null : [Math.min(from, to), Math.max(from, to)];
    const inside = (range, p) => Boolean(range) && p >= range[0] && p <= range[1];
    for (const range of [old, this.selected]) {
      for (let p = range?.[0] ?? 0; range && p <= range[1]; p += 1) {
        const on = inside(this.selected, p);
        if (!this.tokens[p]) continue;
        this.tokens[p].setAttribute("aria-selected", `${on}`);
        this.tokens[p].toggleAttribute("data-selected", on);
      }
    }
  }

  /** [first, last] that a command applies to: the selection, or the tokens of the character at the active one. */
  get range() {
    return this.selected ?? (this.frame ? this.recording.sharers(this.frame, this.active) : [this.active, this.active]);
  }

  /** The text of a range. */
  text(first = 0, last = this.tokens.length - 1) {
    return this.texts.slice(first, last + 1).map((text) => text ?? "[MASK]").join("");
  }

  token(position) {
    const chip = make("span", "da-chip");
    const token = make("span", "da-token", { role: "option", tabindex: "-1", "aria-selected": "false" }, "", chip, "");
    token.position = position;
    token.canvas = this;
    return token;
  }

  level(frame, p, colorBy) {
    const { fixed, maskId, total, entropyScale } = this.recording;
    if (frame.ids[p] === maskId || (fixed[p] && frame.fixed[p] && !frame.mine[p])) return -1;
    let share = NaN;
    if (colorBy === "confidence") share = frame.confidence[p];
    if (colorBy === "entropy") share = frame.entropy[p] / entropyScale;
    if (colorBy === "step") share = frame.born[p] / Math.max(1, total);
    return Number.isNaN(share) ? -1 : Math.floor(clamp(share, 0, 0.9999) * LEVELS);
  }

  /**
   * Draw a frame; `fresh`: positions just revealed, `again`: just masked again, `beside`: a frame to compare with.
   * In a replay a mask is as wide as the token that it becomes, so that no other token moves; else as its draft.
   */
  draw(frame, { fresh, again, colorBy, beside = null }) {
    const { length, maskId, eosId, ending } = this.recording;
    this.frame = frame;
    // The frame, the id and the text that give a position its width.
    const from = (p) => (frame.ids[p] === maskId && ending ? ending : frame);
    const drafted = (p) => (frame.ids[p] === maskId ? frame.draft.get(p) ?? maskId : maskId);
    const ids = (p) => (from(p).ids[p] === maskId ? drafted(p) : from(p).ids[p]);
    const draftText = (p) => (drafted(p) === maskId ? null : this.recording.candidate(frame, p, drafted(p)));
    const kept = (p) => (from(p).ids[p] === maskId ? draftText(p) : this.recording.textAt(from(p), p));
    for (let p = 0; p < length; p += 1) {
      const id = frame.ids[p];
      const wide = kept(p);
      const level = this.level(frame, p, colorBy);
      const text = id === maskId ? null : this.recording.textAt(frame, p);
      const draft = draftText(p);
      const remark = this.recording.remark(frame, p);
      const differs = beside !== null && differ(beside.ids[p], id, maskId);
      let name = "da-token";
      if (frame.fixed[p] && id !== maskId) name += frame.mine[p] ? " da-fixed da-mine" : " da-fixed";
      if (id === maskId) name += again.has(p) ? " da-mask da-again" : " da-mask";
      if (id === maskId && wide !== null) name += draft === null ? " da-kept" : " da-kept da-draft";
      if (ids(p) === eosId) name += p > 0 && ids(p - 1) === eosId ? " da-special da-repeat" : " da-special";
      else if (wide === "") name += " da-part da-joined";
      else if (wide !== null && this.recording.shape(wide).blank) name += " da-blank";
      else if (p > 0 && this.recording.joins(kept(p - 1), wide)) name += " da-joined";
      if (p + 1 < length && ids(p) !== eosId && this.recording.joins(wide, kept(p + 1))) name += " da-joins";
      if (level >= 0) name += ` da-l${level}`;
      if (fresh.has(p) && id !== maskId) name += " da-new";
      if (remark) name += " da-breaks";
      if (differs) name += " da-differs";
      if (id !== this.ids[p] || text !== this.texts[p] || wide !== this.wide[p] || draft !== this.drafts[p]) {
        const named = ids(p) === eosId && (p === 0 || ids(p - 1) !== eosId);
        this.write(p, text, wide, drafted(p) === eosId && !named ? END : draft);
        this.drafts[p] = draft;
      }
      this.label(p, draft !== null ? say("drafted", { text: draft.trim() }) : text === null ? say("masked") : text === "" ? say("continued") : this.recording.shape(text).white ? say("blank") : "", [
        frame.mine[p] && id !== maskId ? say("yours") : "", remark && `${say("breaks")}: ${remark}`, differs ? say("differs") : "",
      ]);
      if (name !== this.classes[p]) this.tokens[p].className = this.classes[p] = name;
    }
    this.ids.set(frame.ids);
  }

  write(p, text, wide, draft) {
    const [lead, chip, tail] = this.tokens[p].childNodes;
    this.texts[p] = text;
    this.wide[p] = wide;
    const { lead: space, shown, trailing } = wide ? this.recording.shape(wide) : { lead: "", shown: "", trailing: "" };
    lead.data = space;
    chip.textContent = text === null ? "" : shown;
    if (text === null && shown) chip.dataset.width = shown; // drawn by the style sheet, unseen, unheard and not copied
    else delete chip.dataset.width;
    if (draft === null) {
      delete chip.dataset.draft;
    } else {
      const [text, scale] = fitted(this.recording.shape(draft).shown, shown);
      chip.dataset.draft = text;
      chip.style.setProperty("--da-fit", `${scale}`);
    }
    tail.data = trailing;
  }

  /** The screen reader label: the token's text, unless more is known. */
  label(p, instead, more) {
    const extra = more.filter(Boolean);
    const text = instead || (extra.length ? this.texts[p].trim() : "");
    const label = [text, ...extra].filter(Boolean).join(", ");
    if (label === this.labels[p]) return;
    this.labels[p] = label;
    if (label) this.tokens[p].setAttribute("aria-label", label);
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

  /** The next visible position in direction `step`, 1 or -1. */
  beside(position, step) {
    let p = position + step;
    while (this.tokens[p] && this.tokens[p].offsetParent === null) p += step;
    return this.tokens[p] ? p : position;
  }

  /** The nearest token on the line above (-1) or below (1). */
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

// ---- the card: why this token, at this step; when opened, also its editor ----------------------------

class Card {
  /** `act(command)` is called with the reader's command; `canGuess()`: whether the model can be asked about a mask. */
  constructor(id, act, canGuess) {
    this.root = make("div", "da-card", { id, role: "tooltip", popover: "manual", tabindex: "-1" });
    this.token = null;
    this.isOpen = false;
    this.closing = 0;
    Object.assign(this, { act, canGuess });
    this.root.addEventListener("pointerenter", () => clearTimeout(this.closing));
    this.root.addEventListener("pointerleave", () => this.hideSoon());
    this.root.addEventListener("keydown", (event) => this.onKey(event));
    this.root.addEventListener("focusout", (event) => {
      const to = event.relatedTarget;
      if (this.isOpen && to && !this.root.contains(to)) this.hide();
    });
  }

  /** Show why this token was chosen. An open card does not change. */
  show(token) {
    clearTimeout(this.closing);
    if (this.isOpen) return;
    this.fill(token, this.facts(token.position, token.canvas.recording, token.canvas.frame));
    token.setAttribute("aria-describedby", this.root.id);
  }

  /** Open the card to edit the token, or the selection that contains it. */
  open(token, { toField = false } = {}) {
    this.hide();
    const { recording, frame, range, selected, active } = token.canvas;
    const [first, last] = range;
    const one = !selected || first === last; // one token, or the tokens of one character
    const p = selected ? first : active;
    const name = one ? say("token", { p }) : say("range", { first, last });
    const choose = (id) => this.finish({ do: "choose", id, first: p, last: p });
    const tell = () => (one ? this.facts(p, recording, token.canvas.frame, choose) : [make("div", "da-card-text", {}, name)]);
    const told = make("div", "", {}, ...tell());
    this.retell = () => told.replaceChildren(...tell());
    this.isOpen = true;
    this.root.setAttribute("role", "dialog");
    this.root.setAttribute("aria-label", name);
    this.fill(token, [told, this.form(recording, frame, first, last, one)]);
    if (one && frame.ids[p] === recording.maskId && !recording.alternatives(frame, p).length && this.canGuess()) this.act({ do: "guess" });
    if (toField) this.focusField();
    else this.root.focus({ preventScroll: true });
  }

  /** Move to the field, its text but for the space before it selected. */
  focusField() {
    this.field.focus({ preventScroll: true });
    this.field.setSelectionRange(/^ */.exec(this.field.value)[0].length, this.field.value.length);
  }

  fill(token, nodes) {
    if (this.token !== token) this.unmark();
    this.token = token;
    token.classList.add("da-shown");
    this.root.replaceChildren(...nodes);
    this.root.showPopover?.();
    this.place(token);
  }

  /** The editor of an open card. */
  form(recording, frame, first, last, one) {
    const masked = frame.ids[first] === recording.maskId;
    const before = first > 0 ? recording.text(frame.ids[first - 1]) : "\n";
    // The input is used verbatim, including spaces, so it starts with the space that a word needs.
    const now = !masked ? recording.textAt(frame, first).replaceAll(PENDING, "") : /\s$/.test(before) ? "" : " ";
    this.field = make("input", "da-field", {
      type: "text", "aria-label": say("typeOver"), placeholder: say("typeOver"), autocomplete: "off", spellcheck: "false",
      maxlength: 2000,
    });
    this.field.value = one ? now : /^\s*/.exec(now)[0];
    const pinned = this.allPinned(frame, recording, first, last);
    const button = (text, command, keys) => {
      const node = make("button", "da-plain", { type: "button", "aria-keyshortcuts": keys }, text);
      node.addEventListener("click", () => this.finish(command));
      return node;
    };
    const put = make("button", "da-plain", { type: "submit" }, say("put"));
    const form = make("form", "da-write", {}, this.field, put);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.field.value) this.finish({ do: "type", text: this.field.value });
    });
    const actions = [button(say("clear"), { do: "mask" }, "Delete")];
    if (!this.allMasked(frame, recording, first, last)) {
      actions.unshift(button(say(pinned ? "unpin" : "pin"), { do: pinned ? "unpin" : "pin" }, "P"));
    }
    return make("div", "da-actions", {}, form, make("div", "da-row", {}, ...actions));
  }

  allMasked(frame, recording, first, last) {
    return frame.ids.slice(first, last + 1).every((id) => id === recording.maskId);
  }

  /** Whether every token of a range is pinned; masks are ignored. */
  allPinned(frame, recording, first, last) {
    for (let p = first; p <= last; p += 1) if (!frame.fixed[p] && frame.ids[p] !== recording.maskId) return false;
    return true;
  }

  finish(command) {
    const { canvas } = this.token;
    const [first, last] = canvas.range;
    this.hide();
    canvas.select(null);
    canvas.focus(canvas.active);
    this.act({ first, last, ...command });
  }

  onKey(event) {
    if (!this.isOpen) return;
    event.stopPropagation();
    if (event.target === this.root && /^[^\s1-5]$/u.test(event.key) && !(event.ctrlKey || event.metaKey || event.altKey)) {
      return this.focusField(); // which then receives the key: who types at once means the text
    }
    if (event.key === "Escape") {
      const { canvas } = this.token;
      this.hide();
      canvas.focus(canvas.active);
    } else if (/^[1-5]$/.test(event.key) && event.target !== this.field) {
      this.root.querySelectorAll("button.da-candidate")[Number(event.key) - 1]?.click();
    } else return;
    event.preventDefault();
  }

  /**
   * Place the card inside the viewport: below the canvas, so that it covers no text; else beside the canvas; else below
   * the token, above it or beside it, where there is room: on top of it, it would take the pointer.
   */
  place(token) {
    const anchor = token.childNodes[1].getClientRects()[0] ?? token.getBoundingClientRect();
    const canvas = token.canvas.root.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    const { width, height } = this.root.getBoundingClientRect();
    const fits = (top) => top + height <= clientHeight - 8;
    let left = anchor.left - 16;
    let top = anchor.bottom + 8;
    if (fits(canvas.bottom + 4)) top = canvas.bottom + 4;
    else if (canvas.right + 12 + width <= clientWidth - 8) left = canvas.right + 12;
    else if (!fits(top)) {
      const right = anchor.right + 8;
      if (anchor.top - 16 - height >= 0) top = anchor.top - 8 - height;
      else if (right + width <= clientWidth - 8) left = right;
      else if (anchor.left - 16 - width >= 0) left = anchor.left - 8 - width;
    }
    this.root.style.left = `${clamp(left, 8, Math.max(8, clientWidth - width - 8))}px`;
    this.root.style.top = `${clamp(top, 8, Math.max(8, clientHeight - height - 8))}px`;
  }

  /** On scroll: follow the token while it is visible. */
  move() {
    if (!this.token) return;
    const { top, bottom } = this.token.getBoundingClientRect();
    if (!this.isOpen && (bottom < 0 || top > document.documentElement.clientHeight)) this.hide();
    else this.place(this.token);
  }

  /** After a redraw: update the card. */
  refresh() {
    if (!this.token) return;
    if (!this.isOpen) this.show(this.token);
    else if (this.token.canvas.frame.ids[this.token.position] === this.token.canvas.recording.maskId) this.retell();
  }

  hideSoon() {
    clearTimeout(this.closing);
    if (!this.isOpen) this.closing = setTimeout(() => this.hide(), 140); // long enough to move the pointer to it
  }

  hide() {
    clearTimeout(this.closing);
    if (!this.token) return;
    this.isOpen = false;
    this.root.setAttribute("role", "tooltip");
    this.root.removeAttribute("aria-label");
    this.unmark();
    this.root.hidePopover?.();
  }

  unmark() {
    this.token?.removeAttribute("aria-describedby");
    this.token?.classList.remove("da-shown");
    this.token = null;
  }

  /** The facts about a token. With `choose(id)`, its candidates are buttons. */
  facts(p, recording, frame, choose = null) {
    const id = frame.ids[p];
    const masked = id === recording.maskId;
    const list = make("dl", "da-facts");
    const fact = (name, value) => list.append(make("dt", "", {}, name), make("dd", "", {}, value));
    const birth = recording.birth(frame, p);
    const at = say("atStep", { n: frame.born[p] });
    const came = birth.edits.get(p);
    if (masked && came) fact(say("clearedAt"), at);
    else if (masked && frame.born[p] > recording.first) fact(say("maskedAgainAt"), at);
    else if (masked) fact(say("since"), say("theStart"));
    else if (came === "type") fact(say("typedAt"), at);
    else if (recording.fixed[p] && frame.born[p] === recording.first) fact(say("given"), say("never"));
    else {
      if (came === "choose" || came === "move") fact(say(came === "move" ? "movedAt" : "chosenAt"), at);
      else fact(say("appeared"), say("ofTotal", { n: frame.born[p], total: recording.total }));
      if (!Number.isNaN(frame.confidence[p])) fact(say("probabilityThen"), percent(frame.confidence[p]));
      const rank = birth.why.get(p)?.[0] ?? 1 + recording.alternatives(frame, p).findIndex(([other]) => other === id);
      if (rank > 0) fact(say("rankThen"), rank === 1 ? say("rankFirst") : say("rankOf", { n: rank }));
      if (!Number.isNaN(frame.entropy[p])) fact(say("entropyThen"), say("nats", { n: fixed(frame.entropy[p], 2) }));
      if (frame.mine[p] && came !== "choose") fact(say("pinned"), say("byYou"));
    }
    const [first, last] = recording.sharers(frame, p);
    const part = first < last ? `, ${say("part", { n: p - first + 1, total: last - first + 1 })}` : "";
    const draft = masked && frame.draft.has(p) ? recording.candidate(frame, p, frame.draft.get(p)) : null;
    const nodes = [
      make("div", "da-card-text", {}, ...(draft !== null ? signs(draft) : masked ? [say("masked")] : signs(recording.textAt(frame, first)))),
      make("div", "da-card-where", {}, say("where", { p, id: draft === null ? id : frame.draft.get(p) }) + part), list,
    ];
    const remark = recording.remark(frame, p);
    if (remark) nodes.push(make("p", "da-remark", {}, remark));
    const reason = masked ? "" : recording.reason(frame, p);
    if (reason) nodes.push(make("p", "da-why", {}, reason));
    if (draft !== null) nodes.push(make("p", "da-why", {}, say("draftHint")));
    const rows = recording.alternatives(frame, p);
    if (masked && rows.length) nodes.push(make("p", "da-why", {}, say("guesses")));
    else if (masked && this.canGuess()) nodes.push(make("p", "da-why", {}, say(choose ? "guessing" : "guessHint")));
    if (rows.length) nodes.push(this.bars(rows, id, (other) => recording.candidate(frame, p, other), choose));
    return nodes;
  }

  bars(rows, id, textOf, choose) {
    const others = make("div", choose ? "da-others da-choosing" : "da-others");
    for (const [other, probability] of rows.slice(0, CANDIDATES)) {
      const fill = make("i");
      fill.style.width = `${100 * clamp(probability, 0, 1)}%`;
      const name = other === id ? "da-other da-chosen" : "da-other";
      const cells = [
        make("span", name, {}, ...signs(textOf(other))),
        make("span", "da-meter", { "aria-hidden": "true" }, fill),
        make("span", "da-percent", {}, percent(probability)),
      ];
      if (!choose) {
        others.append(...cells);
        continue;
      }
      const label = say("choose", { text: textOf(other).trim() || textOf(other), p: percent(probability) });
      const button = make("button", "da-candidate", { type: "button", "aria-label": label }, ...cells);
      button.disabled = other === id;
      button.addEventListener("click", () => choose(other));
      others.append(button);
    }
    return others;
  }
}

// ---- the strip: masks, confidence and tokens over the steps, and the present step ---------------------

class Strip {
  constructor(onSeek) {
    const path = (name) => makeSvg("path", { class: name });
    this.parts = { area: path("da-area"), bars: path("da-bars"), curve: path("da-curve"), sure: path("da-sure"), edits: path("da-edits") };
    this.needle = makeSvg("line", { class: "da-head-line", y1: 0, y2: 100 });
    const svg = makeSvg("svg", { viewBox: "0 0 1000 100", preserveAspectRatio: "none", "aria-hidden": "true" },
      ...Object.values(this.parts), this.needle);
    this.root = make("div", "da-strip", { title: say("stripTitle") }, svg);
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
    const wide = 1000 / Math.max(1, recording.total);
    const x = (step) => (step * wide).toFixed(1);
    const y = (share) => (98 - 94 * share).toFixed(1);
    let line = "";
    let sure = "";
    let bars = "";
    let edits = "";
    for (const { step, masks, meanConfidence, revealed, edits: mine } of recording.frames) {
      // A step function: a value holds until the next frame.
      const left = y(masks / Math.max(1, recording.peak));
      line += line ? `H${x(step)}V${left}` : `M${x(step)} ${left}`;
      if (!Number.isNaN(meanConfidence)) sure += sure ? `H${x(step)}V${y(meanConfidence)}` : `M${x(step)} ${y(meanConfidence)}`;
      if (mine.size) edits += `M${x(step)} 0V14`;
      else if (revealed.length) {
        const tall = 40 * (revealed.length / recording.most);
        bars += `M${x(step - 0.8)} 100v${-tall.toFixed(1)}h${(0.6 * wide).toFixed(1)}V100Z`;
      }
    }
    const end = x(recording.last);
    this.parts.curve.setAttribute("d", line);
    this.parts.area.setAttribute("d", line ? `${line}V100H${x(recording.first)}Z` : "");
    this.parts.sure.setAttribute("d", sure ? `${sure}H${end}` : "");
    this.parts.bars.setAttribute("d", bars);
    this.parts.edits.setAttribute("d", edits);
  }

  point(recording, step) {
    const x = (1000 * step) / Math.max(1, recording.total);
    this.needle.setAttribute("x1", x);
    this.needle.setAttribute("x2", x);
  }
}

// ---- the controls: built once, wired by Player ------------------------------------------------------

function colorChoice(name, value, onChange) {
  const group = make("fieldset", "da-choice", { "aria-label": say("colorBy") });
  for (const key of [...Object.keys(SCALES), "off"]) {
    const input = make("input", "", { type: "radio", name, value: key });
    input.checked = key === value;
    input.addEventListener("change", () => onChange(key));
    group.append(make("label", "", {}, input, say(key)));
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

/** The legend of the colors and symbols on the screen. */
function legend(colorBy, recording, { again = false, mine = false, breaks = false, drafts = false } = {}) {
  const root = make("div", "da-legend");
  if (SCALES[colorBy]) {
    const swatches = make("span", "da-swatches", { "aria-hidden": "true" });
    for (let level = 0; level < LEVELS; level += 1) {
      const swatch = make("i");
      swatch.style.background = `var(--da-${SCALES[colorBy]}${level})`;
      swatches.append(swatch);
    }
    const ends = {
      confidence: [say("scaleProbability"), "1"], step: [say("scaleStep"), `${recording?.total ?? 0}`],
      entropy: [say("scaleEntropy"), say("scaleNats", { n: recording?.entropyScale ?? ENTROPIES[0] })],
    };
    const [from, to] = ends[colorBy];
    root.append(make("span", "da-scale", {}, from, swatches, to));
  }
  const keys = [["mask", "masked"], ["fixed", "given"]];
  if (drafts) keys.push(["draft", "keyDraft"]);
  if (mine) keys.push(["mine", "yours"]);
  if (again) keys.push(["again", "again"]);
  if (breaks) keys.push(["breaks", "breaks"]);
  for (const [key, text] of keys) {
    root.append(make("span", `da-key da-key-${key}`, {}, make("i", "", { "aria-hidden": "true" }), say(text)));
  }
  return root;
}

// ---- two endings: the canvas, and beside it the run before a branch ---------------------------------

class Pair {
  constructor(main, onSwap) {
    this.main = main;
    this.canvas = new TokenCanvas();
    this.recording = null;
    this.index = 0;
    this.count = make("div", "da-differ", { role: "status" });
    const swap = make("button", "da-plain", { type: "button" }, say("swap"));
    swap.addEventListener("click", onSwap);
    this.label = make("div", "da-about");
    const head = (name, line, ...more) => make("div", "da-ending-head", {}, make("div", "da-title", {}, make("div", "da-name", {}, name), line), ...more);
    this.other = make("section", "da-ending", { "aria-label": say("other") },
      head(say("other"), this.label, swap), this.canvas.root);
    this.head = head(say("now"), this.count);
    this.head.hidden = true;
    this.root = make("div", "da-pair", {}, make("section", "da-ending", { "aria-label": say("now") }, this.head, main.root));
  }

  /** Show another recording of the same length beside the run; null hides it. */
  set(recording, colorBy) {
    this.recording = recording;
    this.head.hidden = !recording;
    this.root.classList.toggle("da-two", Boolean(recording));
    if (!recording) {
      this.other.remove();
      return;
    }
    this.root.append(this.other);
    this.canvas.reset(recording);
    for (const key of Object.keys(SCALES)) this.canvas.root.classList.toggle(`da-by-${key}`, key === colorBy);
  }

  /** The frame to show beside the run's frame of that step; null without another ending. */
  at(step) {
    return this.recording?.frames[this.recording.indexOf(step)] ?? null;
  }

  draw(frame, main, colorBy) {
    this.canvas.draw(frame, { fresh: new Set(), again: new Set(), colorBy, beside: main });
    const total = frame.ids.length;
    const n = frame.ids.reduce((sum, id, p) => sum + differ(id, main.ids[p], this.recording.maskId), 0);
    const later = frame.masks || main.masks ? "SoFar" : "";
    const text = n === 0 ? say(`same${later}`) : count(`differ${later}`, n, { total });
    if (this.count.textContent !== text) this.count.textContent = text;
    this.label.textContent = count("sentence", frame.masks, { step: frame.step, total: this.recording.total, masks: frame.masks });
  }
}

// ---- steering: the reader's controls of the running model -------------------------------------------

class SteeringBar {
  constructor(act) {
    const button = (key, command, keys) => {
      const node = make("button", "da-plain", { type: "button", "aria-keyshortcuts": keys }, say(key));
      node.addEventListener("click", () => act({ do: command }));
      return node;
    };
    this.go = button("resume", "go", "R");
    this.step = button("oneStep", "step", ".");
    this.undo = button("undo", "undo", "U");
    this.hint = make("span", "da-hint");
    this.root = make("div", "da-steer", { role: "group", "aria-label": say("model") }, this.go, this.step, this.undo, this.hint);
    const rows = WORDS.keys.flatMap(([key, what]) => [make("dt", "", {}, make("kbd", "", {}, key)), make("dd", "", {}, what)]);
    this.help = make("details", "da-help", {}, make("summary", "", {}, say("help")), make("dl", "da-keys", {}, ...rows));
  }

  /** Enable the commands that are possible now. */
  show(player, frame) {
    const { recording, steerable } = player;
    this.help.hidden = !steerable;
    this.root.hidden = !steerable || player.playing;
    if (this.root.hidden || !frame) return;
    const back = player.index < player.newest;
    const live = recording.live;
    // A run that has not begun is started where the host starts runs.
    this.go.hidden = this.step.hidden = live || !frame.masks || player.newest === 0;
    this.undo.hidden = back || !recording.frames[player.newest].edits.size;
    const label = back ? say("goOnFrom", { step: frame.step }) : say("resume");
    if (this.go.textContent !== label) this.go.textContent = label;
    const hint = back ? say("branchHint", { step: frame.step }) : say("hint");
    if (this.hint.textContent !== hint) this.hint.textContent = hint;
  }
}

// ---- one player -------------------------------------------------------------------------------------

class Player {
  constructor(element, options = {}) {
    this.id = nextId();
    Object.assign(WORDS, options.words);
    this.options = { controls: true, colorBy: "confidence", empty: say("empty"), ...options };
    this.colorBy = this.options.colorBy;
    this.recording = null;
    this.index = 0; // the frame to show
    this.drawn = -1; // the frame on the screen
    this.follow = true; // show the newest frame while a run is live
    this.playing = false;
    this.steerable = false; // whether the host can change the run on the screen
    this.run = null; // the host's name of the run
    this.speed = "1";
    this.stale = new Set(); // "frame" and "strip": the parts to redraw
    this.lastDraw = -Infinity;
    this.abort = new AbortController();
    this.build(element);
    if (this.options.trace) this.load(this.options.trace);
    else this.refresh();
  }

  build(element) {
    this.canvas = new TokenCanvas();
    const canGuess = () => this.steerable && !this.recording.live && this.index === this.newest;
    this.card = new Card(`da-card-${this.id}`, (command) => this.steer(command), canGuess);
    this.pair = new Pair(this.canvas, () => this.steer({ do: "swap" }));
    this.status = make("div", "da-sr", { role: "status", "aria-live": "polite" });
    this.problem = make("div", "da-problem", { role: "alert", hidden: "" });
    this.root = make("div", "da-player", { role: "group", "aria-label": say("untitled") });
    if (this.options.height) this.root.style.setProperty("--da-height", this.options.height);
    this.empty = make("div", "da-empty", {}, this.options.empty);
    const head = this.buildHead();
    const foot = this.buildFoot();
    this.body = [head, this.pair.root, foot]; // attached when there is something to show
    if (this.options.folded) {
      this.body.shift();
      foot.append(this.fold(head));
    }
    if (!this.options.controls) this.body = [this.canvas.root];
    this.root.append(this.problem, this.empty, this.card.root, this.status);
    this.setColor(this.colorBy);
    this.listen();
    element.append(this.root);
  }

  buildHead() {
    this.name = make("span", "da-name");
    this.liveMark = make("span", "da-live", { hidden: "" }, say("live"));
    this.about = make("div", "da-about");
    const special = make("input", "", { type: "checkbox" });
    special.checked = true;
    special.addEventListener("change", () => this.pair.root.classList.toggle("da-no-special", !special.checked));
    const settings = make("div", "da-settings", {}, make("label", "da-check", {}, special, say("special")),
      colorChoice(`da-color-${this.id}`, this.colorBy, (key) => this.setColor(key)));
    return make("div", "da-head", {}, make("div", "da-title", {}, this.name, this.liveMark, this.about), settings);
  }

  buildFoot() {
    this.strip = new Strip((share) => this.seek(Math.round(share * this.recording.total)));
    this.scrubber = make("input", "da-scrubber", { type: "range", min: 0, max: 0, step: 1, value: 0, "aria-label": say("step") });
    this.scrubber.addEventListener("input", () => this.seek(Number(this.scrubber.value)));
    this.buttons = {
      start: iconButton("start", say("toStart"), () => this.seek(0)),
      back: iconButton("back", say("back"), () => this.stepBy(-1)),
      play: iconButton("play", say("play"), () => this.toggle()),
      forward: iconButton("forward", say("forward"), () => this.stepBy(1)),
      end: iconButton("end", say("toEnd"), () => this.seek(Infinity)),
    };
    this.buttons.play.classList.add("da-play");
    const speeds = [...SPEEDS.map((s) => [`${s}`, `${s}\u00d7`]), ["real", say("realTime")]];
    this.speedSelect = select(say("speed"), speeds, this.speed, (value) => this.setSpeed(value));
    this.jump = make("button", "da-jump", { type: "button", hidden: "" }, say("toNewest"));
    this.jump.addEventListener("click", () => this.seek(Infinity));
    this.stepText = make("span");
    this.timeText = make("small");
    this.legend = make("div");
    this.steering = this.options.steer ? new SteeringBar((command) => this.steer(command)) : null;
    const key = (name) => make("span", `da-key da-key-${name}`, {}, make("i", "", { "aria-hidden": "true" }), say(name));
    this.stripLegend = make("div", "da-strip-legend", {}, ...["stripMasks", "stripConfidence", "stripRevealed", "stripEdits"].map(key));
    return make("div", "da-foot", {}, ...(this.steering ? [this.steering.root] : []), this.strip.root, this.scrubber,
      make("div", "da-bar", {}, make("div", "da-buttons", {}, ...Object.values(this.buttons)), this.speedSelect,
        make("div", "da-state", {}, this.stepText, this.timeText), this.jump),
      (this.legends = make("div", "da-bar da-legends", {}, this.stripLegend, this.legend)),
      ...(this.steering ? [this.steering.help] : []));
  }

  /** Everything but the text, the scrubber and the buttons, to be unfolded. */
  fold(head) {
    const aside = [head, this.speedSelect, this.strip.root, this.legends, ...(this.steering ? [this.steering.help] : [])];
    return make("details", "da-help da-fold", {}, make("summary", "", {}, say("more")), ...aside);
  }

  listen() {
    const signal = this.abort.signal;
    const tokens = this.options.controls ? this.pair.root : this.canvas.root;
    const tokenOf = (event) => event.target.closest?.(".da-token");
    const reveal = (event) => tokenOf(event) && !this.dragging && this.showCard(tokenOf(event));
    tokens.addEventListener("pointerover", reveal, { signal });
    tokens.addEventListener("pointerout", () => this.card.hideSoon(), { signal });
    tokens.addEventListener("focusin", (event) => {
      const token = tokenOf(event);
      if (!token) return;
      token.canvas.activate(token.position);
      reveal(event);
    }, { signal });
    tokens.addEventListener("focusout", () => this.card.hideSoon(), { signal });
    tokens.addEventListener("pointerdown", (event) => this.press(event), { signal });
    tokens.addEventListener("copy", (event) => this.copy(event), { signal });
    window.addEventListener("pointerdown", (event) => {
      if (this.card.isOpen && !this.card.root.contains(event.target)) this.card.hide();
    }, { signal, capture: true });
    window.addEventListener("scroll", () => this.card.move(), { signal, passive: true, capture: true });
    this.root.addEventListener("keydown", (event) => this.onKey(event), { signal });
    claimKeys(this.root, signal);
  }

  /** Pointer down on a token: a click opens it, a drag selects and masks, Shift extends the selection. */
  press(event) {
    const token = event.target.closest?.(".da-token");
    const { canvas } = this;
    if (!this.steerable || event.button !== 0 || token?.canvas !== canvas) return;
    event.preventDefault(); // prevents text selection
    const from = event.shiftKey ? canvas.active : token.position;
    let to = token.position;
    let dragged = false; // also within one token
    const follow = (move) => {
      const over = document.elementFromPoint(move.clientX, move.clientY)?.closest?.(".da-token");
      const began = !dragged && Math.hypot(move.clientX - event.clientX, move.clientY - event.clientY) > DRAG_PX;
      dragged ||= began;
      if (over?.canvas !== canvas || (over.position === to && !began)) return;
      to = over.position;
      this.card.hide();
      canvas.select(from, to);
    };
    this.dragging = new AbortController();
    const { signal } = this.dragging;
    const end = (done) => {
      this.dragging.abort();
      this.dragging = null;
      if (!done) canvas.select(null);
      else if (event.shiftKey) this.extend(from, to);
      else if (to === from && !dragged) this.openAt(from);
      else {
        const [first, last] = canvas.selected ?? [from, to];
        canvas.select(null);
        canvas.focus(first);
        this.steer({ do: "mask", first, last });
      }
    };
    window.addEventListener("pointermove", follow, { signal });
    window.addEventListener("pointerup", () => end(true), { signal });
    window.addEventListener("pointercancel", () => end(false), { signal });
    window.addEventListener("keydown", (key) => key.key === "Escape" && end(false), { signal, capture: true });
    if (event.shiftKey) canvas.select(from, to);
  }

  /** Open the card of a token, or of the selection that contains it. */
  openAt(position, options) {
    const { canvas } = this;
    const [first, last] = canvas.range;
    if (position < first || position > last) canvas.select(null);
    canvas.focus(position);
    this.card.open(canvas.tokens[position], options);
  }

  /** Extend the selection to a token and move there. */
  extend(from, to) {
    this.canvas.select(from, to);
    this.canvas.focus(to);
  }

  copy(event) {
    const canvas = event.target.closest?.(".da-token")?.canvas;
    if (!canvas?.recording || !window.getSelection().isCollapsed) return;
    event.clipboardData.setData("text/plain", canvas.text(...(canvas.selected ?? [])));
    event.preventDefault();
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.options.controls) return;
    const { target, key } = event;
    const canvas = target.closest(".da-token")?.canvas;
    if (canvas) {
      if (!this.canvasKey(key, canvas, event.shiftKey)) return;
    } else if (key === "Escape") {
      if (!this.card.token) return;
      this.card.hide();
    } else if (key === " " && !target.matches("button, summary, select, input:not([type=range])")) {
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

  canvasKey(key, canvas = this.canvas, shift = false) {
    const at = canvas.active;
    const moves = {
      ArrowRight: () => canvas.beside(at, 1), ArrowLeft: () => canvas.beside(at, -1),
      ArrowDown: () => canvas.across(at, 1), ArrowUp: () => canvas.across(at, -1),
      Home: () => canvas.beside(-1, 1), End: () => canvas.beside(canvas.tokens.length, -1),
    };
    const editing = this.steerable && canvas === this.canvas;
    if (moves[key]) {
      const to = moves[key]();
      if (editing && shift) {
        const [first, last] = canvas.selected ?? [at, at];
        this.extend(at === first && first !== last ? last : first, to);
      } else {
        if (canvas.selected) canvas.select(null);
        canvas.focus(to);
      }
    } else if (key === "Escape") {
      if (!this.card.token && !canvas.selected) return false;
      this.card.hide();
      canvas.select(null);
    } else if (editing && this.editKey(key)) return true;
    else if (key === " ") this.toggle();
    else return false;
    return true;
  }

  /** Handle a key that changes the run; false for other keys. */
  editKey(key) {
    const { canvas, card } = this;
    const [first, last] = canvas.range;
    const { recording, frame } = canvas;
    const one = canvas.selected ? first : canvas.active;
    const candidate = Number(key) >= 1 && !(canvas.selected && first < last) ? recording.alternatives(frame, one)[Number(key) - 1] : null;
    const commands = {
      Delete: () => this.steer({ do: "mask", first, last }),
      p: () => this.steer({ do: card.allPinned(frame, recording, first, last) ? "unpin" : "pin", first, last }),
      Enter: () => this.openAt(canvas.active, { toField: true }),
      u: () => this.steer({ do: "undo" }),
      r: () => recording.live || this.steer({ do: "go" }),
      ".": () => recording.live || this.steer({ do: "step" }),
    };
    commands.Backspace = commands.Delete;
    commands.F2 = commands.Enter;
    const command = commands[key.length === 1 ? key.toLowerCase() : key];
    if (command) command();
    else if (candidate) this.steer({ do: "choose", first: one, last: one, id: candidate[0] });
    else if (key === " " && recording.live) this.steer({ do: "pause" });
    else return false;
    if (command === commands.Delete || key === "p") canvas.select(null);
    return true;
  }

  /** Send a command to the host, with the present step. */
  steer(command) {
    if (!this.steerable) return;
    const { recording } = this;
    const following = this.index === this.newest;
    this.options.steer({ run: this.run, at: following ? null : recording.frames[this.index].step, ...command });
  }

  showCard(token) {
    if (token.canvas.frame) this.card.show(token);
  }

  // -- input --

  /** Show a whole trace (or a feed message with a header), from its last frame. */
  load(trace) {
    this.pause();
    this.guard(() => {
      check(trace);
      this.adopt(recordingFrom(trace));
      this.index = this.newest;
    });
    if (this.options.autoplay && !reducedMotion()) this.play();
    return this;
  }

  /** Add frames to the present run; a header starts a new run. */
  append(frames, header = null, { vocab = {}, done = false, ...aside } = {}) {
    this.guard(() => {
      if (header) this.adopt(recordingFrom({ header, vocab: header.vocab, frames: [], done: false }));
      if (!this.recording) return; // joined late: the next message with a header has everything
      this.recording.learn(vocab);
      const reading = this.recording.frames[this.index]?.step ?? 0;
      for (const frame of frames) this.recording.add(frame);
      this.recording.note({ done, ...aside });
      this.aside(aside);
      this.index = this.follow ? this.newest : this.recording.indexOf(reading);
      this.mark("frame", "strip");
      if (header && aside.play && !reducedMotion()) this.play();
    });
    return this;
  }

  /** Apply the state of the run: whether it can be edited, and its other ending. */
  aside({ run = null, steer = false, other }) {
    this.run = run;
    this.steerable = Boolean(steer && this.options.steer && this.options.controls);
    if (this.canvas.editable !== this.steerable) this.canvas.setEditable(this.steerable);
    if (other !== undefined) this.pair.set(other && recordingFrom(other), this.colorBy);
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
    this.aside({ other: null });
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
    this.problem.textContent = say("giveUp", { why: error.message });
    this.problem.hidden = false;
    this.empty.remove();
  }

  describe() {
    const { model, architecture, strategy, temperature, seed } = this.recording.meta;
    this.name.textContent = this.options.title ?? model ?? "";
    const facts = [
      architecture !== model && architecture, strategy, this.recording.total > 0 && count("steps", this.recording.total),
      temperature != null && say("temperature", { n: temperature }), seed != null && say("seed", { n: seed }),
      count("tokens", this.recording.length),
    ];
    const about = facts.filter(Boolean).join(" \u00b7 ");
    if (this.about.textContent !== about) this.about.textContent = about;
  }

  // -- navigation --

  get newest() {
    return Math.max(0, (this.recording?.frames.length ?? 0) - 1);
  }

  /** Go to a step; `Infinity` is the newest. */
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

  /** Go to `ms` of the run's own time; for an external clock. */
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

  /** The symbols that occur in this run, beyond masks and given tokens. */
  get signs() {
    const frames = this.recording?.frames ?? [];
    return {
      again: frames.some((frame) => frame.remasked.length), mine: frames.some((frame) => frame.edits.size),
      breaks: (this.recording?.remarks.at.size ?? 0) > 0, drafts: frames.some((frame) => frame.draft.size),
    };
  }

  setSpeed(speed) {
    this.speed = speed;
    this.rewindClock();
  }

  setColor(colorBy) {
    this.colorBy = colorBy;
    for (const canvas of [this.canvas, this.pair.canvas]) {
      for (const key of Object.keys(SCALES)) canvas.root.classList.toggle(`da-by-${key}`, key === colorBy);
    }
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

  /** Start the playback clock: the position and the time of the start. */
  rewindClock() {
    this.clockStart = performance.now();
    this.clockIndex = this.index;
  }

  tick(now) {
    const passed = Math.max(0, now - this.clockStart); // an animation frame's time may precede the click
    const frames = this.recording.frames;
    this.index = this.speed === "real" && this.recording.elapsed > 0
      ? Math.max(this.index, this.recording.indexAt(frames[this.clockIndex].elapsed + passed))
      : Math.min(this.newest, this.clockIndex + Math.floor((passed * (Number(this.speed) || 1)) / STEP_MS));
    if (this.index < this.newest) return;
    this.follow = true;
    this.playing = false;
    if (this.recording.done) this.announce();
  }

  /** Announce the present step to screen readers, but not during playback. */
  announce() {
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => { this.status.textContent = this.sentence(); }, 250);
  }

  sentence() {
    const frame = this.recording?.frames[this.index];
    if (!frame) return "";
    return count("sentence", frame.masks, { step: frame.step, total: this.recording.total, masks: frame.masks });
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
      const fresh = legend(this.colorBy, recording, this.signs);
      this.legend.replaceWith(fresh);
      this.legend = fresh;
      this.stripLegend?.classList.toggle("da-no-edits", !this.signs.mine);
    }
    this.stale.clear();
    this.drawControls(frame);
    if (frame) this.options.onDraw?.(this, frame);
    if (frame) this.root.dispatchEvent(new CustomEvent("da-draw", { bubbles: true, detail: { player: this, frame } }));
  }

  drawTokens(frame) {
    const { frames } = this.recording;
    // Playback may skip frames; tokens that these revealed still count as fresh.
    const from = this.drawn >= 0 && this.index > this.drawn && (this.playing || this.follow || !this.options.controls)
      ? this.drawn + 1 : this.index;
    const fresh = new Set();
    for (let i = from; i <= this.index; i += 1) for (const p of frames[i].revealed) fresh.add(p);
    const beside = this.pair.at(this.index === this.newest ? Infinity : frame.step);
    this.canvas.draw(frame, { fresh, again: new Set(frame.remasked), colorBy: this.colorBy, beside });
    if (beside) this.pair.draw(beside, frame, this.colorBy);
    this.drawn = this.index;
    this.card.refresh();
  }

  drawControls(frame) {
    const recording = this.recording;
    const total = recording?.total ?? 0;
    const step = frame?.step ?? 0;
    const live = Boolean(recording?.live);
    this.scrubber.max = total;
    this.scrubber.value = step;
    this.scrubber.style.setProperty("--da-played", `${total ? (100 * step) / total : 0}%`);
    this.scrubber.setAttribute("aria-valuetext", [this.sentence(), ...(frame ? this.measures(frame) : [])].join(", "));
    if (recording) {
      this.strip.point(recording, step);
      this.describe();
    }
    this.stepText.textContent = this.sentence();
    this.timeText.textContent = frame ? this.timing(frame) : "";
    this.liveMark.hidden = !live;
    this.jump.hidden = !live || this.follow || this.playing;
    setIcon(this.buttons.play, this.playing ? "pause" : "play", say(this.playing ? "pause" : "play"));
    this.steering?.show(this, frame);
    this.buttons.play.disabled = this.scrubber.disabled = this.newest === 0;
    this.buttons.start.disabled = this.buttons.back.disabled = this.index === 0;
    this.buttons.end.disabled = this.buttons.forward.disabled = this.index === this.newest;
  }

  /** The strip's values at this step, in words. */
  measures(frame) {
    const sure = Number.isNaN(frame.meanConfidence) ? [] : [say("meanConfidence", { p: percent(frame.meanConfidence) })];
    return frame.step === this.recording.first ? sure : [say("revealed", { n: frame.revealed.length }), ...sure];
  }

  timing(frame) {
    const pieces = this.measures(frame);
    if (!Number.isNaN(frame.t) && !this.options.folded) pieces.push(`t = ${fixed(frame.t, 3)}`);
    if (!Number.isNaN(frame.nfe)) pieces.push(count("passes", frame.nfe));
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
  if (message?.version !== VERSION) {
    throw new Error(`version ${message?.version} was written by another release; this player reads version ${VERSION}`);
  }
}

/** One player inside `element`. Options: trace, title, colorBy, controls, height (a CSS length), empty, onDraw. */
export function mount(element, options = {}) {
  return new Player(element, options);
}

// ---- the race: several players, one clock -----------------------------------------------------------

/**
 * Replay runs side by side at true relative speed. `lanes` is a list of {label, note, trace}; the runs'
 * times are the sums of their frames' ms. Options: slow (how many times slower than real time), verdict (text at the end), tied (no places), autoplay, colorBy.
 * Returns {seek(ms), play(), pause(), duration, players, destroy()}.
 */
export function race(element, lanes, options = {}) {
  return new Race(element, lanes, options);
}

class Race {
  constructor(element, lanes, { slow = null, verdict = "", tied = false, autoplay = true, colorBy = "confidence" } = {}) {
    this.said = verdict;
    this.tied = tied; // too close to call: no lane is first
    this.colorBy = colorBy;
    this.time = 0;
    this.playing = false;
    this.root = make("div", "da-player da-race", { role: "group", "aria-label": say("race") });
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
    this.button = iconButton("play", say("play"), () => this.toggle());
    this.button.classList.add("da-play");
    this.scrubber = make("input", "da-scrubber", {
      type: "range", min: 0, max: Math.max(1, this.duration), step: "any", value: 0, "aria-label": say("time"),
    });
    this.scrubber.addEventListener("input", () => this.seek(Number(this.scrubber.value)));
    const name = (s) => (s === 1 ? say("realTime") : s < 1 ? say("slower", { n: Math.round(1 / s) }) : say("faster", { n: s }));
    const speeds = [...new Set([...RACE_SPEEDS, Number(this.speed)])].sort((a, b) => a - b);
    this.speedSelect = select(say("speed"), speeds.map((s) => [`${s}`, name(s)]), this.speed, (value) => {
      this.speed = value;
      this.rewindClock();
      this.show(this.time);
    });
    this.state = make("div", "da-state");
    this.verdict = make("div", "da-verdict", { role: "status", "aria-live": "polite" });
    return make("div", "da-race-foot", {}, this.scrubber, make("div", "da-bar", {},
      make("div", "da-buttons", {}, iconButton("start", say("toStart"), () => this.seek(0)), this.button,
        iconButton("end", say("toEnd"), () => this.seek(this.duration))),
      this.speedSelect, this.state, this.verdict), make("div", "da-bar", {},
      colorChoice(`da-color-${nextId()}`, this.colorBy, (key) => this.setColor(key)), this.legend));
  }

  setColor(colorBy) {
    this.colorBy = colorBy;
    for (const player of this.players) player.setColor(colorBy);
    const { recording } = this.players[0] ?? {};
    const fresh = legend(colorBy, recording, { again: this.players.some((player) => player.signs.again) });
    this.legend.replaceWith(fresh);
    this.legend = fresh;
  }

  /** The fastest available speed, at most real time, at which the race takes long enough to watch. */
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
    const elapsed = say("timeOf", { time: duration(ms), all: duration(this.duration) });
    this.scrubber.setAttribute("aria-valuetext", elapsed);
    const slower = Math.round(1 / Number(this.speed));
    this.state.textContent = slower > 1 ? `${elapsed} \u00b7 ${say("slowMotion", { n: slower })}` : elapsed;
    setIcon(this.button, this.playing ? "pause" : "play", say(this.playing ? "pause" : "play"));
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
    const ordinal = WORDS.places[place] ?? `${place + 1}`;
    lane.root.classList.toggle("da-done", done);
    lane.bar.style.width = `${player.duration ? (100 * Math.min(ms, player.duration)) / player.duration : 0}%`;
    const time = duration(Math.min(ms, player.duration));
    lane.clock.textContent = done && !this.tied ? say("placed", { place: ordinal, time }) : time;
  }

  result() {
    if (this.said) return this.said;
    const order = [...this.lanes].sort((a, b) => a.player.duration - b.player.duration);
    const [first, ...rest] = order;
    if (!rest.length) return say("took", { name: first.label, time: duration(first.player.duration) });
    const ratio = ({ player }) => fixed(player.duration / Math.max(1e-9, first.player.duration), 2);
    const others = rest.map((lane) => say("behind", { name: lane.label, n: ratio(lane) })).join("; ");
    return say("won", { name: first.label, others });
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

/** A function that shows any message in `element`: a trace, part of one, or a race. */
export function receive(element, options = {}) {
  let shown = null; // a Player or a Race
  let run = null;
  let turn = -1; // of a steered run: messages of a lower turn are ignored
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
      shown = race(element, message.lanes, { ...options, slow: message.slow, verdict: message.verdict, tied: message.tied });
    } else if (message.schema === "diffuapriel-feed") {
      check(message);
      const header = message.run !== run ? message.header : null;
      if (message.run !== run && (!header || message.turn < turn)) return; // joined late: wait for a header
      run = message.run;
      turn = message.turn ?? turn;
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
export function bindGradio({ element, props, watch, trigger }, options = {}) {
  const host = element.querySelector(".da-host") ?? element;
  host.replaceChildren();
  // Gradio has one queue per event: "submit" runs the model, "select" asks it once, "input" changes the canvas at once.
  const event = (command) => (RUN_COMMANDS.has(command.do) ? "submit" : command.do === "guess" ? "select" : "input");
  const steer = options.steer ? (command) => trigger(event(command), command) : null;
  const take = receive(host, { ...options, steer });
  const read = () => {
    const value = props.value;
    if (!value) return;
    // An object arrives as a deep proxy with slow reads: copy it once.
    take(typeof value === "string" ? JSON.parse(value) : JSON.parse(JSON.stringify(value)));
  };
  watch("value", read);
  read();
  return take;
}

/** anywidget: `message` is the newest message; `snapshot_id` names the static output that this player replaces. */
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

// An exported file has its trace in the page. Elsewhere this element does not exist.
const embedded = typeof document === "undefined" ? null : document.querySelector('script#trace[type="application/json"]');
if (embedded) {
  const words = JSON.parse(document.querySelector("script#words")?.textContent || "{}");
  const host = document.querySelector("#player") ?? document.body;
  receive(host, { height: "none", autoplay: true, words })(JSON.parse(embedded.textContent));
}
