/**
 * Block after block with an exact cache: the twins of diffuapriel/sampling/blocks.py and diffuapriel/sampling/writer.py.
 *
 * model: {maskId, window, empty, pass}. `pass({ids, size, sigma, positions, finished, cache}, commits)` runs the graph of
 * diffuapriel/page/export.py over blocks of `size` tokens; it resolves to the logits at the positions, or to the cache
 * behind the blocks if it commits. A cache is a list of {data, dims}, `empty` that before the first block.
 */

import { Run } from "./run.js";

const LEAST_ALPHA = 1e-3;
const KEPT_BYTES = 2 ** 26; // of caches of earlier texts

const start = (model) => ({ finished: 0, cache: model.empty });
const bytesOf = ({ cache }) => cache.reduce((sum, { data }) => sum + data.byteLength, 0);

/** The past after whole blocks more, in one pass. */
async function commit(model, past, ids, size) {
  const cache = await model.pass({ ...past, ids, size, sigma: 0, positions: [0] }, true);
  return { finished: past.finished + ids.length, cache };
}

/** A denoiser of whole canvases that computes the active block only; (ids, sigma, positions) -> {positions, values}. */
export function cachedDenoiser(model, size) {
  const kept = new Map(); // text -> its past, the one used last at the end
  const textOf = (ids, length) => ids.subarray(0, length).join(",");

  async function pastOf(ids, length) {
    if (!length) return start(model);
    let known = length;
    while (known && !kept.has(textOf(ids, known))) known -= size;
    let past = known ? kept.get(textOf(ids, known)) : start(model);
    if (known < length) past = await commit(model, past, ids.subarray(known, length), size);
    kept.delete(textOf(ids, length));
    kept.set(textOf(ids, length), past);
    let bytes = [...kept.values()].reduce((sum, other) => sum + bytesOf(other), 0);
    for (const [text, other] of kept) {
      if (bytes <= KEPT_BYTES || other === past) break;
      bytes -= bytesOf(other);
      kept.delete(text);
    }
    return past;
  }

  return async (ids, _, positions) => {
    const first = Math.floor(ids.indexOf(model.maskId) / size) * size;
    const past = await pastOf(ids, first);
    const block = ids.subarray(first, first + size);
    const share = Math.fround(block.filter((id) => id === model.maskId).length / block.length);
    const sigma = Math.fround(-Math.log(Math.max(LEAST_ALPHA, Math.fround(1 - share)))); // of this block, as in training
    const at = positions.filter((p) => p >= first && p < first + size);
    const values = await model.pass({ ...past, ids: block, size: block.length, sigma, positions: at.map((p) => p - first) });
    return { positions: at, values };
  };
}

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
 * once that is full, its tokens without padding, with `ended` if the next block begins a new text.
 */
export async function* writeBlocks(model, config, size, prompt) {
  const options = { ...config, block_length: null, block_start: "prompt", stop_at_eos: false };
  const reads = Math.max(size, Math.floor(model.window / size) * size);
  const eos = model.maskId - 1;
  const whole = Math.floor(prompt.length / size) * size;
  let past = start(model);
  let finished = Int32Array.from(prompt.slice(0, whole));
  let given = prompt.slice(whole);
  let last = prompt.at(-1);
  const denoiser = async (ids, sigma, positions) => {
    if (finished.length) past = await commit(model, past, finished, size);
    finished = [];
    return { positions, values: await model.pass({ ...past, ids, size, sigma, positions }) };
  };
  for (let row = 0; ; row += 1) {
    const ids = [...given, ...new Array(size - given.length).fill(model.maskId)];
    const run = new Run({ ids, fixed: ids.map((id) => id !== model.maskId) }, options, model.maskId, [], row);
    given = [];
    for (;;) {
      await run.advance(denoiser);
      if (run.done) break;
      yield { run, written: null, ended: false };
    }
    const written = Array.from(run.state.ids);
    finished = run.state.ids;
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
