/**
 * The live model: a worker that unpacks the models, fills canvases and tells the page about each step, so that the page
 * never waits. Messages in: {do: "load" | "write" | "keep" | "race" | "stop" | a command of the player, ...}. Messages
 * out: {progress}, {ready}, {feed}, {verdict}, {kept}, {race}, {idle}, {problem}.
 */

import { cachedDenoiser, speculativeDenoiser, writeBlocks } from "./blocks.js";
import { Run, stories, VERSION, vocabularyOf } from "./run.js";
import { maskedPositions, speculates } from "./sampler.js";
import { Checker } from "./tales.js";
import { Tokenizer } from "./tokenizer.js";

const WARM_UP = 2; // passes before a timed one
const GIVEN = 16; // tokens more of the text before each of these
const DRAFTED_TOKENS = 64; // of a block with `speculative`, as in the app
const MOST_TOKENS = 1024; // of a story without end that is kept to be checked
const CLOSE = 0.05; // logits of the GPU must be this close to those of WebAssembly

let parts; // the packed parts that the page hands over
let tokenizer;
let checker = null;
const models = new Map(); // by name
let run = null;
let other = null; // the ending that a branch left behind
let content = "[]"; // text and length that would give the present canvas
let name = "";
let turn = 0;
let cut = false; // whether the canvas begins within a text
let busy = false;
let stopping = false;
let waiting = []; // commands until the present step is over

const send = (message) => self.postMessage(message);
const pause = () => new Promise((resolve) => {
  const channel = new MessageChannel();
  channel.port1.onmessage = resolve;
  channel.port2.postMessage(null);
}); // lets the page's messages in; a timer would wait for 4 ms

// ---- unpacking ---------------------------------------------------------------------------------------

