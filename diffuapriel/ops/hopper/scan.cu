// The forward scan of a bidirectional Mamba-2 mixer for Hopper (sm_90a): bfloat16, headdim 64, d_state 128, four taps, and
// whole chunks of 64 tokens, because TMA does not store a tile that begins before its tensor.
//
// The arithmetic is that of scan_kernel and states_kernel in ops/triton/scan.py. What Triton cannot say:
//
//   - A block owns two heads of one direction, one warpgroup each, and a third warpgroup loads. One of its warps brings
//     chunks ahead into a ring in shared memory by TMA: B and C once for both heads, x with the rows before it, and z;
//     two more take the running sums of dt A.
//   - The state H (p, n) never leaves the registers: it is the accumulator of one product (wgmma), and rounded it is the
//     left operand of another, in the same layout. So are x and the output; only the scores W pass through shared
//     memory. Everything is (channel, token), which turns the tiles in memory by ldmatrix and stmatrix alone.
//   - Products run while the convolution, the decay and the gate are computed: the scores of the next chunk are multiplied
//     behind this chunk's gate.
//
// Chunks lie in memory order in both directions. The reverse one differs in the order of the chunks, the rows that the
// convolution reads, the direction of the running sums, and the mask.
//
//   S = C B^T (t, u)     W = S exp(s_t - s_u) dt_u, masked, + D on the diagonal     O (p, t) = exp(s_t) H C^T + x^T W^T
//   H' = exp(s_end) H + (exp(s_end - s_u) dt_u x_u)^T B                              g = O SiLU(z)
//
// Compiled by NVRTC (nvrtc.py).

#ifdef __CUDACC_RTC__  // NVRTC has no headers
typedef unsigned char uint8_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t;
#else
#include <stdint.h>
#endif

constexpr int CHUNK = 64, P = 64, N = 128, TAPS = 4, HEADS = 2;  // HEADS of a block
constexpr int X_ROWS = CHUNK + TAPS - 1;
constexpr int TILE = CHUNK * 128;                    // bytes of 64 rows of 64 numbers
constexpr int X_TILE = (X_ROWS + 7) / 8 * 8 * 128;
constexpr int VECTORS = 4;                           // numbers of a token: s, source, remains, grown
constexpr int THREADS = 128 * (HEADS + 1);
constexpr float LOG2E = 1.4426950408889634f;

// Descriptors of wgmma's operands in shared memory, tiles of 64 rows of 128 bytes as TMA swizzles them: with the address / 16.
constexpr uint64_t SWIZZLED = 1ull << 62 | (uint64_t)(1024 / 16) << 32;  // 1024 bytes from 8 rows to the next 8
constexpr uint64_t NEXT_TILE = (uint64_t)(TILE / 16) << 16;              // of an operand with 128 columns along n

struct alignas(64) TensorMap {
  char opaque[128];
};

struct Data {
  const float *dt, *A, *D, *weight, *bias;
  float *added, *totals, *squares;  // added, totals: see split_states in ops/triton/scan.py; layout and base are our own
};

struct Sizes {
  int batch, length, heads, chunks_per_split, splits, pieces, x_direction, conv_channels, items;
};

// ---------------------------------------------------------------------------------------------- one instruction each
// From here to "what a block does" tests/ops/hopper/emulator.h has the same functions for a CPU.

__device__ __forceinline__ uint8_t* dynamic_shared_memory() {
  extern __shared__ uint8_t memory[];
  return memory;
}
__device__ __forceinline__ uint32_t shared_address(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

__device__ __forceinline__ void barrier_init(uint32_t bar, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count));
}
__device__ __forceinline__ void barrier_expect(uint32_t bar, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint32_t bar, int parity) {
  asm volatile(
      "{\n.reg .pred done;\nAGAIN:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra AGAIN;\n}" ::"r"(
          bar),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void barriers_are_initialized() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void warpgroup_barrier(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }

__device__ __forceinline__ void prefetch(const TensorMap* map) { asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory"); }
__device__ __forceinline__ void tma_load(uint32_t to, const TensorMap* map, uint32_t bar, int column, int row, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
          to),
      "l"(map), "r"(bar), "r"(column), "r"(row), "r"(batch)
      : "memory");
}
__device__ __forceinline__ void tma_store(const TensorMap* map, uint32_t from, int column, int row, int batch) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map), "r"(from),
               "r"(column), "r"(row), "r"(batch)
               : "memory");
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
__device__ __forceinline__ void tma_store_has_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }
// Ordinary stores to shared memory become visible to wgmma and TMA.
__device__ __forceinline__ void proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t at) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(at)
               : "memory");
}
__device__ __forceinline__ void store_transposed(uint32_t at, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}
__device__ __forceinline__ void store_matrix(uint32_t at, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(at), "r"(r[0]), "r"(r[1]),
               "r"(r[2]), "r"(r[3])
               : "memory");
}

