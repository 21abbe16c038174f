/**
 * A generation that a person steers: the twin of diffuapriel/trace/steering.py and of the app's session. A run keeps
 * every state, so that undoing and branching cost nothing. A change is a step of the sampler or an edit.
 */

import { frameOf, guesses, inputIds, isDone, isOnSchedule, maskedPositions, maskedShare, maxCalls, noDraft, sigmaOf, start, step, wanted } from "./sampler.js";

export const VERSION = 3; // of the player's messages
const FIXING = ["pin", "type", "choose"];

export class Run {
  /** row: of the noise. */
  constructor(canvas, config, maskId, changes = [], row = 0) {
    Object.assign(this, { canvas, config, maskId });
    // A change: {state, ms, edits, steps}, steps being those that the sampler has in total.
    this.changes = changes.length ? changes : [{ state: start(canvas, config, maskId, row), ms: 0, edits: {}, steps: config.steps }];
  }

  get last() {
    return this.changes.at(-1);
  }

  get state() {
    return this.last.state;
  }

  get length() {
    return this.changes.length - 1;
  }

  get options() {
    return { ...this.config, steps: this.last.steps };
  }

  get done() {
    return isDone(this.state, this.options);
  }

  /** The number of changes at the end of the run, without further edits. */
  get planned() {
    const steps = Math.max(1, this.last.steps - this.state.step);
    return this.length + maxCalls({ ...this.config, steps }, maskedPositions(this.state).length, this.state.ids.length);
  }

  /** One denoiser call and one step. */
  async advance(denoiser) {
    const began = performance.now();
    const asked = this.state.ids.includes(this.maskId); // `remdm` may have steps left on a full canvas
    const logits = asked ? await this.ask(denoiser, inputIds(this.state, this.options), wanted(this.state, this.options)) : null;
    const state = step(this.state, this.options, logits);
    this.changes.push({ state, ms: performance.now() - began, edits: {}, steps: this.last.steps });
  }

  ask(denoiser, ids, positions) {
    return denoiser(ids, sigmaOf(this.state, this.options), positions);
  }

  async predict(denoiser) {
    const found = guesses(this.state, await this.ask(denoiser, this.state.ids, maskedPositions(this.state)));
    this.predictions = { length: this.length, found };
    return found;
  }

  /** The most probable [id, probability] pairs when a token was drawn; of a [MASK], those that `predict` found. */
  candidates(position) {
    if (this.state.ids[position] === this.maskId) {
      return this.predictions?.length === this.length ? this.predictions.found[position] ?? [] : [];
    }
    for (const { state, edits } of [...this.changes].reverse()) {
      if (state.topK[position]) return state.topK[position];
      if (["mask", "type"].includes(edits[position])) return [];
    }
    return [];
  }

  branch(at) {
    return new Run(this.canvas, this.config, this.maskId, this.changes.slice(0, at + 1));
  }

  /** A run from the start, with the tokens that are fixed now. */
  restart(config) {
    const { ids, fixed } = this.state;
    const canvas = { ids: Array.from(ids, (id, p) => (fixed[p] ? id : this.maskId)), fixed: Array.from(fixed, Boolean) };
    return new Run(canvas, config, this.maskId);
  }

  // -- edits --

  mask(first, last) {
    this.edit(range(first, last).map((p) => [p, "mask", this.maskId]));
  }

  pin(first, last, pinned) {
    const at = range(first, last).filter((p) => this.state.ids[p] !== this.maskId);
    if (!at.length) throw new Error("a [MASK] cannot be pinned; write something there first");
    this.edit(at.map((p) => [p, pinned ? "pin" : "unpin", this.state.ids[p]]));
  }

  choose(position, id) {
    const candidates = this.candidates(position);
    const probability = candidates.find(([other]) => other === id)?.[1];
    if (probability === undefined) throw new Error(`token ${id} is not among the candidates of position ${position}`);
    this.edit([[position, "choose", id, { confidence: probability, entropy: this.state.entropy[position], candidates }]]);
  }

  /** Write ids from `first` to `last`; what is left over is masked, what needs more room moves the text to the right. */
  write(first, last, ids, filler) {
    const missing = ids.length - (last + 1 - first);
    if (!this.length) return this.replaceText(first, last, ids);
    const moved = missing > 0 ? this.makeRoom(last + 1, missing, filler) : [];
    const { state } = this;
    const values = [...ids, ...new Array(Math.max(0, -missing)).fill(this.maskId)];
    const edits = values.map((id, i) => [first + i, id === this.maskId ? "mask" : "type", id]);
    const to = first + values.length;
    edits.push(...moved.map((p, i) => [to + i, state.fixed[p] ? "type" : "move", state.ids[p], {
      confidence: state.confidence[p], entropy: state.entropy[p], candidates: this.candidates(p),
    }]));
    this.edit(edits);
  }

