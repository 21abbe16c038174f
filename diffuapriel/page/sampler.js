/**
 * The sampler: the twin of diffuapriel/sampling (tokens.py, strategies.py, sampler.py, speculative.py) for one canvas and
 * the schedule log-linear. Options have the names and defaults of `SamplerConfig`; logits are {positions, values}, the values one
 * Float32Array (positions * vocabulary). Where Python computes in float32, so does this: a tie there is one here.
 */

import { drawNoise, tokenNoise } from "./noise.js";

const f32 = Math.fround;
const LOG2E = f32(Math.LOG2E);
const EPS = 1e-3; // of the schedule
const CDF_BLOCK = 256;
const TOP_TOKENS = 5;
const REMDM = ["remdm", "remdm_rescale", "remdm_conf", "remdm_loop"];
const ON_SCHEDULE = ["ancestral", ...REMDM];
const SPECULATIVE = "speculative";
const FREE_OF_STEPS = ["threshold", "factor", "entropy_bound", "first_hitting", SPECULATIVE];
const BY_CONFIDENCE = ["low_confidence", "threshold", "factor"];
const NO_TOKEN = -1; // where a state has no draft

const alpha = (t) => 1 - (1 - EPS) * t;
const round6 = (value) => (Number.isNaN(value) ? null : Math.round(value * 1e6) / 1e6 + 0);

// ---- distributions: tokens.py -----------------------------------------------------------------------

/** The distribution of one row of logits without [MASK]: {x, w, total, entropy}, x relative to the best token. */
function distribution({ values }, index, maskId) {
  const row = values.subarray(index * (maskId + 1), index * (maskId + 1) + maskId);
  let top = -Infinity;
  for (const value of row) if (!(value <= top)) top = value;
  if (!Number.isFinite(top)) throw new Error("the denoiser's logits hold NaN or infinity");
  const x = new Float32Array(maskId);
  const w = new Float32Array(maskId);
  let total = 0;
  for (let i = 0; i < maskId; i += 1) {
    x[i] = row[i] - top;
    w[i] = x[i] < -110 ? 0 : Math.exp(f32(x[i] * LOG2E) * Math.LN2);
    total += w[i];
  }
  return { row, x, w, total: f32(total) };
}

const topProbability = ({ total }) => f32(1 / total);

function entropyOf({ x, w, total }) {
  let sum = 0;
  for (let i = 0; i < w.length; i += 1) if (w[i] > 0) sum += f32(Math.max(x[i], -1000) * w[i]);
  return f32(f32(Math.log(total)) - f32(f32(sum) / total));
}

function marginOf({ w, total }) {
  let best = 0;
  let second = 0;
  for (const value of w) {
    if (value === 1) best += 1;
    else if (value > second) second = value;
  }
  return best > 1 ? 0 : f32(f32(1 - second) / total);
}

/** The token drawn from a distribution by one uniform number, with the options of how. */
function pick({ x, w, total }, uniform, config, seen) {
  let values = x;
  let weights = w;
  if (seen) {
    const logTotal = f32(Math.log(total));
    values = Float32Array.from(x, (value, i) => f32(value - logTotal) * (seen[i] ? config.repetition_penalty : 1));
  }
  if (config.temperature === 0) return argmax(values);
  if (seen || config.temperature !== 1) {
    const top = values[argmax(values)];
    weights = Float64Array.from(values, (value) => 2 ** (((value - top) / config.temperature) * Math.LOG2E));
  }
  if (config.top_k !== null) weights = keepTopK(weights, config.top_k);
  if (config.top_p !== null && config.top_p < 1) weights = keepTopP(weights, config.top_p);
  return inverseCdf(weights, uniform);
}

function argmax(values) {
  let best = 0;
  for (let i = 1; i < values.length; i += 1) if (values[i] > values[best]) best = i;
  return best;
}

/** Indices of the weights of at least `least`, largest first, then leftmost. */
const ranked = (weights, least = 0) =>
  Array.from(weights.keys()).filter((i) => weights[i] >= least).sort((a, b) => weights[b] - weights[a] || a - b);

function keepTopK(weights, k) {
  const kept = weights.map(() => 0);
  for (const i of ranked(weights).slice(0, k)) kept[i] = weights[i];
  return kept;
}