/** Base64 of gzip to bytes. */
export async function unpack(text) {
  const packed = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Uint8Array(await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

const unpackText = async (text) => new TextDecoder().decode(await unpack(text));

/** onnxruntime-web from one of its builds: {script, binary}. */
async function openRuntime({ script, binary }) {
  const url = URL.createObjectURL(new Blob([await unpack(script)], { type: "text/javascript" }));
  const runtime = await import(url);
  URL.revokeObjectURL(url);
  runtime.env.wasm.numThreads = 1; // more would need headers that no file has
  runtime.env.wasm.wasmBinary = (await unpack(binary)).buffer;
  runtime.env.logLevel = "error";
  return runtime;
}

/** A model: {maskId, window, denoise} and, of blocks, what blocks.js describes. A graph is unpacked when it is first run. */
function openModel(runtime, { graphs, weights, cache, window, taps }, provider) {
  const sessions = {};
  const open = async (kind) => runtime.InferenceSession.create(await unpack(graphs[kind]), {
    executionProviders: [provider], logSeverityLevel: 3, externalData: [{ path: "weights", data: await unpack(weights) }],
  });
  const tensor = (type, { data, dims }) => new runtime.Tensor(type, data, dims);
  const integers = (values, dims) => tensor("int64", { data: BigInt64Array.from(values, BigInt), dims });
  const run = async (kind, ids, dims, positions, more, fetches) => {
    const session = await (sessions[kind] ??= open(kind));
    const found = await session.run({ ids: integers(ids, dims), positions: integers(positions, [positions.length]), ...more }, fetches);
    return fetches.map((name) => {
      const { data, dims: shape } = found[name];
      found[name].dispose();
      return { data, dims: shape };
    });
  };
  const level = (sigma) => ({ sigma: tensor("float32", { data: [sigma], dims: [1] }) });
  const model = { maskId: tokenizer.maskId, window, taps };
  if (!cache) {
    model.denoise = async (ids, sigma, positions) => {
      const [{ data }] = await run("pass", ids, [1, ids.length], positions, level(sigma), ["logits"]);
      return { positions, values: data };
    };
    return model;
  }
  model.empty = cache.map((dims) => ({ data: new Float32Array(dims.reduce((a, b) => a * b)), dims, grows: dims.length === 4 && dims[2] === 0 }));
  const next = model.empty.map((_, i) => `next.${i}`);
  const growing = (found) => found.map((state, i) => ({ ...state, grows: model.empty[i].grows }));
  const behind = (finished, past) => ({
    finished: integers([finished], [1]), ...Object.fromEntries(past.map((state, i) => [`cache.${i}`, tensor("float32", state)])),
  });
  model.pass = async ({ ids, size, sigma, positions, finished, cache: past }, commits = false) => {
    const more = { ...level(sigma), ...behind(finished, past) };
    const found = await run("pass", ids, [ids.length / size, size], positions, more, commits ? next : ["logits"]);
    return commits ? growing(found) : found[0].data;
  };
  model.draft = async ({ ids, positions, paths, finished, cache: past }) => {
    const places = Object.entries(paths).map(([name, values]) => [name, values.data instanceof Uint8Array ? tensor("bool", values) : integers(values.data, values.dims)]);
    const more = { ...Object.fromEntries(places), ...behind(finished, past) };
    const [{ data }, ...after] = await run("drafts", ids, [1, ids.length], positions, more, ["logits", ...next]);
    return { values: data, cache: growing(after) };
  };
  model.denoise = async (ids, sigma, positions) => {
    const values = await model.pass({ ids, size: ids.length, sigma, positions, finished: 0, cache: model.empty });
    return { positions, values };
  };
  return model;
}

/** What a run with these options calls: (ids, sigma, positions) -> {positions, values}. */
function denoiserFor(model, config) {
  const { block_length: size } = config;
  if (!model.pass || size === null) return model.denoise;
  const drafts = speculates(config);
  if (model.cached?.size !== size || model.cached.drafts !== drafts) {
    model.cached = { size, drafts, denoiser: drafts ? speculativeDenoiser(model, size) : cachedDenoiser(model, size) };
  }
  return model.cached.denoiser;
}

let wasm = null;
function modelNamed(wanted) {
  if (!models.has(wanted)) models.set(wanted, openModel(wasm, parts.models[wanted], "wasm"));
  return models.get(wanted);
}

async function load(packed) {
  parts = packed;
  const report = (share, what) => send({ progress: share, what });
  report(0.05, "the tokenizer and the grammar");
  tokenizer = new Tokenizer(JSON.parse(await unpackText(parts.tokenizer)));
  if (parts.grammar) checker = new Checker(JSON.parse(await unpackText(parts.grammar)));
  report(0.15, "onnxruntime");
  wasm = await openRuntime(parts.runtimes.wasm);
  report(0.5, "the model");
  const model = await modelNamed(parts.first);
  report(0.9, "the model");
  await trial(model, 0);
  send({ ready: true, provider: "WebAssembly" });
  tryGpu().catch(() => {}); // the page then stays with WebAssembly
}

/** The last of some passes: its logits and milliseconds. Every one has a text before it that no other has. */
async function trial(model, warmUp) {
  const canvas = new Int32Array(parts.length).fill(tokenizer.maskId);
  const denoiser = denoiserFor(model, parts.defaults);
  for (let i = 0; ; i += 1) {
    const began = performance.now();
    const { values } = await denoiser(canvas, 1, Array.from(canvas.keys()).slice(i * GIVEN));
    if (i === warmUp) return { values: values.slice(), ms: performance.now() - began };
    canvas.fill(i, i * GIVEN, (i + 1) * GIVEN);
  }
}

/** Move the model to WebGPU where that is faster and computes the same. */
async function tryGpu() {
  if (!parts.runtimes.webgpu || !(await self.navigator.gpu?.requestAdapter())) return;
  const runtime = await openRuntime(parts.runtimes.webgpu);
  const onGpu = openModel(runtime, parts.models[parts.first], "webgpu");
  const [ours, theirs] = [await trial(modelNamed(parts.first), WARM_UP), await trial(onGpu, WARM_UP)];
  const same = ours.values.every((value, i) => i % (tokenizer.maskId + 1) === tokenizer.maskId || Math.abs(value - theirs.values[i]) < CLOSE);
  if (!same || theirs.ms > ours.ms || busy) return;
  models.set(parts.first, onGpu);
  send({ ready: true, provider: "WebGPU" });
}

// ---- the run on the page -----------------------------------------------------------------------------

function adopt(fresh, left = null) {
  [run, other] = [fresh, left];
  turn += 1;
  name = `live-${turn}`;
}

const about = (model) => ({ model, architecture: parts.models[model].architecture, tokenizer: tokenizer.name, created: "" });

/** Tell the page about the changes from number `from` on. */
function tell({ from = 0, live = false } = {}) {
  const frames = run.frames(from);
  const message = {
    schema: "diffuapriel-feed", version: VERSION, run: name, vocab: vocabularyOf(frames, tokenizer), frames, done: !live && run.done,
    live, total: run.planned, steer: true, turn,
  };
  if (from === 0) {
    message.header = run.header(about(parts.first), tokenizer.eosId);
    message.other = other && other.canvas.ids.length === run.canvas.ids.length ? traceOf(other, parts.first) : null;
  }
  const judged = judge();
  message.remarks = { step: run.length, at: Object.fromEntries(judged.filter(({ at }) => at !== null).map(({ at, message: why }) => [at, why])) };
  send({ feed: message });
  send({ verdict: judged, masks: maskedPositions(run.state).length });
}

/** The verdict on each story that is complete. */
function judge() {
  if (!checker) return []; // a model of other texts than tales
  const { ids } = run.state;
  const finished = !ids.includes(tokenizer.maskId);
  return stories(ids, tokenizer.maskId, tokenizer.eosId, finished).filter(({ first }) => first || !cut).map((story) => {
    const text = tokenizer.decode(story.ids);
    const found = checker.check(text);
    let at = null;
    if (found.position !== null) {
      let offset = found.position;
      at = story.ids.findIndex((id) => (offset -= tokenizer.decode([id]).length) < 0);
      at = story.first + (at < 0 ? story.ids.length - 1 : at);
    }
    return { text, ...found, at };
  });
}

async function play(steps = Infinity) {
  busy = true;
  stopping = false;
  const denoiser = denoiserFor(await modelNamed(parts.first), run.config);
  for (let made = 0; made < steps && !run.done && !stopping; made += 1) {
    const current = run;
    await current.advance(denoiser);
    if (current === run) tell({ from: run.length, live: made + 1 < steps && !run.done });
    await pause();
    for (const command of waiting.splice(0)) attempt(() => edit(command));
  }
  busy = false;
  tell();
  send({ idle: true });
}

function write({ text, length, config }) {
  const asked = JSON.stringify([text, length]);
  adopt(run && asked === content ? run.restart(config) : new Run(tokenizer.canvas(text, length), config, tokenizer.maskId));
  content = asked;
  cut = false;
  tell();
  return play();
}

/** The run as the reader sees it: the newest state, or a branch from the step on the screen. */
function goBack(command) {
  if (command.run !== name) throw new Error("the canvas has changed; try again");
  if (command.at === null || command.at === undefined || command.at >= run.length) return;
  adopt(run.branch(command.at), run);
}

/** An edit, an undo or a swap of endings. */
function edit(command) {
  const { first, last } = command;
  if (command.do === "pause") {
    stopping = true;
    return;
  }
  if (command.do === "undo") {
    if (!Object.keys(run.last.edits).length) throw new Error("there is no edit to undo");
    adopt(run.branch(run.length - 1), other);
  } else if (command.do === "swap") {
    if (other) adopt(other, run);
  } else {
    goBack(command);
    if (!run.length) adopt(run, other); // the start itself changes
    if (command.do === "mask") run.mask(first, last);
    else if (command.do === "choose") run.choose(first, command.id);
    else if (command.do === "type") run.write(first, last, tokenizer.canvas(command.text).ids, tokenizer.eosId);
    else run.pin(first, last, command.do === "pin");
  }
  tell();
}

function attempt(action) {
  try {
    return action();
  } catch (error) {
    send({ problem: error.message });
    return null;
  }
}

async function command(message) {
  if (!run) return;
  if (busy) waiting.push(message);
  else if (message.do === "go" || message.do === "step") {
    const before = run;
    goBack(message);
    if (run !== before) run = Object.assign(run, { config: { ...run.config, seed: run.config.seed + turn } });
    if (!run.done) await play(message.do === "step" ? 1 : Infinity);
  } else if (message.do === "guess") {
    const at = await run.predict(denoiserFor(await modelNamed(parts.first), run.config));
    const vocab = Object.fromEntries(Object.values(at).flat().map(([id]) => [id, tokenizer.display(id)]));
    send({
      feed: {
        schema: "diffuapriel-feed", version: VERSION, run: name, vocab, frames: [], done: run.done, live: false, steer: true, turn,
        guesses: { step: run.length, at },
      },
    });
  } else edit(message);
}

// ---- a text without end ------------------------------------------------------------------------------

/** Write on behind the text on the canvas up to its first hole, or behind that of the text box if it has changed. */
async function keep({ text, config }) {
  busy = true;
  stopping = false;
  const { maskId, eosId } = tokenizer;
  const same = run && JSON.parse(content)[0] === text;
  const prompt = same ? Array.from(run.state.ids) : text ? tokenizer.canvas(text).ids : [];
  if (prompt.includes(maskId)) prompt.length = prompt.indexOf(maskId);
  while (prompt.at(-1) === eosId && prompt.at(-2) === eosId) prompt.pop();
  const size = speculates(config) ? DRAFTED_TOKENS : config.block_length ?? parts.length;
  const most = Math.max(1, Math.floor(parts.length / size)) * size; // tokens before the block that are shown
  let shown = prompt.slice(0, Math.floor(prompt.length / size) * size).slice(-most);
  let story = prompt.slice(prompt.lastIndexOf(eosId) + 1); // since the last <|endoftext|>
  const told = { tokens: 0, stories: 0, right: 0 };
  content = JSON.stringify([text, null]);
  let current = null;
  for await (const { run: block, written, ended } of writeBlocks(await modelNamed(parts.first), config, size, prompt)) {
    const fresh = current !== block;
    if (fresh) [turn, name] = [turn + 1, `live-${turn + 1}`];
    current = block;
    tellBlock(shown, block, fresh);
    await pause();
    if (waiting.splice(0).some((command) => command.do === "pause") || stopping) break;
    if (!written) continue;
    const given = block.canvas.fixed.filter(Boolean).length;
    told.tokens += written.length - given;
    for (const id of [...written.slice(given), ...(ended ? [eosId] : [])]) {
      if (id !== eosId) story.push(id);
      else if (story.length) {
        told.stories += 1;
        told.right += checker?.check(tokenizer.decode(story)).consistent ? 1 : 0;
        story = [];
      }
      if (story.length > MOST_TOKENS) story.shift(); // nothing that ends; then it is no story anyway
    }
    shown = ended ? [] : [...shown, ...written].slice(-most);
    send({ kept: told, checked: Boolean(checker) });
  }
  const { ids } = current.state;
  const canvas = [...shown, ...ids];
  busy = false;
  adopt(new Run({ ids: canvas, fixed: canvas.map(() => false) }, config, maskId));
  cut = prompt.length + told.tokens > shown.length;
  tell();
  send({ idle: true });
}

/** Tell the page about the newest frame of a block, or of all that it has, behind the tokens that are shown before it. */
function tellBlock(shown, block, whole) {
  const by = shown.length;
  const moved = (values) => Object.fromEntries(Object.entries(values).map(([p, value]) => [Number(p) + by, value]));
  const unknown = new Array(by).fill(null);
  const frames = block.frames(whole ? 0 : block.length).map((frame) => ({
    ...frame, ids: [...shown, ...frame.ids], confidence: [...unknown, ...frame.confidence], entropy: [...unknown, ...frame.entropy],
    revealed: frame.revealed.map((p) => p + by), remasked: frame.remasked.map((p) => p + by), top_k: moved(frame.top_k), why: moved(frame.why),
    draft: frame.draft?.map(([p, id]) => [p + by, id]),
  }));
  const message = {
    schema: "diffuapriel-feed", version: VERSION, run: name, vocab: vocabularyOf(frames, tokenizer), frames, done: false, live: true,
    total: block.planned, steer: false, turn,
  };
  if (whole) {
    const header = block.header(about(parts.first), tokenizer.eosId);
    message.header = { ...header, length: by + header.length, fixed: [...shown.map(() => false), ...header.fixed] };
  }
  send({ feed: message });
}

// ---- the race ----------------------------------------------------------------------------------------

function traceOf(finished, model) {
  const frames = finished.frames();
  const header = finished.header(about(model), tokenizer.eosId);
  return { schema: "diffuapriel-trace", version: VERSION, ...header, vocab: vocabularyOf(frames, tokenizer), frames };
}

/** Every model fills the same empty canvas, one after another; steps alternate, so that a busy moment hits all. */
async function race({ length, config }) {
  busy = true;
  stopping = false;
  const canvas = { ids: new Array(length).fill(tokenizer.maskId), fixed: new Array(length).fill(false) };
  const lanes = [];
  for (const model of Object.keys(parts.models)) {
    const denoiser = denoiserFor(await modelNamed(model), config);
    await denoiser(Int32Array.from(canvas.ids), 1, [0]);
    lanes.push({ model, denoiser, run: new Run(canvas, config, tokenizer.maskId) });
  }
  for (let made = 0; !stopping && lanes.some((lane) => !lane.run.done); made += 1) {
    for (const lane of made % 2 ? [...lanes].reverse() : lanes) if (!lane.run.done) await lane.run.advance(lane.denoiser);
    send({ progress: (made + 1) / Math.max(...lanes.map((lane) => lane.run.planned)), what: "the race" });
    await pause();
  }
  busy = false;
  if (!stopping) {
    const shown = lanes.map((lane) => ({ label: parts.models[lane.model].label, note: lane.model, trace: traceOf(lane.run, lane.model) }));
    send({ race: { schema: "diffuapriel-race", version: VERSION, lanes: shown, slow: null, verdict: "" } });
  }
  send({ idle: true });
}

const ACTIONS = { load, write, keep, race, stop: () => { stopping = true; } };
self.onmessage = async ({ data }) => {
  try {
    if (["write", "keep", "race"].includes(data.do) && busy) return;
    await (ACTIONS[data.do] ?? command)(data);
  } catch (error) {
    busy = false;
    send({ problem: error.message });
    send({ idle: true });
  }
};
