/**
 * Block after block with an exact cache: the twins of diffuapriel/sampling/blocks.py and diffuapriel/sampling/writer.py.
 *
 * model: {maskId, window, taps, empty, pass, draft}. `pass({ids, size, sigma, positions, finished, cache}, commits)` runs
 * the graph of diffuapriel/page/export.py over blocks of `size` tokens; it resolves to the logits at the positions, or to
 * the cache behind the blocks if it commits. `draft({ids, positions, paths, finished, cache})` runs the graph with drafts;
 * it resolves to {values, cache}. A cache is a list of {data, dims}, `empty` that before the first block.
 */

import { Run } from "./run.js";
import { speculates } from "./sampler.js";

const LEAST_ALPHA = 1e-3;
const KEPT_BYTES = 2 ** 26; // of caches of earlier texts

const start = (model) => ({ finished: 0, cache: model.empty });
const bytesOf = ({ cache }) => cache.reduce((sum, { data }) => sum + data.byteLength, 0);

/** The past after whole blocks more, in one pass. */
async function commit(model, past, ids, size) {
  const cache = await model.pass({ ...past, ids, size, sigma: 0, positions: [0] }, true);
  return { finished: past.finished + ids.length, cache };
}

/** The pasts of texts, the one used last at the end; the oldest are forgotten. */
class Pasts {
  constructor(model) {
    this.kept = new Map([["", start(model)]]);
  }

  /** The past of the longest beginning of a text that is kept, in steps of `size` tokens. */
  find(ids, length, size) {
    let known = length;
    while (known && !this.kept.has(textOf(ids, known))) known -= size;
    return this.kept.get(textOf(ids, known));
  }

  keep(ids, past) {
    const text = textOf(ids, past.finished);
    this.kept.delete(text);
    this.kept.set(text, past);
    let bytes = [...this.kept.values()].reduce((sum, other) => sum + bytesOf(other), 0);
    for (const [other, { finished }] of this.kept) {
      if (bytes <= KEPT_BYTES || other === text) break;
      if (!finished) continue;
      bytes -= bytesOf(this.kept.get(other));
      this.kept.delete(other);
    }
  }
}

const textOf = (ids, length) => ids.subarray(0, length).join(",");

/** A denoiser of whole canvases that computes the active block only; (ids, sigma, positions) -> {positions, values}. */
export function cachedDenoiser(model, size) {
  const pasts = new Pasts(model);
  return async (ids, _, positions) => {
    const first = Math.floor(ids.indexOf(model.maskId) / size) * size;
    let past = pasts.find(ids, first, size);
    if (past.finished < first) past = await commit(model, past, ids.subarray(past.finished, first), size);
    pasts.keep(ids, past);
    const block = ids.subarray(first, first + size);
    const share = Math.fround(block.filter((id) => id === model.maskId).length / block.length);
    const sigma = Math.fround(-Math.log(Math.max(LEAST_ALPHA, Math.fround(1 - share)))); // of this block, as in training
    const at = positions.filter((p) => p >= first && p < first + size);
    const values = await model.pass({ ...past, ids: block, size: block.length, sigma, positions: at.map((p) => p - first) });
    return { positions: at, values };
  };
}

/**
 * What the strategy `speculative` calls, as `SpeculativeDenoiser`: ids hold finished text, then at the positions tokens
 * to verify and [MASK]s. Resolves to the logits of the former, then to those of the [MASK]s of the block to draft.
 */
export function speculativeDenoiser(model, size) {
  const pasts = new Pasts(model);
  return async (ids, _, positions) => {
    const found = pasts.find(ids, positions[0], 1);
    const { logits, past } = await verifyAndDraft(model, found, ids, positions, size);
    pasts.keep(ids, past);
    return logits;
  };
}

/** One pass over ids behind `past`: {logits, past}, the latter with all tokens before the first position. */
async function verifyAndDraft(model, past, ids, positions, size, from = past.finished) {
  const first = positions[0];
  const last = positions.findLast((p) => ids[p] !== model.maskId) ?? first - 1;
  const draft = ids.subarray(first, last + 1);
  const block = Int32Array.from(ids.subarray(first, first + size), (id, i) => (positions.includes(first + i) ? model.maskId : id));
  const finished = ids.subarray(from, first);
  const row = [...finished, ...draft, ...draft.map(() => model.maskId), ...block];
  const at = [positions.filter((p) => p <= last), positions.filter((p) => p < first + size)];
  const [copy, behind] = [finished.length + draft.length, finished.length + 2 * draft.length];
  const chosen = [...at[0].map((p) => copy + p - first), ...at[1].map((p) => behind + p - first)];
  const paths = pathsOf(finished.length, draft.length, block.length, model.taps);
  const { values, cache } = await model.draft({ ...past, ids: row, positions: chosen, paths });
  return { logits: { positions: at.flat(), values }, past: finished.length ? { finished: past.finished + finished.length, cache } : past };
}