function keepTopP(weights, p) {
  const kept = weights.map(() => 0);
  const sum = weights.reduce((total, weight) => total + weight, 0);
  // The tail is sorted only where the best tokens do not suffice.
  for (const least of [1e-4, 0]) {
    let running = 0;
    for (const i of ranked(weights, least)) {
      if (running >= p * sum) return kept;
      kept[i] = weights[i];
      running += weights[i];
    }
    if (running >= p * sum) return kept;
  }
  return kept;
}

function inverseCdf(weights, uniform) {
  const until = [];
  for (let start = 0; start < weights.length; start += CDF_BLOCK) {
    let sum = 0;
    for (let i = start; i < Math.min(start + CDF_BLOCK, weights.length); i += 1) sum += weights[i];
    until.push((until.at(-1) ?? 0) + sum);
  }
  const below = (value) => value - value * Number.EPSILON / 2;
  const target = Math.min(uniform * until.at(-1), below(until.at(-1)));
  const block = until.findIndex((value) => value > target);
  const first = block * CDF_BLOCK;
  const inside = weights.subarray(first, first + CDF_BLOCK);
  const sum = inside.reduce((total, weight) => total + weight, 0);
  const left = Math.min(target - (block ? until[block - 1] : 0), below(sum));
  let running = 0;
  for (let i = 0; i < inside.length; i += 1) {
    running += inside[i];
    if (running > left) return first + i;
  }
  return weights.length - 1;
}

/** [[id, probability], ...] of the most probable tokens, best first. */
function topTokens({ w, total }, count = TOP_TOKENS) {
  const best = [];
  for (let i = 0; i < w.length; i += 1) {
    if (best.length === count && w[i] <= w[best.at(-1)]) continue;
    const at = best.findIndex((other) => w[i] > w[other]);
    best.splice(at < 0 ? best.length : at, 0, i);
    if (best.length > count) best.pop();
  }
  return best.map((id) => [id, round6(f32(w[id] / total))]);
}

// ---- the state ---------------------------------------------------------------------------------------

/** The state before the first step of a canvas {ids, fixed}. */
export function start(canvas, config, maskId, row = 0) {
  const length = canvas.ids.length;
  const state = {
    row, // of the noise
    ids: Int32Array.from(canvas.ids), fixed: Uint8Array.from(canvas.fixed), maskId, step: 0, t: 1, nfe: 0,
    confidence: new Float64Array(length).fill(NaN), entropy: new Float64Array(length).fill(NaN), draft: noDraft(length),
    revealed: [], remasked: [], topK: {}, why: {}, runnerUp: NaN, threshold: null,
  };
  return isTimed(config) ? state : { ...state, t: maskedShare(state) };
}

export const noDraft = (length) => new Int32Array(length).fill(NO_TOKEN);
export const speculates = (config) => config.strategy === SPECULATIVE;
export const positionsOf = (values, wanted) => Array.from(values.keys()).filter((i) => values[i] === wanted);
export const maskedPositions = (state) => positionsOf(state.ids, state.maskId);
const freeCount = (state) => positionsOf(state.fixed, 0).length;
export const maskedShare = (state) => maskedPositions(state).length / Math.max(1, freeCount(state));
export const isOnSchedule = (config) => ON_SCHEDULE.includes(config.strategy);
const isTimed = (config) => isOnSchedule(config) && !config.block_length;

/** Whether no step is left. */
export function isDone(state, config) {
  if (maskedPositions(state).length) return false;
  return !REMDM.includes(config.strategy) || state.step >= config.steps || !freeCount(state);
}

/** The maximum number of denoiser calls for `masked` positions of a canvas. */
export function maxCalls(config, masked, length) {
  if (FREE_OF_STEPS.includes(config.strategy)) return masked;
  const calls = Math.max(config.steps, config.block_length ? Math.ceil(length / config.block_length) : 1);
  return isOnSchedule(config) ? (masked ? calls : 0) : Math.min(calls, masked);
}

const noiseOf = (state, config) => drawNoise(config.seed, state.row, state.step, state.ids.length);

