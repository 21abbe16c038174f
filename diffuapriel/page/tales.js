/**
 * The checker of stories: the twin of diffuapriel/tales/grammar/parser.py. It reads the grammar that
 * diffuapriel/page/grammar.py writes as JSON, and says whether a text is grammatical and consistent, and where it breaks.
 */

const END = -1;
const END_OF_STORY = "the end";
const MOST_EXPECTED = 5;
const PIECE = /'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{Nd}+| ?[^\s\p{L}\p{Nd}]+|\s+(?!\S)|\s+/gu;
const split = (text) => text.match(PIECE) ?? [];
const quote = (word) => (word.includes("'") && !word.includes('"') ? `"${word}"` : `'${word}'`);

export class Checker {
  constructor({ start, nodes, kinds, registers, reasons }) {
    Object.assign(this, { start, nodes, kinds, registers, reasons });
    const known = new Map();
    for (const node of nodes) {
      if (node.type === "literal") node.readings = [split(node.text)];
      if (node.type !== "slot") continue;
      const key = JSON.stringify([node.kind, node.form, node.lead]);
      if (!known.has(key)) known.set(key, this.readings(node));
      node.readings = known.get(key);
    }
  }

  /** All that the syntax accepts for a slot, as pieces. */
  readings({ kind, form, lead }) {
    const { forms, stray } = this.kinds[kind];
    const accepted = form === null ? ["", "s"] : [form];
    const surfaces = accepted.flatMap((name) => forms[name].map(([, surface]) => surface));
    surfaces.push(...accepted.flatMap((name) => stray[name] ?? []));
    return [...new Set(surfaces)].map((surface) => split(lead + surface));
  }

  /** {grammatical, consistent, message, position}; message and position tell what breaks, where. */
  check(text) {
    const chart = new Chart(this, split(text));
    const failure = chart.possible ? this.follow(chart.walk()) : chart.failure();
    const grammatical = chart.possible;
    if (!failure) return { grammatical, consistent: true, message: "", position: null };
    return { grammatical, consistent: false, message: this.explain(failure), position: failure.position };
  }

  /** The first word of a walk that breaks an agreement, or null. */
  follow(walk) {
    const registers = new Array(this.registers.length).fill(null);
    for (const { node, surface, offset } of walk) {
      if (node.type !== "slot") continue;
      const { values, surfaces } = this.options(node, registers);
      const at = surfaces.indexOf(surface);
      if (at < 0) return this.disagreement(node, surface, registers, offset);
      if (node.bind !== null) registers[node.bind] = values[at];
    }
    return null;
  }

  /** The values that agreement allows in a slot, and their surfaces. */
  options({ kind, form, count, lead, source }, registers) {
    const [a, b] = [registers[source.a], registers[source.b]];
    const given = () => source.given.find(([value]) => value === a)[1];
    const found = { "=": () => [a], "|": () => [a, b], "*": () => source.values, "@": given, "+": () => [a + b], "-": () => [a - b] };
    const taken = source.excluded.map((i) => registers[i]);
    const values = found[source.operation]().filter((value) => !taken.includes(value));
    const name = form ?? (count !== null && registers[count] === 1 ? "" : "s");
    return { values, surfaces: values.map((value) => lead + this.surface(kind, name, value)) };
  }

  surface(kind, form, value) {
    return this.kinds[kind].forms[form].find(([other]) => other === value)?.[1];
  }

  disagreement(node, surface, registers, offset) {
    const plain = (i) => this.surface(this.registers[i], "", registers[i]);
    const got = surface.trim();
    const { source } = node;
    const due = this.options(node, registers).surfaces.map((word) => word.trim());
    const failure = { position: offset + (surface.startsWith(" ") ? 1 : 0), got, due, causes: [] };
    const because = (reason, ...causes) => ({ ...failure, reason, causes: causes.map(plain) });
    if ("+-".includes(source.operation)) return because(source.operation === "+" ? "sum" : "difference", source.a, source.b);
    if (source.excluded.map(plain).includes(got)) return { ...because("used"), due: [] };
    if (node.count !== null) return because("count", node.count);
    if (source.operation === "=" && node.form) return because("form", source.a);
    if (due.length === 1) return because("before");
    return source.operation === "@" ? because("pair", source.a) : because("unknown");
  }