/**
 * What the graph with drafts is told of the paths of a pass over [committed | draft | its [MASK]s | a block]: the twin of
 * `path_inputs` in diffuapriel/page/export.py. taps: of the convolution.
 */
export function pathsOf(committed, verified, drafted, taps) {
  const clean = committed + verified;
  const end = clean + verified;
  const tokens = end + drafted;
  const kept = Math.max(1, committed); // onnxruntime-web has no product over no token
  const paths = new Uint8Array(2 * tokens * tokens);
  const neighbors = new Int32Array(2 * taps * tokens).fill(tokens + taps - 1); // a zero
  const history = Array.from({ length: taps - 1 }, (_, i) => i);
  for (let i = 0; i < tokens; i += 1) {
    const last = i < clean ? i : i < end ? i - verified : committed; // before which the path is clean
    const back = Array.from({ length: last }, (_, j) => j).concat(i < end ? [i] : range(end, i + 1));
    const ahead = i < end ? [i] : range(i, tokens);
    for (const j of back) paths[i * tokens + j] = 1;
    for (const j of ahead) paths[(tokens + i) * tokens + j] = 1;
    const behind = [...history, ...back.map((j) => j + taps - 1)].reverse();
    for (let d = 0; d < taps; d += 1) {
      neighbors[d * tokens + i] = behind[d];
      if (d < ahead.length) neighbors[(taps + d) * tokens + i] = ahead[d] + taps - 1;
    }
  }
  const places = Array.from({ length: tokens }, (_, i) => (i < clean ? i : i < end ? i - verified : committed + i - end));
  const ends = Uint8Array.from({ length: tokens }, (_, i) => (i < end || i === tokens - 1 ? 1 : 0));
  return {
    paths: { data: paths, dims: [2, tokens, tokens] }, neighbors: { data: neighbors, dims: [2, taps, tokens] },
    kept: { data: range(0, kept), dims: [kept] }, history: { data: history.map((i) => committed + i), dims: [taps - 1] },
    places: { data: places, dims: [tokens] }, ends: { data: ends, dims: [tokens] },
  };
}

const range = (from, to) => Array.from({ length: to - from }, (_, i) => from + i);

/** The past with the keys and values of the last `tokens` tokens only. */
function lastTokens(past, tokens) {
  const cache = past.cache.map((state) => {
    const [rows, heads, length, size] = state.dims;
    if (state.dims.length !== 4 || !state.grows || length <= tokens) return state;
    const data = new Float32Array(rows * heads * tokens * size);
    for (let row = 0; row < rows * heads; row += 1) {
      data.set(state.data.subarray((row * length + length - tokens) * size, (row + 1) * length * size), row * tokens * size);
    }
    return { ...state, data, dims: [rows, heads, tokens, size] };
  });
  return { ...past, cache };
}

/**
 * Continue a text for ever, in constant memory. Yields after each step {run, written}: the run of the present block and,
 * once that is full, its tokens without padding, with `ended` if the next block begins a new text. With `speculative` the
 * block length of the options is that of the drafts within a block.
 */
export async function* writeBlocks(model, config, size, prompt) {
  const drafts = speculates(config) ? config.block_length : null;
  const options = { ...config, block_length: drafts, block_start: "prompt", stop_at_eos: false };
  const reads = Math.max(size, Math.floor(model.window / size) * size);
  const eos = model.maskId - 1;
  const whole = Math.floor(prompt.length / size) * size;
  let past = start(model);
  let finished = Int32Array.from(prompt.slice(0, whole));
  let given = prompt.slice(whole);
  let last = prompt.at(-1);
  let committed = 0; // tokens of the present block that are in the past
  const denoiser = async (ids, sigma, positions) => {
    if (drafts) {
      const text = Int32Array.from([...finished, ...ids.subarray(committed)]);
      const by = finished.length - committed;
      const pass = await verifyAndDraft(model, past, text, positions.map((p) => p + by), drafts, 0);
      [past, finished, committed] = [pass.past, [], positions[0]];
      return pass.logits;
    }
    if (finished.length) past = await commit(model, past, finished, size);
    finished = [];
    return { positions, values: await model.pass({ ...past, ids, size, sigma, positions }) };
  };
  for (let row = 0; ; row += 1) {
    const ids = [...given, ...new Array(size - given.length).fill(model.maskId)];
    const run = new Run({ ids, fixed: ids.map((id) => id !== model.maskId) }, options, model.maskId, [], row);
    [given, committed] = [[], 0];
    for (;;) {
      await run.advance(denoiser);
      if (run.done) break;
      yield { run, written: null, ended: false };
    }
    const written = Array.from(run.state.ids);
    finished = run.state.ids.subarray(committed);
    past = lastTokens(past, reads);
    while (written.at(-1) === eos && (written.length > 1 ? written.at(-2) : last) === eos) {
      written.pop();
      finished = [];
    }
    const ended = !finished.length;
    if (ended) past = start(model);
    last = ended ? undefined : written.at(-1);
    yield { run, written, ended };
  }
}