  makeRoom(from, needed, filler) {
    const { ids } = this.state;
    const moved = [];
    let room = 0;
    for (let p = from; p < ids.length && room < needed; p += 1) {
      if (ids[p] === this.maskId) room += 1;
      else moved.push(p);
    }
    while (room < needed && moved.length > 1 && ids[moved.at(-1)] === filler && ids[moved.at(-2)] === filler) {
      moved.pop();
      room += 1;
    }
    if (room < needed) throw new Error(`the text needs room for ${needed} more; mask something behind it`);
    return moved;
  }

  /** Before the first step: as in a text editor, with masks at the end to keep the length. */
  replaceText(first, last, ids) {
    const before = Array.from(this.state.ids.slice(0, first));
    const after = Array.from(this.state.ids.slice(last + 1));
    const fixed = Array.from(this.state.fixed, Boolean);
    let surplus = before.length + ids.length + after.length - this.state.ids.length;
    for (; surplus > 0 && after.at(-1) === this.maskId; surplus -= 1) after.pop();
    if (surplus > 0) throw new Error("the text does not fit; raise the length");
    for (; surplus < 0; surplus += 1) after.push(this.maskId);
    const all = [...before, ...ids, ...after];
    const kept = [...fixed.slice(0, first), ...ids.map((id) => id !== this.maskId), ...fixed.slice(last + 1)].slice(0, all.length);
    while (kept.length < all.length) kept.push(false);
    this.replaceStart({ ids: all, fixed: kept });
  }

  replaceStart(canvas) {
    Object.assign(this, new Run(canvas, this.config, this.maskId));
  }

  /** Apply [[position, kind, id, known], ...]; known: {confidence, entropy, candidates} of a token that has them. */
  edit(edits) {
    const { state, maskId } = this;
    const [ids, fixed] = [state.ids.slice(), state.fixed.slice()];
    for (const [p, kind, id] of edits) [ids[p], fixed[p]] = [id, FIXING.includes(kind) ? 1 : 0];
    if (!this.length) return this.replaceStart({ ids, fixed });
    const written = edits.filter(([, kind]) => kind !== "pin" && kind !== "unpin").map(([p]) => p);
    const [confidence, entropy] = [state.confidence.slice(), state.entropy.slice()];
    for (const p of written) [confidence[p], entropy[p]] = [NaN, NaN];
    const topK = {};
    for (const [p, , , known] of edits.filter((made) => made[3])) {
      [confidence[p], entropy[p]] = [known.confidence, known.entropy];
      if (known.candidates.length) topK[p] = known.candidates;
    }
    const next = {
      ...state, ids, fixed, confidence, entropy, draft: noDraft(ids.length), topK, why: {}, runnerUp: NaN, threshold: null,
      revealed: written.filter((p) => ids[p] !== maskId), remasked: written.filter((p) => ids[p] === maskId && state.ids[p] !== maskId),
    };
    if (!isOnSchedule(this.config)) next.t = maskedShare(next);
    const atStart = Math.max(1, this.canvas.fixed.filter((keep) => !keep).length);
    const needed = Math.min(this.config.steps, Math.ceil((maskedPositions(next).length * this.config.steps) / atStart));
    const kinds = Object.fromEntries(edits.map(([p, kind]) => [p, kind]));
    this.changes.push({ state: next, ms: 0, edits: kinds, steps: Math.max(this.last.steps, state.step + needed) });
  }

  // -- messages --

  frames(from = 0) {
    return this.changes.slice(from).map(({ state, ms, edits }, i) => frameOf(state, from + i, ms, edits));
  }

  header(about, eosId) {
    return {
      meta: { ...about, ...this.config, schedule: "log-linear" }, length: this.canvas.ids.length, mask_id: this.maskId, eos_id: eosId,
      fixed: Array.from(this.canvas.fixed, Boolean),
    };
  }
}

const range = (first, last) => Array.from({ length: last - first + 1 }, (_, i) => first + i);

/** {id: text} of all ids in frames. */
export function vocabularyOf(frames, tokenizer) {
  const drafts = frames.flatMap((frame) => (frame.draft ?? []).map(([, id]) => id));
  const ids = new Set(drafts.concat(frames.flatMap((frame) => [...frame.ids, ...Object.values(frame.top_k).flatMap((rows) => rows.map(([id]) => id))])));
  return Object.fromEntries([...ids].map((id) => [id, tokenizer.display(id)]));
}

/** The stories of a canvas that are complete: [{text, first, ids}], `first` being a position. */
export function stories(ids, maskId, eosId, finished) {
  const found = [];
  let first = 0;
  for (let end = 0; end <= ids.length; end += 1) {
    if (end < ids.length && ids[end] !== eosId) continue;
    const story = Array.from(ids.slice(first, end));
    if (story.length && !story.includes(maskId) && (end < ids.length || finished)) found.push({ first, ids: story });
    first = end + 1;
  }
  return found;
}