/** The noise level that the next denoiser call gets. */
export function sigmaOf(state, config) {
  let level = state.t;
  if (isTimed(config)) level = 1 - onGrid(state, config).alphas[0];
  else if (config.strategy === "first_hitting" && !config.block_length) {
    level = hittingTime(state, noiseOf(state, config).positions);
  }
  const share = Math.min((level * freeCount(state)) / state.ids.length, 1 - alpha(1));
  return f32(-Math.log1p(-share));
}

// ---- blocks ------------------------------------------------------------------------------------------

function blockNumbers(state, config) {
  const { length } = state.ids;
  if (config.block_length === null) return new Int32Array(length);
  let first = 0;
  if (config.block_start !== "zero") while (first < length && state.fixed[first]) first += 1;
  return Int32Array.from({ length }, (_, i) => Math.floor(Math.max(0, i - first) / config.block_length));
}

function countByBlock(positions, numbers) {
  const counts = new Array(Math.max(...numbers) + 1).fill(0);
  for (const p of positions) counts[numbers[p]] += 1;
  return counts;
}

/** The step before which each block is full. */
function blockEnds(free, steps) {
  const total = Math.max(1, free.reduce((a, b) => a + b, 0));
  const used = free.filter((n) => n > 0).length;
  let number = 0;
  let sum = 0;
  let most = 0;
  return free.map((n) => {
    number += n > 0;
    sum += n;
    const end = roundHalfEven((steps * sum) / total);
    most = Math.max(most, n > 0 ? end - number : 0);
    return Math.min(most + number, Math.max(steps - (used - number), number));
  });
}

function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 ? floor + 1 : floor;
}

function numTransferTokens(masked, free, step, steps) {
  const current = Math.max(0, masked.findIndex((n) => n > 0));
  const total = masked.reduce((a, b) => a + b, 0);
  const left = blockEnds(free, steps)[current] - step;
  const share = Math.floor(((steps - step) * masked[current]) / Math.max(1, total));
  return Math.ceil(masked[current] / Math.max(1, left > 0 ? left : share));
}

function blockOnGrid(masked, free, step, steps) {
  const ends = blockEnds(free, steps);
  const scheduled = Math.min(ends.filter((end) => end <= step).length, masked.length - 1);
  const first = masked.findIndex((n) => n > 0);
  const current = first < 0 ? scheduled : Math.min(first, scheduled);
  const before = current > 0 ? ends[current - 1] : 0;
  const total = Math.max(1, masked.reduce((a, b) => a + b, 0));
  const here = ends[current] - step;
  const left = Math.max(1, here > 0 ? here : Math.floor(((steps - step) * masked[current]) / total));
  return [current, left, Math.max(left, ends[current] - before)];
}

/** s, [a_t, a_s] and, with blocks, the positions of the block of the next step on the grid of times. */
function onGrid(state, config) {
  const { steps } = config;
  let left = Math.max(1, steps - state.step);
  let total = Math.max(steps, left);
  let active = null;
  if (config.block_length && isOnSchedule(config)) {
    const numbers = blockNumbers(state, config);
    const masked = countByBlock(maskedPositions(state), numbers);
    const free = countByBlock(positionsOf(state.fixed, 0), numbers);
    let current;
    [current, left, total] = blockOnGrid(masked, free, state.step, steps);
    active = numbers.map((n) => (n === current ? 1 : 0));
  }
  const [t, s] = [left / total, (left - 1) / total].map((time) => (config.strategy === "remdm_loop" ? loopTime(config, time) : time));
  return { s, alphas: [alpha(t), left === 1 ? 1 : alpha(s)], active };
}

/** `remdm_loop`: time stands still at alpha_on from t_on to t_off. */
function loopTime(config, share) {
  let [low, high] = [0, 1];
  for (let i = 0; i < 60; i += 1) {
    const middle = (low + high) / 2;
    if (alpha(middle) > config.alpha_on) low = middle;
    else high = middle;
  }
  const shares = [0, config.t_off, config.t_on, 1];
  const times = [0, low, low, 1];
  for (let i = 0; i < 3; i += 1) {
    if (share < shares[i + 1] || i === 2) {
      return times[i] + ((times[i + 1] - times[i]) / (shares[i + 1] - shares[i])) * (share - shares[i]);
    }
  }
  return share;
}

const hittingTime = (state, u) => state.t * Math.max(0, ...maskedPositions(state).map((p) => u[p]));

