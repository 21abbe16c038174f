/** The tokenizer and the canvas of a text: the twins of diffuapriel/tokenizer.py and diffuapriel/sampling/canvas.py. */

const SPLIT = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;
const HOLE = /_{3,}|\[MASK(?:\]|:([^\]\n]*)(\])?)|\[(?:[mM][aA][sS][kK]):([0-9]+)(\])/g;

export class Tokenizer {
  /** ranks: the tokens in base64, by rank. */
  constructor({ name, ranks }) {
    this.name = name;
    this.tokens = ranks.map(atob); // a character for each byte
    this.ranks = new Map(this.tokens.map((token, rank) => [token, rank]));
    this.eosId = ranks.length;
    this.maskId = ranks.length + 1;
    this.tokens.push("<|endoftext|>", "[MASK]");
  }

  encode(text) {
    return (text.match(SPLIT) ?? []).flatMap((piece) => this.merge(String.fromCharCode(...new TextEncoder().encode(piece))));
  }

  /** Byte-pair encoding of one piece: the pair of the lowest rank first. */
  merge(bytes) {
    if (this.ranks.has(bytes)) return [this.ranks.get(bytes)];
    const parts = [...bytes];
    for (;;) {
      let at = -1;
      let lowest = Infinity;
      for (let i = 0; i + 1 < parts.length; i += 1) {
        const rank = this.ranks.get(parts[i] + parts[i + 1]) ?? Infinity;
        if (rank < lowest) [at, lowest] = [i, rank];
      }
      if (at < 0) return parts.map((part) => this.ranks.get(part));
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
  }

  decode(ids) {
    const bytes = Array.from(ids, (id) => this.tokens[id]).join("");
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes, (byte) => byte.charCodeAt(0)));
  }

  /** A token for the screen; bytes that are no whole character as "\xe2". */
  display(id) {
    try {
      return decodeURIComponent(Array.from(this.tokens[id], (byte) => `%${hex(byte)}`).join(""));
    } catch {
      return Array.from(this.tokens[id], (byte) => (byte < "\x80" ? byte : `\\x${hex(byte)}`)).join("");
    }
  }

  /** {ids, fixed} of a text with holes; [MASK]s fill it up to `length` tokens. */
  canvas(text, length = 0) {
    const ids = [];
    let end = 0;
    for (const hole of text.matchAll(HOLE)) {
      ids.push(...this.encode(text.slice(end, hole.index).replace(/ $/, "")), ...new Array(holeSize(hole)).fill(this.maskId));
      end = hole.index + hole[0].length;
    }
    ids.push(...this.encode(text.slice(end)));
    if (length && ids.length > length) throw new Error(`the text takes ${ids.length} tokens; raise the length or shorten the text`);
    while (ids.length < length) ids.push(this.maskId);
    if (!ids.length) throw new Error('the text is empty; write something, or "[MASK:16]"');
    return { ids, fixed: ids.map((id) => id !== this.maskId) };
  }
}

const hex = (byte) => byte.charCodeAt(0).toString(16).padStart(2, "0");

function holeSize([hole, count, closed, lowerCount]) {
  if (hole[0] === "_") return hole.length;
  if (hole === "[MASK]") return 1;
  const size = lowerCount ?? count;
  if (!closed && !lowerCount) throw new Error(`"${hole}" has no closing bracket; write [MASK] or [MASK:8]`);
  if (!/^[0-9]{1,4}$/.test(size) || Number(size) < 1) {
    throw new Error(`"${hole}" is not a hole; write [MASK] for one token or [MASK:n] for n tokens`);
  }
  return Number(size);
}