__device__ __forceinline__ float exp2_(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float log2_(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float silu_of_twice(float half) {  // SiLU(2 half), right to eleven bits
  float tanh;
  asm("tanh.approx.f32 %0, %1;" : "=f"(tanh) : "f"(half));
  return fmaf(half, tanh, half);
}
// Two bfloat16 in a register.
__device__ __forceinline__ float low(uint32_t x) { return __uint_as_float(x << 16); }
__device__ __forceinline__ float high(uint32_t x) { return __uint_as_float(x & 0xffff0000u); }
__device__ __forceinline__ uint32_t halved(uint32_t x) {
  uint32_t y;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(x), "r"(0x3f003f00));
  return y;
}
__device__ __forceinline__ uint32_t pack(float low, float high) {
  uint32_t y;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(high), "f"(low));
  return y;
}

// So many registers are left to, or wanted for, each thread of this warpgroup.
template <int COUNT>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}
// Otherwise the compiler would derive x again in every chunk.
__device__ __forceinline__ void keep(uint32_t& x) { asm("" : "+r"(x)); }

// ------------------------------------------------------------------------------------------------------------ wgmma
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int PENDING>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// The compiler must not move a use of an accumulator over what stands before.
template <int K>
__device__ __forceinline__ void pin(float (&d)[K]) {
#pragma unroll
  for (int i = 0; i < K; i++) asm volatile("" : "+f"(d[i])::"memory");
}

#define EIGHT(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define FIRST_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, " \
  "%25, %26, %27, %28, %29, %30, %31"
#define NEXT_32 \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, " \
  "%55, %56, %57, %58, %59, %60, %61, %62, %63"