// ---- strategies --------------------------------------------------------------------------------------

/** `count` of the candidates: highest score first, then leftmost; ascending. */
const best = (candidates, scores, count) =>
  [...candidates].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, count).sort((a, b) => a - b);

/** The masked positions of the first block that has any. */
function candidatesOf(state, config, masked) {
  const numbers = blockNumbers(state, config);
  const first = Math.min(...masked.map((p) => numbers[p]));
  return masked.filter((p) => numbers[p] === first);
}

/** The positions whose logits the next step reads. */
export function wanted(state, config) {
  const masked = maskedPositions(state);
  if (speculates(config)) return masked;
  if (!isOnSchedule(config)) return candidatesOf(state, config, masked);
  const { active } = onGrid(state, config);
  const hidden = active ? masked.filter((p) => active[p]) : masked;
  return hidden.length ? hidden : masked.slice(0, 1);
}

function select(state, config, masked, scoreOf, drawn, u) {
  const { strategy } = config;
  if (isOnSchedule(config)) return onSchedule(state, config, masked, u);
  const candidates = candidatesOf(state, config, masked);
  const scores = new Float64Array(state.ids.length).fill(-Infinity);
  const fill = (score) => candidates.forEach((p) => { scores[p] = score(p); });
  const confidence = () => fill((p) => (drawn ? drawn.get(p).probability : topProbability(scoreOf(p))));
  if (strategy === "first_hitting") {
    masked.forEach((p) => { scores[p] = candidates.includes(p) ? u[p] : -1; });
    const t = config.block_length ? null : hittingTime(state, u);
    return { reveal: best(candidates, scores, 1), scores, t, candidates };
  }
  if (strategy === "threshold") {
    confidence();
    const first = best(candidates, scores, 1);
    const reveal = candidates.filter((p) => scores[p] >= config.threshold || first.includes(p));
    return { reveal, scores, threshold: config.threshold, candidates };
  }
  if (strategy === "factor") {
    confidence();
    const order = candidates.map((p) => scores[p]).sort((a, b) => b - a);
    const fits = order.filter((c, i) => (i + 2) * (1 - c) < config.factor).length;
    return { reveal: best(candidates, scores, Math.max(fits, 1)), scores, candidates };
  }
  if (strategy === "entropy_bound") {
    fill((p) => -entropyOf(scoreOf(p)));
    let smaller = 0; // the sum of the entropies but the largest
    const order = candidates.map((p) => -scores[p]).sort((a, b) => a - b);
    const count = order.filter((h) => ((smaller += h) - h) <= config.entropy_bound).length;
    return { reveal: best(candidates, scores, count), scores, candidates };
  }
  if (strategy === "low_confidence") confidence();
  else if (strategy === "entropy") fill((p) => -entropyOf(scoreOf(p)));
  else if (strategy === "margin") fill((p) => marginOf(scoreOf(p)));
  else fill((p) => u[p]);
  const numbers = blockNumbers(state, config);
  const count = numTransferTokens(
    countByBlock(masked, numbers), countByBlock(positionsOf(state.fixed, 0), numbers), state.step, config.steps,
  );
  const gumbel = (p) => -Math.log(-Math.log(Math.max(u[p], 2 ** -53)));
  const ranking = config.alg_temp ? scores.map((score, p) => score + config.alg_temp * gumbel(p)) : scores;
  return { reveal: best(candidates, ranking, count), scores, candidates };
}

function onSchedule(state, config, masked, u) {
  const { strategy } = config;
  const { s, alphas: [from, to], active } = onGrid(state, config);
  const inBlock = (p) => active === null || active[p] === 1;
  const hidden = masked.filter(inBlock);
  const shown = Array.from(state.ids.keys()).filter((p) => state.ids[p] !== state.maskId && !state.fixed[p] && inBlock(p));
  const most = Math.min(1, (1 - to) / Math.max(from, 1e-12));
  const capped = Math.min(config.remask_cap, most);
  const sigma = { remdm: capped, remdm_rescale: config.remask_rescale * most, remdm_loop: to === from ? capped : 0 }[strategy] ?? 0;
  const threshold = (to - (1 - sigma) * from) / (1 - from);
  let remask = strategy === "ancestral" ? [] : shown.filter((p) => u[p] < sigma);
  if (strategy === "remdm_conf") {
    const weight = (p) => Math.exp(-(round6(state.confidence[p]) ?? 0));
    const sum = Math.max(1e-12, shown.reduce((total, p) => total + weight(p), 0));
    remask = shown.filter((p) => u[p] < (most * weight(p)) / sum);
  }
  return { reveal: hidden.filter((p) => u[p] < threshold), scores: u, remask, threshold, t: config.block_length ? null : s };
}

