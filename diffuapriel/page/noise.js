/**
 * The uniform numbers of a sampler's step: the twins of `Noise.draw` and `block_uniforms` in
 * diffuapriel/sampling/tokens.py.
 *
 * Philox-4x64-10 (Salmon et al. 2011) as in NumPy: a function of (seed, row, step), so that page and package draw the
 * same numbers.
 */

const MASK = (1n << 64n) - 1n;
const MULTIPLIERS = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];
const ROUNDS = 10;

/** The four 64-bit numbers of one counter. */
function philox([c0, c1, c2, c3], [k0, k1]) {
  for (let round = 0; round < ROUNDS; round += 1) {
    const first = MULTIPLIERS[0] * c0;
    const second = MULTIPLIERS[1] * c2;
    [c0, c1, c2, c3] = [(second >> 64n) ^ c1 ^ k0, second & MASK, (first >> 64n) ^ c3 ^ k1, first & MASK];
    k0 = (k0 + WEYL[0]) & MASK;
    k1 = (k1 + WEYL[1]) & MASK;
  }
  return [c0, c1, c2, c3];
}

const uniform = (bits) => Number(bits >> 11n) / 2 ** 53;

/** The number for the token at one position: that of `drawNoise`, without the others. */
export function tokenNoise(seed, row, step, length, position) {
  const at = length + position;
  return uniform(philox([BigInt(Math.floor(at / 4) + 1), 0n, 0n, BigInt(step)], [BigInt(seed), BigInt(row)])[at % 4]);
}

/** {positions, tokens}: two Float64Arrays of `length` numbers in [0, 1), for step `step` of row `row`. */
export function drawNoise(seed, row, step, length) {
  const numbers = new Float64Array(Math.ceil((2 * length) / 4) * 4);
  const key = [BigInt(seed), BigInt(row)];
  for (let block = 0; block < numbers.length / 4; block += 1) {
    philox([BigInt(block + 1), 0n, 0n, BigInt(step)], key).forEach((bits, i) => {
      numbers[4 * block + i] = uniform(bits);
    });
  }
  return { positions: numbers.subarray(0, length), tokens: numbers.subarray(length, 2 * length) };
}