// d (64, 64) = a (64, 16) b (64, 16)^T, or += with `accumulate`.
__device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FIRST_32 "}, %32, %33, p, 1, 1, 0, 0;\n}"
               : EIGHT(d, 0), EIGHT(d, 8), EIGHT(d, 16), EIGHT(d, 24)
               : "l"(a), "l"(b), "r"((int)accumulate));
}
// The same with a in registers.
__device__ __forceinline__ void multiply(float (&d)[32], const uint32_t* a, uint64_t b, bool accumulate) {
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" FIRST_32 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 0;\n}"
               : EIGHT(d, 0), EIGHT(d, 8), EIGHT(d, 16), EIGHT(d, 24)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate));
}
// d (64, 128) += a (64, 16) b (16, 128)
__device__ __forceinline__ void multiply_wide(float (&d)[64], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" FIRST_32 ", " NEXT_32
               "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
               : EIGHT(d, 0), EIGHT(d, 8), EIGHT(d, 16), EIGHT(d, 24), EIGHT(d, 32), EIGHT(d, 40), EIGHT(d, 48), EIGHT(d, 56)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// ---------------------------------------------------------------------------------------------------- what a block does

struct Item {  // two heads of one direction of one text, and the chunks of a split or piece
  int head, k, b, begin, end, part;
};

template <bool STATES>
__device__ __forceinline__ Item item_at(int i, const Sizes& sizes) {
  const int pairs = sizes.heads / HEADS, length = STATES ? sizes.chunks_per_split / sizes.pieces : sizes.chunks_per_split;
  Item item;
  item.head = i % pairs * HEADS;
  item.k = i / pairs % 2;
  item.b = i / (2 * pairs) % sizes.batch;
  item.part = i / (2 * pairs * sizes.batch);
  item.begin = item.part * length;
  item.end = min(item.begin + length, sizes.length / CHUNK);
  return item;
}

__device__ __forceinline__ int first_token(const Item& item, int c, int length) {  // of chunk c, in memory order
  return item.k ? length - (c + 1) * CHUNK : c * CHUNK;
}

template <bool STATES>  // offsets in shared memory, in bytes
struct Layout {
  static constexpr int STAGES = STATES ? 4 : 3;
  static constexpr int C = 0, B = STATES ? 0 : 2 * TILE, X = B + 2 * TILE, Z = X + HEADS * X_TILE;  // of a stage
  static constexpr int STAGE = STATES ? Z : Z + HEADS * TILE;
  static constexpr int LOADED = 2 * TILE * (STATES ? 1 : 2) + HEADS * (X_ROWS * 128 + (STATES ? 0 : TILE));
  static constexpr int W = STAGES * STAGE;                                         // (HEADS) tiles
  static constexpr int NUMBERS = STATES ? W : W + HEADS * TILE;                    // (STAGES, HEADS, VECTORS, CHUNK)
  static constexpr int ENDS = NUMBERS + STAGES * HEADS * VECTORS * CHUNK * 4;      // (STAGES, HEADS): s_end
  static constexpr int SQUARES = ENDS + (STAGES * HEADS * 4 + 15) / 16 * 16;       // (HEADS, 4 warps, CHUNK)
  static constexpr int FULL = SQUARES + (STATES ? 0 : HEADS * 4 * CHUNK * 4);      // (STAGES) barriers, then EMPTY
  static constexpr int TOTAL = FULL + 2 * STAGES * 8 + 1024;                       // with what aligns the first tile
};
static_assert(Layout<false>::TOTAL <= 227 * 1024 && Layout<true>::TOTAL <= 227 * 1024, "more than a multiprocessor has");

// Position in a ring of stages.
template <int STAGES>
struct Ring {
  int stage = 0, parity = 0;
  __device__ __forceinline__ void step() {
    if (++stage == STAGES) stage = 0, parity ^= 1;
  }
};

struct Maps {
  const TensorMap *x, *z, *B, *C, *g;
};

template <bool STATES>
__device__ __forceinline__ void load_tiles(const Maps& maps, const Sizes& sizes, uint32_t base) {
  using L = Layout<STATES>;
  Ring<L::STAGES> ring;
  for (int i = blockIdx.x; i < sizes.items; i += gridDim.x) {
    const Item item = item_at<STATES>(i, sizes);
    for (int c = item.begin; c < item.end; c++, ring.step()) {
      const int token = first_token(item, c, sizes.length), x_token = item.k ? token : token - (TAPS - 1);
      const int channel = item.k * sizes.x_direction + item.head * P;
      const uint32_t at = base + ring.stage * L::STAGE, full = base + L::FULL + 8 * ring.stage;
      barrier_wait(full + 8 * L::STAGES, ring.parity ^ 1);
      barrier_expect(full, L::LOADED);
      for (int h = 0; h < HEADS; h++) tma_load(at + L::X + h * X_TILE, maps.x, full, channel + h * P, x_token, item.b);
      for (int h = 0; h < 2; h++) {
        tma_load(at + L::B + h * TILE, maps.B, full, item.k * N + h * 64, token, item.b);
        if (!STATES) tma_load(at + L::C + h * TILE, maps.C, full, item.k * N + h * 64, token, item.b);
      }
      for (int h = 0; h < HEADS && !STATES; h++) tma_load(at + L::Z + h * TILE, maps.z, full, channel + h * P, token, item.b);
    }
  }
}

// One warp, of one of the heads. s is in powers of two.
template <bool STATES>
__device__ __forceinline__ void sum_steps(const Data& data, const Sizes& sizes, uint8_t* memory, uint32_t base, int h) {
  using L = Layout<STATES>;
  const int lane = threadIdx.x % 32;  // has two tokens
  Ring<L::STAGES> ring;
  for (int i = blockIdx.x; i < sizes.items; i += gridDim.x) {
    const Item item = item_at<STATES>(i, sizes);
    const float rate = data.A[item.k * sizes.heads + item.head + h] * LOG2E;
    const float* dt = data.dt + ((int64_t)(item.b * 2 + item.k) * sizes.heads + item.head + h) * sizes.length;
    auto load = [&](int c) { return *(const float2*)(dt + first_token(item, c, sizes.length) + 2 * lane); };
    float2 coming = load(item.begin);
    for (int c = item.begin; c < item.end; c++, ring.step()) {
      const float2 step = coming;
      if (c + 1 < item.end) coming = load(c + 1);
      const float a0 = step.x * rate, a1 = step.y * rate;
      float sum = a0 + a1;  // with the lanes before, in scan order
      for (int d = 1; d < 32; d *= 2) {
        const float up = __shfl_up_sync(~0u, sum, d), down = __shfl_down_sync(~0u, sum, d);
        if (item.k ? lane + d < 32 : lane >= d) sum += item.k ? down : up;
      }
      const float end = __shfl_sync(~0u, sum, item.k ? 0 : 31);
      const float s0 = item.k ? sum : sum - a1, s1 = item.k ? sum - a0 : sum;
      const uint32_t full = base + L::FULL + 8 * ring.stage;
      barrier_wait(full + 8 * L::STAGES, ring.parity ^ 1);
      const int place = ring.stage * HEADS + h;
      float2* v = (float2*)(memory + L::NUMBERS) + place * VECTORS * CHUNK / 2 + lane;
      v[0] = make_float2(s0, s1);
      v[CHUNK / 2] = make_float2(s0 - log2_(step.x), s1 - log2_(step.y));
      v[CHUNK] = make_float2(exp2_(end - s0) * step.x, exp2_(end - s1) * step.y);
      v[3 * CHUNK / 2] = make_float2(exp2_(s0), exp2_(s1));
      if (lane == 0) ((float*)(memory + L::ENDS))[place] = end;
      __syncwarp();
      if (lane == 0) barrier_arrive(full);
    }
  }
}

// Adds up over the 8 lanes of a token; a lane keeps half of its tokens.
template <int HALF>
__device__ __forceinline__ void fold(float (&sums)[16], int lane) {
  const bool upper = lane & (2 * HALF);
#pragma unroll
  for (int j = 0; j < HALF; j++) {
    const float keep = upper ? sums[j + HALF] : sums[j], send = upper ? sums[j] : sums[j + HALF];
    sums[j] = keep + __shfl_xor_sync(~0u, send, 2 * HALF);
  }
}

// One warpgroup, of one of the heads.
template <bool STATES>
__device__ __forceinline__ void walk(const Maps& maps, const Data& data, const Sizes& sizes, uint8_t* memory, uint32_t base,
                                     int h) {
  using L = Layout<STATES>;
  const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;
  // A fragment: rows `row` and row + 8 of the warp's 16, columns `pair` and pair + 1 of every 8.
  const int row = lane / 4, pair = 2 * (lane % 4);
  // What a lane addresses for ldmatrix and stmatrix: token `turned` of 16, and 16 bytes of its 128, swizzled.
  const int turned = (lane >> 4) * 8 + (lane & 7), piece = 2 * warp + ((lane >> 3) & 1);
  uint32_t x_at[3];  // of tokens t, t + 2 and t + 3 in the tile of x, which has three rows more than the chunk
#pragma unroll
  for (int i = 0; i < 3; i++) {
    const int r = turned + (i ? i + 1 : 0);
    x_at[i] = L::X + h * X_TILE + r * 128 + ((piece ^ (r & 7)) << 4);
  }
  const uint32_t z_at = L::Z + h * TILE + turned * 128 + ((piece ^ (turned & 7)) << 4);
  const uint32_t W = base + L::W + h * TILE;
  const int w_row = 16 * warp + (lane & 15);
  float* squares = (float*)(memory + L::SQUARES) + h * 4 * CHUNK;

  Ring<L::STAGES> ring;
  int stored = -1;  // the stage from which TMA stores g; thread 0's
  for (int i = blockIdx.x; i < sizes.items; i += gridDim.x) {
    const Item item = item_at<STATES>(i, sizes);
    const int head = item.head + h, sign = 1 - 2 * item.k;
    const int64_t here = (int64_t)(item.b * 2 + item.k) * sizes.heads + head;
    float taps[2][TAPS], shift[2];  // halved
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const int channel = head * P + 16 * warp + row + 8 * e;
      shift[e] = 0.5f * data.bias[item.k * sizes.conv_channels + channel];
#pragma unroll
      for (int j = 0; j < TAPS; j++)
        taps[e][j] = 0.5f * data.weight[(item.k * TAPS + (item.k ? TAPS - 1 - j : j)) * sizes.conv_channels + channel];
    }
    const float skip = data.D[item.k * sizes.heads + head];
    uint32_t seen = 0, own = 0;  // of the 8 numbers of the warp's 16 by 16 block on the diagonal: a bit each
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const int after = row + 8 * (e / 2 % 2) - pair - e % 2 - 8 * (e / 4);
      if (sign * after >= 0) seen |= 1 << e;
      if (after == 0) own |= 1 << e;
    }
    keep(seen);
    keep(own);

    float H[64], total = 0.f;  // H (p, n)
#pragma unroll
    for (int j = 0; j < 64; j++) H[j] = 0.f;
    for (int j = 0; !STATES && j < item.part * sizes.pieces; j++) {
      const int64_t before = here * (sizes.splits - 1) * sizes.pieces + j;
      const float decay = exp2_(data.totals[before]);
      const float4* added = (const float4*)(data.added + before * P * N) + thread;
#pragma unroll
      for (int m = 0; m < 16; m++) {
        const float4 v = added[128 * m];
        H[4 * m] = H[4 * m] * decay + v.x;
        H[4 * m + 1] = H[4 * m + 1] * decay + v.y;
        H[4 * m + 2] = H[4 * m + 2] * decay + v.z;
        H[4 * m + 3] = H[4 * m + 3] * decay + v.w;
      }
    }

    float S[32];  // (t, u)
    auto multiply_keys = [&](int stage) {
      const uint32_t C = (base + stage * L::STAGE + L::C) / 16, B = (base + stage * L::STAGE + L::B) / 16;
      wgmma_fence();
#pragma unroll
      for (int m = 0; m < N / 16; m++) {
        const uint32_t part = (m / 4 * TILE + m % 4 * 32) / 16;
        multiply(S, SWIZZLED | (C + part), SWIZZLED | (B + part), m > 0);
      }
      wgmma_commit();
    };
    if (!STATES) {
      barrier_wait(base + L::FULL + 8 * ring.stage, ring.parity);
      multiply_keys(ring.stage);
      wgmma_wait<0>();
      pin(S);
    }
    for (int c = item.begin; c < item.end; c++, ring.step()) {
      const uint32_t at = base + ring.stage * L::STAGE, full = base + L::FULL + 8 * ring.stage;
      const float* numbers = (const float*)(memory + L::NUMBERS) + (ring.stage * HEADS + h) * VECTORS * CHUNK;
      barrier_wait(full, ring.parity);
      const float s_end = ((const float*)(memory + L::ENDS))[ring.stage * HEADS + h], decay = exp2_(s_end);
      total += s_end;

      uint32_t rounded[32];
#pragma unroll
      for (int m = 0; m < 32; m++) rounded[m] = pack(H[2 * m], H[2 * m + 1]);
#pragma unroll
      for (int j = 0; j < 64; j++) H[j] *= decay;
      float O[32];  // (p, t) = H C^T
      if (!STATES) {
        wgmma_fence();
#pragma unroll
        for (int m = 0; m < N / 16; m++)
          multiply(O, rounded + 4 * m, SWIZZLED | ((at + L::C + m / 4 * TILE + m % 4 * 32) / 16), m > 0);
        wgmma_commit();
      }

      uint32_t x[16], scaled[16];  // (p, t); scaled: what remains of dt x at the chunk's end
#pragma unroll
      for (int m = 0; m < 4; m++) {
        uint32_t x0[4], x2[4], x3[4];
        load_transposed(x0, at + x_at[0] + m * 16 * 128);
        load_transposed(x2, at + x_at[1] + m * 16 * 128);
        load_transposed(x3, at + x_at[2] + m * 16 * 128);
#pragma unroll
        for (int r = 0; r < 4; r++) {
          const float* w = taps[r % 2];
          const float r0 = low(x0[r]), r1 = high(x0[r]), r2 = low(x2[r]), r3 = high(x2[r]), r4 = high(x3[r]);
          const float2 remains = *(const float2*)(numbers + 2 * CHUNK + 16 * m + 8 * (r / 2) + pair);
          const float y0 = silu_of_twice(fmaf(w[3], r3, fmaf(w[2], r2, fmaf(w[1], r1, fmaf(w[0], r0, shift[r % 2])))));
          const float y1 = silu_of_twice(fmaf(w[3], r4, fmaf(w[2], r3, fmaf(w[1], r2, fmaf(w[0], r1, shift[r % 2])))));
          x[4 * m + r] = pack(y0, y1);
          scaled[4 * m + r] = pack(y0 * remains.x, y1 * remains.y);
        }
      }
      pin(H);
      wgmma_fence();
#pragma unroll
      for (int m = 0; m < 4; m++)
        multiply_wide(H, scaled + 4 * m, SWIZZLED | NEXT_TILE | ((at + L::B + m * 16 * 128) / 16));
      wgmma_commit();

      if (!STATES) {
        wgmma_wait<1>();
        pin(O);
#pragma unroll
        for (int j = 0; j < 8; j++) {
          const float2 grown = *(const float2*)(numbers + 3 * CHUNK + 8 * j + pair);
          O[4 * j] *= grown.x;
          O[4 * j + 1] *= grown.y;
          O[4 * j + 2] *= grown.x;
          O[4 * j + 3] *= grown.y;
        }
        const float s0 = numbers[16 * warp + row], s1 = numbers[16 * warp + row + 8];
#pragma unroll
        for (int m = 0; m < 4; m++) {  // 16 tokens u
          const bool any = sign * (warp - m) >= 0;
          const float from0 = any ? s0 : -__int_as_float(0x7f800000), from1 = any ? s1 : -__int_as_float(0x7f800000);
#pragma unroll
          for (int j = 0; j < 2; j++) {
            const float2 source = *(const float2*)(numbers + CHUNK + 16 * m + 8 * j + pair);
            float* v = S + 8 * m + 4 * j;
            v[0] *= exp2_(from0 - source.x);
            v[1] *= exp2_(from0 - source.y);
            v[2] *= exp2_(from1 - source.x);
            v[3] *= exp2_(from1 - source.y);
          }
        }
#pragma unroll
        for (int m = 0; m < 4; m++)
          if (m == warp) {
#pragma unroll
            for (int e = 0; e < 8; e++) {
              float& v = S[8 * m + e];
              v = seen & (1 << e) ? v : 0.f;
              if (own & (1 << e)) v += skip;
            }
          }
#pragma unroll
        for (int m = 0; m < 4; m++) {
          uint32_t w[4];
#pragma unroll
          for (int r = 0; r < 4; r++) w[r] = pack(S[8 * m + 2 * r], S[8 * m + 2 * r + 1]);
          store_matrix(W + w_row * 128 + (((2 * m + (lane >> 4)) ^ (w_row & 7)) << 4), w);
        }
        proxy_fence();
        if (thread == 0 && stored >= 0) {
          tma_store_has_read();
          barrier_arrive(base + L::FULL + 8 * (L::STAGES + stored));
        }
        __syncwarp();
        warpgroup_barrier(1 + h);
        pin(O);
        wgmma_fence();
#pragma unroll
        for (int m = 0; m < 4; m++) multiply(O, x + 4 * m, SWIZZLED | ((W + 32 * m) / 16), true);
        wgmma_commit();

        // The next chunk's S, in flight during the gate; after the last chunk this one's again, for nothing.
        const bool more = c + 1 < item.end;
        Ring<L::STAGES> next = ring;
        if (more) next.step();
        barrier_wait(base + L::FULL + 8 * next.stage, next.parity);
        multiply_keys(next.stage);

        float gate[32];
#pragma unroll
        for (int m = 0; m < 4; m++) {
          uint32_t z[4];
          load_transposed(z, at + z_at + m * 16 * 128);
#pragma unroll
          for (int r = 0; r < 4; r++) {
            const uint32_t half = halved(z[r]);
            gate[8 * m + 2 * r] = silu_of_twice(low(half));
            gate[8 * m + 2 * r + 1] = silu_of_twice(high(half));
          }
        }
        wgmma_wait<1>();
        pin(O);
        float sums[16];
#pragma unroll
        for (int m = 0; m < 4; m++) {
          uint32_t g[4];
#pragma unroll
          for (int r = 0; r < 4; r++) {
            const int j = 8 * m + 2 * r;
            const float g0 = O[j] * gate[j], g1 = O[j + 1] * gate[j + 1];
            float* sum = sums + 4 * m + 2 * (r / 2);
            sum[0] = r % 2 ? fmaf(g0, g0, sum[0]) : g0 * g0;
            sum[1] = r % 2 ? fmaf(g1, g1, sum[1]) : g1 * g1;
            g[r] = pack(g0, g1);
          }
          store_transposed(at + z_at + m * 16 * 128, g);  // where z was
        }
        fold<8>(sums, lane);
        fold<4>(sums, lane);
        fold<2>(sums, lane);
        *(float2*)(squares + warp * CHUNK + 8 * row + pair) = make_float2(sums[0], sums[1]);
        proxy_fence();
        warpgroup_barrier(1 + h);
        const int token = first_token(item, c, sizes.length);
        if (thread == 0) {
          tma_store(maps.g, at + L::Z + h * TILE, head * P, token, item.k * sizes.batch + item.b);
          stored = ring.stage;
        }
        if (thread < CHUNK) {
          const float* s = squares + thread;
          data.squares[here * sizes.length + token + thread] = s[0] + s[CHUNK] + s[2 * CHUNK] + s[3 * CHUNK];
        }
        __syncwarp();
      }
      wgmma_wait<0>();
      pin(H);
      if (!STATES) pin(S);
      __syncwarp();
      if (lane == 0 && (STATES || warp > 0)) barrier_arrive(full + 8 * L::STAGES);  // warp 0's when g is stored
    }

    if (STATES) {
      const int64_t out = here * (sizes.splits - 1) * sizes.pieces + item.part;
      float4* added = (float4*)(data.added + out * P * N) + thread;
#pragma unroll
      for (int m = 0; m < 16; m++) added[128 * m] = make_float4(H[4 * m], H[4 * m + 1], H[4 * m + 2], H[4 * m + 3]);
      if (thread == 0) data.totals[out] = total;
    }
  }
  if (!STATES && thread == 0) tma_store_has_read();
}