// ---- one step ----------------------------------------------------------------------------------------

/** The state after one step; logits as above, of the positions `wanted` or more. Nothing is changed in place. */
export function step(state, config, logits) {
  if (speculates(config)) return accept(state, config, logits);
  const { maskId } = state;
  const masked = maskedPositions(state);
  const noise = noiseOf(state, config);
  const known = new Map();
  const scoreOf = (p) => {
    if (!known.has(p)) known.set(p, distribution(logits, logits.positions.indexOf(p), maskId));
    return known.get(p);
  };
  const present = new Set(state.ids);
  const seen = config.repetition_penalty === 1 ? null : Uint8Array.from({ length: maskId }, (_, id) => present.has(id));
  const draw = (p) => {
    const row = scoreOf(p);
    const token = pick(row, noise.tokens[p], config, seen);
    return { token, probability: f32(row.w[token] / row.total) };
  };
  const drawsFirst = config.confidence === "drawn" && BY_CONFIDENCE.includes(config.strategy);
  const drawn = drawsFirst ? new Map(wanted(state, config).map((p) => [p, draw(p)])) : null;
  const selection = select(state, config, masked, scoreOf, drawn, noise.positions);
  const { scores, remask = [] } = selection;

  const ids = state.ids.slice();
  const confidence = state.confidence.slice();
  const entropy = state.entropy.slice();
  const topK = {};
  const why = {};
  for (const p of selection.reveal) {
    const row = scoreOf(p);
    const { token, probability } = drawn?.get(p) ?? draw(p);
    [ids[p], confidence[p], entropy[p]] = [token, probability, entropyOf(row)];
    topK[p] = topTokens(row);
    why[p] = [rankOf(row, token), round6(Math.abs(scores[p]))];
  }
  for (const p of remask) [ids[p], confidence[p], entropy[p]] = [maskId, NaN, NaN];
  let { reveal } = selection;
  if (config.stop_at_eos) {
    const cut = new Set(ended(config, { ...state, ids }));
    for (const p of cut) [ids[p], confidence[p], entropy[p]] = [maskId - 1, NaN, NaN];
    for (const p of reveal) if (cut.has(p)) [delete topK[p], delete why[p]];
    reveal = reveal.filter((p) => !cut.has(p));
  }
  const passedOver = isOnSchedule(config) ? [] : (selection.candidates ?? masked).filter((p) => !selection.reveal.includes(p));
  const next = { ...state, ids };
  return {
    ...next, step: state.step + 1, t: selection.t ?? maskedShare(next), nfe: state.nfe + (masked.length > 0),
    confidence, entropy, revealed: reveal, remasked: remask, topK, why,
    runnerUp: passedOver.length ? Math.abs(Math.max(...passedOver.map((p) => scores[p]))) : NaN,
    threshold: selection.threshold ?? null,
  };
}

const rankOf = ({ row }, token) => row.reduce((rank, logit) => rank + (logit > row[token]), 1);

// ---- speculative: speculative.py ---------------------------------------------------------------------

/** The positions to verify, and those of the [MASK]s of the block to draft. */
function placesOf(state, size) {
  const first = state.ids.indexOf(state.maskId);
  const drafted = maskedPositions(state).filter((p) => p < first + size);
  const unknown = drafted.findIndex((p) => state.draft[p] === NO_TOKEN);
  return { verified: unknown < 0 ? drafted : drafted.slice(0, unknown + 1), drafted };
}

/** The ids that the denoiser gets: with `speculative`, the tokens to verify are in place of their [MASK]s. */
export function inputIds(state, config) {
  if (!speculates(config)) return state.ids;
  const ids = state.ids.slice();
  for (const p of placesOf(state, config.block_length).verified) ids[p] = Math.max(state.draft[p], 0);
  return ids;
}

