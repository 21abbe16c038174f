// A race of long canvases: one picture per model, one pixel per token, masks turning into color, on one clock. Under the
// pointer, and with the arrow keys, a lens shows the words. `props.value` is JSON text, see `pixels_message` in
// app/race/replay.py. Token text enters by textContent and in no other way.
const host = element.querySelector(".da-host");
const FLASH_MS = 350; // how long a new token stays bright, on the reader's clock
const SHORTEST_S = 6; // a race shorter than this is replayed in slow motion,
const LONGEST_S = 30; // and a longer one faster than it was
const SPEEDS = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100];
const WORDS_AROUND = 7; // tokens that the lens shows before and after its own
const TINTS = 8; // shades of a lane's color, so that different tokens look different
const ICONS = { play: "M8 5v14l11-7z", pause: "M7 5h4v14H7zM13 5h4v14h-4z", start: "M6 6h2v12H6zM18 6l-8.5 6 8.5 6z",
  end: "M16 6h2v12h-2zM6 6l8.5 6L6 18z" };
let race = null;
let written = null; // numbers in the language of the page: whole ones, and ones with a decimal

const make = (tag, className = "", attributes = {}, ...children) => {
  const node = document.createElement(tag);
  node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

const icon = (name) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
};

const uint32 = (text) => new Uint32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
const bytes = (text) => Uint8Array.from(text.split(/\\x([0-9a-f]{2})/).flatMap((part, i) =>
  (i % 2 ? [Number.parseInt(part, 16)] : [...new TextEncoder().encode(part)])));
/** Texts of tokens as characters: one of several tokens stands in the last of them. */
const characters = (texts) => {
  const decoder = new TextDecoder();
  return texts.map((text, i) => decoder.decode(bytes(text), { stream: i + 1 < texts.length }));
};
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (hole, name) => `${values[name] ?? hole}`);
const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : ms < 60000 ? `${written.tenths.format(ms / 1000)} s`
  : `${Math.floor(ms / 60000)} min ${Math.floor((ms % 60000) / 1000)} s`);
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const blend = (a, b, share) => a.map((value, i) => Math.round(value + (b[i] - value) * share));
const pixel = ([red, green, blue]) => (0xff000000 | (blue << 16) | (green << 8) | red) >>> 0; // little-endian RGBA
const isDark = () => document.body.classList.contains("dark") || element.closest(".dark") !== null;

/** The canvas of one model: which token is where, and its picture. */
class Lane {
  constructor({ label, note, color, recording }, vocab, words) {
    const { length, counts, ms, mask_id: mask } = recording;
    Object.assign(this, { label, color, length, counts, mask, vocab, words });
    this.positions = uint32(recording.positions);
    this.tokens = uint32(recording.ids);
    let time = 0;
    let end = 0;
    this.times = ms.map((step) => (time += step)); // when each frame appears
    this.ends = counts.map((count) => (end += count)); // of its changes
    this.duration = time;
    this.side = Math.ceil(Math.sqrt(length));
    this.rows = Math.ceil(length / this.side);
    this.canvas = make("canvas", "", { width: this.side, height: this.rows });
    this.context = this.canvas.getContext("2d");
    this.image = this.context.createImageData(this.side, this.rows);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.frame = make("div", "da-pixel-frame", { tabindex: 0, role: "slider", "aria-label": fill(words.canvas, { label }),
      "aria-valuemin": 0, "aria-valuemax": length - 1, "aria-valuenow": 0 }, this.canvas, make("i", "da-pixel-mark"));
    this.clock = make("span", "da-clock");
    this.bar = make("i");
    this.state = make("div", "da-lane-note");
    this.root = make("section", "da-lane", { "aria-label": label },
      make("div", "da-lane-head", {}, make("span", "da-lane-name", {}, label), make("div", "da-lane-note", {}, note),
        this.clock),
      make("div", "da-progress", { "aria-hidden": "true" }, this.bar), this.frame, this.state);
    this.rewind();
  }

  rewind() {
    this.shown = -1; // the last frame on the picture
    this.left = this.length;
    this.ids = new Uint32Array(this.length).fill(this.mask);
    this.born = new Float64Array(this.length).fill(-Infinity); // when its present token appeared to the reader
  }

  /** Apply the frames up to a time of the race; `now` is the reader's clock, or -Infinity for no flash. */
  advance(ms, now) {
    if (this.shown >= 0 && ms < this.times[this.shown]) this.rewind();
    while (this.shown + 1 < this.times.length && this.times[this.shown + 1] <= ms) {
      this.shown += 1;
      const end = this.ends[this.shown];
      for (let i = end - this.counts[this.shown]; i < end; i += 1) {
        const at = this.positions[i];
        this.left += (this.tokens[i] === this.mask) - (this.ids[at] === this.mask);
        this.ids[at] = this.tokens[i];
        this.born[at] = now;
      }
    }
  }