template <bool STATES>
__device__ __forceinline__ void run(const Maps& maps, const Data& data, const Sizes& sizes) {
  using L = Layout<STATES>;
  uint8_t* memory = dynamic_shared_memory();
  memory += -shared_address(memory) & 1023;
  const uint32_t base = shared_address(memory);
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4;
  if (threadIdx.x == 0) {
    for (int i = 0; i < L::STAGES; i++) {
      barrier_init(base + L::FULL + 8 * i, 1 + HEADS);                // TMA, and the sums of each head
      barrier_init(base + L::FULL + 8 * (L::STAGES + i), 4 * HEADS);  // every warp that computes
    }
    barriers_are_initialized();
    for (const TensorMap* map : {maps.x, maps.z, maps.B, maps.C, maps.g}) prefetch(map);
  }
  __syncthreads();
  if (group == HEADS) {
    give_registers<40>();
    if (warp == 0 && threadIdx.x % 32 == 0) load_tiles<STATES>(maps, sizes, base);
    if (warp >= 1 && warp <= HEADS) sum_steps<STATES>(data, sizes, memory, base, warp - 1);
  } else {
    take_registers<232>();
    walk<STATES>(maps, data, sizes, memory, base, group);
  }
}

#define ARGUMENTS                                                                                                    \
  const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap z, const __grid_constant__ TensorMap B,     \
      const __grid_constant__ TensorMap C, const __grid_constant__ TensorMap g, const __grid_constant__ Data data,   \
      const __grid_constant__ Sizes sizes

extern "C" __global__ void __launch_bounds__(THREADS, 1) hopper_states(ARGUMENTS) { run<true>({&x, &z, &B, &C, &g}, data, sizes); }
extern "C" __global__ void __launch_bounds__(THREADS, 1) hopper_scan(ARGUMENTS) { run<false>({&x, &z, &B, &C, &g}, data, sizes); }