/** The state after a pass; logits of the positions to verify, then of the drafted ones. */
function accept(state, config, logits) {
  const { verified, drafted } = placesOf(state, config.block_length);
  const count = verified.length + drafted.length;
  if (logits.positions.length !== count) throw new Error(`there are logits for ${logits.positions.length} positions; there must be ${count}`);
  const turns = new Map(positionsOf(state.fixed, 0).map((p, turn) => [p, turn])); // blocks of one token take a step each
  const uniforms = new Map(drafted.map((p) => [p, tokenNoise(config.seed, state.row, turns.get(p), state.ids.length, p)]));
  const draw = (p, index) => {
    const row = distribution(logits, index, state.maskId);
    return { row, token: pick(row, uniforms.get(p), config, null) };
  };
  const now = verified.map(draw);
  const found = drafted.map((p, i) => draw(p, verified.length + i).token);
  const wrong = verified.findIndex((p, i) => state.draft[p] !== now[i].token);
  const accepted = wrong < 0 ? verified : verified.slice(0, wrong + 1);

  const draft = noDraft(state.ids.length);
  drafted.forEach((p, i) => { draft[p] = found[i]; });
  if (accepted.some((_, i) => found[i] !== now[i].token)) verified.forEach((p, i) => { draft[p] = now[i].token; });
  draft.fill(NO_TOKEN, 0, accepted.at(-1) + 1);
  const [ids, confidence, entropy] = [state.ids.slice(), state.confidence.slice(), state.entropy.slice()];
  accepted.forEach((p, i) => {
    const { row, token } = now[i];
    [ids[p], confidence[p], entropy[p]] = [token, f32(row.w[token] / row.total), entropyOf(row)];
  });
  const cut = new Set(config.stop_at_eos ? ended({ ...config, block_length: 1 }, { ...state, ids }) : []);
  for (const p of cut) [ids[p], confidence[p], entropy[p]] = [state.maskId - 1, NaN, NaN];
  const topK = {};
  const why = {};
  accepted.forEach((p, i) => {
    if (!cut.has(p)) [topK[p], why[p]] = [topTokens(now[i].row), [rankOf(now[i].row, now[i].token), round6(confidence[p])]];
  });
  const next = { ...state, ids, draft };
  return {
    ...next, step: state.step + 1, t: maskedShare(next), nfe: state.nfe + 1, confidence, entropy,
    revealed: accepted.filter((p) => !cut.has(p)), remasked: [], topK, why, runnerUp: NaN, threshold: null,
  };
}

/** What follows the first <|endoftext|> that was written in a full block, unless text is given behind it. */
function ended(config, state) {
  const numbers = blockNumbers(state, config);
  const { ids, fixed, maskId } = state;
  const current = Math.min(ids.length, ...maskedPositions(state).map((p) => numbers[p]));
  const first = ids.findIndex((id, p) => id === maskId - 1 && !fixed[p] && numbers[p] < current);
  const behind = first < 0 ? [] : Array.from(ids.keys()).slice(first + 1);
  return behind.some((p) => fixed[p]) ? [] : behind.filter((p) => ids[p] !== maskId - 1);
}

/** What the denoiser would put at the positions of its logits: {position: [[id, probability], ...]}. */
export const guesses = (state, logits) =>
  Object.fromEntries(logits.positions.map((p, i) => [p, topTokens(distribution(logits, i, state.maskId))]));

/** The state as a frame of the player (diffuapriel/sampling/frames.py). */
export function frameOf(state, number, ms = 0, edits = {}) {
  const masked = maskedPositions(state);
  const first = masked.findIndex((p) => state.draft[p] === NO_TOKEN); // without a draft
  const draft = masked.slice(0, first < 0 ? masked.length : first).map((p) => [p, state.draft[p]]);
  return {
    step: number, t: state.t, ids: Array.from(state.ids), revealed: state.revealed, remasked: state.remasked,
    confidence: Array.from(state.confidence, round6), entropy: Array.from(state.entropy, round6), top_k: state.topK,
    nfe: state.nfe, ms, why: state.why, runner_up: round6(state.runnerUp),
    threshold: state.threshold === null ? null : round6(Math.min(1, state.threshold)), edits, ...(draft.length ? { draft } : {}),
  };
}