  paint(now) {
    const dark = isDark();
    if (dark !== this.dark) {
      this.dark = dark;
      const own = rgb(this.color);
      const far = dark ? [255, 255, 255] : [0, 0, 0];
      this.tints = Array.from({ length: TINTS }, (_, i) => blend(own, i % 2 ? far : [255, 255, 255], 0.05 * i));
      this.solid = Uint32Array.from(this.tints, pixel);
      this.masked = pixel(dark ? [43, 49, 60] : [222, 226, 232]);
      this.bright = dark ? [255, 255, 255] : [255, 214, 64];
    }
    const { ids, born, pixels, solid, mask, masked } = this;
    for (let p = 0; p < this.length; p += 1) {
      const id = ids[p];
      if (id === mask) pixels[p] = masked;
      else {
        const tint = (id * 2654435761) >>> 29; // Knuth's multiplicative hash: the top three of 32 bits
        const age = now - born[p];
        pixels[p] = age < FLASH_MS ? pixel(blend(this.bright, this.tints[tint], age / FLASH_MS)) : solid[tint];
      }
    }
    this.context.putImageData(this.image, 0, 0);
  }

  text(position) {
    return this.ids[position] === this.mask ? "\u2591" : this.vocab[this.ids[position]] ?? "\ufffd";
  }
}

class PixelRace {
  constructor({ lanes, vocab, words, verdict }) {
    this.words = words;
    this.said = verdict;
    this.time = 0;
    this.playing = false;
    this.at = 0; // of the lens
    this.lanes = lanes.map((lane) => new Lane(lane, vocab[lane.tokenizer], words));
    this.duration = Math.max(...this.lanes.map((lane) => lane.duration));
    this.length = Math.min(...this.lanes.map((lane) => lane.length));
    this.speed = this.fittingSpeed();
    const grid = make("div", "da-lanes da-pixel-lanes", { style: `--lanes: ${this.lanes.length}` },
      ...this.lanes.map((lane) => lane.root));
    this.lens = make("div", "da-lens", { "aria-hidden": "true" });
    this.root = make("div", "da-player da-race da-pixels", { role: "group", "aria-label": words.race },
      grid, this.lens, this.buildFoot());
    this.lanes.forEach((lane) => this.listen(lane));
    host.replaceChildren(this.root);
    this.look(0);
    if (window.matchMedia("(prefers-reduced-motion: reduce)").matches) this.seek(this.duration);
    else this.play();
  }

  /** The speed at which the race takes neither a blink nor minutes. */
  fittingSpeed() {
    const wall = this.duration / 1000;
    if (wall > LONGEST_S) return SPEEDS.find((speed) => wall / speed <= LONGEST_S) ?? SPEEDS.at(-1);
    return SPEEDS.filter((speed) => speed <= 1 && wall / speed >= SHORTEST_S).at(-1) ?? SPEEDS[0];
  }

  speedName(speed) {
    const { realTime, slower, faster } = this.words;
    return speed === 1 ? realTime : fill(speed < 1 ? slower : faster, { n: speed < 1 ? Math.round(1 / speed) : speed });
  }

  /** At which speed one looks, in words; nothing in real time. */
  pace() {
    const { slowMotion, hurried } = this.words;
    if (this.speed === 1) return "";
    const said = fill(this.speed < 1 ? slowMotion : hurried, { n: Math.round(Math.max(this.speed, 1 / this.speed)) });
    return ` \u00b7 ${said}`;
  }

  buildFoot() {
    const { words } = this;
    const button = (name, label, press) => {
      const node = make("button", "da-button", { type: "button", "aria-label": label, title: label }, icon(name));
      node.addEventListener("click", press);
      return node;
    };
    this.scrubber = make("input", "da-scrubber", { type: "range", min: 0, max: Math.max(1, this.duration), step: "any",
      value: 0, "aria-label": words.time });
    this.scrubber.addEventListener("input", () => this.seek(Number(this.scrubber.value)));
    this.button = button("play", words.play, () => (this.playing ? this.pause() : this.play()));
    this.button.classList.add("da-play");
    this.select = make("select", "", { "aria-label": words.speed },
      ...SPEEDS.map((speed) => make("option", "", { value: speed }, this.speedName(speed))));
    this.select.value = this.speed;
    this.select.addEventListener("change", () => {
      this.speed = Number(this.select.value);
      this.rewindClock();
      this.show(this.time);
    });
    this.state = make("div", "da-state");
    this.verdict = make("div", "da-verdict", { role: "status" });
    return make("div", "da-race-foot", {}, this.scrubber, make("div", "da-bar", {},
      make("div", "da-buttons", {}, button("start", words.toStart, () => this.seek(0)), this.button,
        button("end", words.toEnd, () => this.seek(this.duration))),
      make("span", "da-select", {}, this.select), this.state, this.verdict));
  }