  explain({ reason, got = "", due = [], causes = [] }) {
    const words = due.map((word) => (word === END_OF_STORY ? this.reasons.end : word));
    let expected = words.slice(0, MOST_EXPECTED).map(quote).join(", ");
    const fill = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
    if (words.length > MOST_EXPECTED) expected += fill(this.reasons.more, { n: words.length - MOST_EXPECTED });
    return fill(this.reasons[reason], {
      got, a: causes[0], b: causes[1], due: words[0],
      expected: words.length ? fill(this.reasons.expected, { words: expected }) : "",
      either: words.slice(0, 6).map(quote).join(this.reasons.or) + (words.length > 6 ? " ..." : ""),
    });
  }
}

/** The walks along a text by the syntax alone: after each piece, the nodes that can be next and how each was reached. */
class Chart {
  constructor(checker, pieces) {
    Object.assign(this, { checker, pieces });
    this.entered = Array.from({ length: pieces.length + 1 }, () => new Map());
    this.entered[0].set(checker.start, null);
    for (let i = 0; i <= pieces.length; i += 1) this.readOn(i);
  }

  get possible() {
    return this.entered.at(-1).has(END);
  }

  /** Enter every node that can be next after i pieces, and read on from each; the map grows while branches open. */
  readOn(i) {
    for (const index of this.entered[i].keys()) {
      const node = this.checker.nodes[index];
      if (node?.type === "branch") {
        for (const next of node.nodes) if (!this.entered[i].has(next)) this.entered[i].set(next, { before: i, index });
      }
      for (const form of node?.readings ?? []) {
        if (!form.every((piece, n) => this.pieces[i + n] === piece)) continue;
        const after = this.entered[i + form.length];
        if (!after.has(node.next)) after.set(node.next, { before: i, index });
      }
    }
  }

  /** The walk along the whole text. */
  walk() {
    const offsets = this.pieces.reduce((sums, piece) => [...sums, sums.at(-1) + piece.length], [0]);
    const walk = [];
    let i = this.pieces.length;
    for (let arrival = this.entered[i].get(END); arrival !== null; arrival = this.entered[i].get(arrival.index)) {
      const surface = this.pieces.slice(arrival.before, i).join("");
      i = arrival.before;
      walk.unshift({ node: this.checker.nodes[arrival.index], surface, offset: offsets[i] });
    }
    return walk;
  }

  /** The first piece that no walk reads, and what could have come instead. */
  failure() {
    let furthest = 0;
    let due = new Set();
    this.entered.forEach((entered, i) => {
      for (const index of entered.keys()) {
        for (const form of index === END ? [[END_OF_STORY]] : this.checker.nodes[index].readings ?? []) {
          let n = 0;
          while (n < form.length && i + n < this.pieces.length && form[n] === this.pieces[i + n]) n += 1;
          if (i + n > furthest) [furthest, due] = [i + n, new Set()];
          if (i + n === furthest && n < form.length) due.add(form[n].trim());
        }
      }
    });
    const words = [...due].sort();
    const position = this.pieces.slice(0, furthest).join("").length;
    if (furthest === this.pieces.length) return { reason: "ends", position, due: words };
    const piece = this.pieces[furthest];
    const at = position + piece.length - piece.trimStart().length;
    if (words.includes(piece.trim())) return { reason: piece.startsWith(" ") ? "no_space" : "space", position: at, got: piece.trim() };
    return { reason: "unfit", position: at, got: piece.trim() || piece, due: words };
  }
}