  listen(lane) {
    const { frame } = lane;
    frame.addEventListener("pointermove", (event) => {
      const box = lane.canvas.getBoundingClientRect();
      const column = clamp(Math.floor(((event.clientX - box.left) / box.width) * lane.side), 0, lane.side - 1);
      const row = clamp(Math.floor(((event.clientY - box.top) / box.height) * lane.rows), 0, lane.rows - 1);
      this.look(row * lane.side + column);
    });
    frame.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: lane.side, ArrowUp: -lane.side, PageDown: 10 * lane.side,
        PageUp: -10 * lane.side, Home: -this.length, End: this.length };
      if (event.key === " ") this.button.click();
      else if (event.key in moves && !event.ctrlKey && !event.metaKey && !event.altKey) this.look(this.at + moves[event.key]);
      else return;
      event.preventDefault();
    });
  }

  /** Put the lens on a position, in all pictures. */
  look(position) {
    this.at = clamp(position, 0, this.length - 1);
    const seen = [this.at, ...this.lanes.map((lane) => lane.shown)].join();
    if (seen === this.seen) return;
    this.seen = seen;
    this.lens.replaceChildren(make("div", "da-lens-title", {}, fill(this.words.lens, { n: written.whole.format(this.at + 1),
      of: written.whole.format(this.length) })));
    for (const lane of this.lanes) {
      const first = Math.max(0, this.at - WORDS_AROUND);
      const last = Math.min(lane.length - 1, this.at + WORDS_AROUND);
      const around = Array.from({ length: last - first + 1 }, (_, i) => first + i);
      const shown = characters(around.map((p) => lane.text(p)));
      const words = around.map((p, i) => make(p === this.at ? "mark" : "span", lane.ids[p] === lane.mask ? "da-unread" : "", {},
        shown[i].replaceAll("\n", "\u21b5")));
      this.lens.append(make("div", "da-lens-row", {}, make("i", "", { style: `background: ${lane.color}` }),
        make("span", "da-lens-name", {}, lane.label), make("span", "da-lens-text", {}, ...words)));
      const mark = lane.frame.lastChild.style;
      mark.left = `${(100 * ((this.at % lane.side) + 0.5)) / lane.side}%`;
      mark.top = `${(100 * (Math.floor(this.at / lane.side) + 0.5)) / lane.rows}%`;
      lane.frame.setAttribute("aria-valuenow", this.at);
      const said = around.map((p, i) => (lane.ids[p] === lane.mask ? ` ${this.words.masked} ` : shown[i])).join("");
      lane.frame.setAttribute("aria-valuetext", fill(this.words.position, { n: this.at + 1, text: said.trim() }));
    }
  }

  seek(ms) {
    this.time = clamp(ms, 0, this.duration);
    this.pause();
  }

  play() {
    if (this.time >= this.duration) this.time = 0;
    this.playing = true;
    this.rewindClock();
    this.loop();
  }

  pause() {
    this.playing = false;
    cancelAnimationFrame(this.waiting);
    this.show(this.time, -Infinity);
  }

  rewindClock() {
    this.clockStart = performance.now();
    this.clockTime = this.time;
  }

  loop() {
    this.waiting = requestAnimationFrame((now) => {
      if (!this.root.isConnected) return;
      const ms = this.clockTime + Math.max(0, now - this.clockStart) * this.speed;
      this.show(Math.min(this.duration, ms), now);
      if (ms >= this.duration + FLASH_MS * this.speed) this.pause(); // the last tokens have stopped to shine
      else this.loop();
    });
  }

  show(ms, now = performance.now()) {
    this.time = ms;
    for (const lane of this.lanes) this.showLane(lane, ms, now);
    this.look(this.at);
    const { words, scrubber } = this;
    scrubber.value = ms;
    scrubber.style.setProperty("--da-played", `${(100 * ms) / Math.max(1, this.duration)}%`);
    const elapsed = fill(words.timeOf, { time: seconds(ms), all: seconds(this.duration) });
    scrubber.setAttribute("aria-valuetext", elapsed);
    this.state.textContent = elapsed + this.pace();
    const label = this.playing ? words.pause : words.play;
    if (this.button.title !== label) {
      this.button.replaceChildren(icon(this.playing ? "pause" : "play"));
      this.button.setAttribute("aria-label", label);
      this.button.title = label;
    }
    const verdict = ms >= this.duration ? this.said : "";
    if (this.verdict.textContent !== verdict) this.verdict.textContent = verdict;
  }

  showLane(lane, ms, now) {
    lane.advance(ms, now);
    if (now === -Infinity) lane.born.fill(now); // a picture at rest does not shine
    lane.paint(now);
    const done = ms >= lane.duration;
    lane.root.classList.toggle("da-done", done);
    lane.bar.style.width = `${(100 * Math.min(ms, lane.duration)) / Math.max(1, lane.duration)}%`;
    lane.clock.textContent = seconds(Math.min(ms, lane.duration));
    const values = { step: Math.max(0, lane.shown), steps: lane.times.length - 1, left: written.whole.format(lane.left) };
    lane.state.textContent = fill(this.words.state, values);
  }
}

function draw() {
  if (race) race.playing = false;
  const message = props.value ? JSON.parse(props.value) : null;
  const digits = { minimumFractionDigits: 1, maximumFractionDigits: 1 };
  written = message && { whole: new Intl.NumberFormat(message.language),
    tenths: new Intl.NumberFormat(message.language, digits) };
  race = message ? new PixelRace(message) : null;
  if (!race) host.replaceChildren();
  element.pixelRace = race; // for measurements
}

watch("value", draw);
draw();
