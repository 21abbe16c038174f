// The instructions of diffuapriel/ops/hopper/scan.cu on a CPU: a block's threads are fibers, which take turns.
//
// What is asynchronous on the GPU happens at once here, so this tests arithmetic, layouts and the order of barriers (a
// deadlock, or an arrival too many, ends the program), and not what a missing fence would do.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#define __device__
#define __forceinline__ inline

using std::min;

struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct Index {
  int x;
};
inline Index threadIdx, blockIdx, gridDim;

// ------------------------------------------------------------------------------------------------------------- fibers

constexpr int FIBERS = 384, PATIENCE = 1000000;
inline ucontext_t scheduler, fibers[FIBERS];
alignas(1024) inline uint8_t shared_memory[232 * 1024];

[[noreturn]] inline void fail(const char* what) {
  printf("thread %d: %s\n", threadIdx.x, what);
  fflush(stdout);
  _Exit(1);
}
inline void yield() {
  const int me = threadIdx.x;
  swapcontext(&fibers[me], &scheduler);
  threadIdx.x = me;
}
// All `count` threads of a group arrive before any leaves.
struct Meeting {
  int arrived = 0;
  long round = 0;
};
inline std::map<int, Meeting> meetings;
inline void meet(int group, int count) {
  Meeting& meeting = meetings[group];
  const long round = meeting.round;
  if (++meeting.arrived == count) {
    meeting.arrived = 0;
    meeting.round++;
    return;
  }
  for (int i = 0; meeting.round == round; i++) {
    if (i == PATIENCE) fail("waits for its group for ever");
    yield();
  }
}
inline int warp_of_block() { return threadIdx.x / 32; }
inline void meet_warp() { meet(warp_of_block(), 32); }
inline void meet_warpgroup() { meet(100 + threadIdx.x / 128, 128); }

// ------------------------------------------------------------------------------------------------------- instructions

struct TensorMap;
struct Tensor {  // what a TensorMap holds here
  uint16_t* data;
  int64_t columns, rows, row_stride, batch_stride;
  int box_rows;
};

inline void __syncwarp() { meet_warp(); }
inline void __syncthreads() { meet(200, FIBERS); }
inline void warpgroup_barrier(int id) { meet(200 + id, 128); }
template <int COUNT>
void give_registers() {}
template <int COUNT>
void take_registers() {}
inline void keep(uint32_t&) {}
inline void prefetch(const TensorMap*) {}
inline void barriers_are_initialized() {}
inline uint8_t* dynamic_shared_memory() { return shared_memory + 16; }
inline uint32_t shared_address(const void* p) { return (uint32_t)((const uint8_t*)p - shared_memory); }
inline uint32_t swizzled(uint32_t at) { return at ^ ((at >> 7 & 7) << 4); }

struct Barrier {
  int count, pending;
  long bytes;
  int phase;
  void check() {
    if (pending < 0) fail("arrives at a barrier that is complete");
    if (pending == 0 && bytes == 0) phase ^= 1, pending = count;
  }
};
inline std::map<uint32_t, Barrier> barriers;
inline void barrier_init(uint32_t at, int count) { barriers[at] = {count, count, 0, 0}; }
inline void barrier_expect(uint32_t at, int bytes) {
  barriers[at].bytes += bytes;
  barriers[at].pending--;
  barriers[at].check();
}
inline void barrier_arrive(uint32_t at) {
  barriers[at].pending--;
  barriers[at].check();
}
inline void barrier_wait(uint32_t at, int parity) {
  for (int i = 0; barriers[at].phase == parity; i++) {
    if (i == PATIENCE) fail("waits at a barrier for ever");
    yield();
  }
}

inline void tma_load(uint32_t to, const TensorMap* map, uint32_t bar, int column, int row, int batch) {
  const Tensor* t = (const Tensor*)map;
  if (to % 1024) fail("loads to a tile that is not aligned");
  for (int i = 0; i < t->box_rows; i++)
    for (int j = 0; j < 64; j++) {
      const bool inside = row + i >= 0 && row + i < t->rows && column + j < t->columns;
      const int64_t from = batch * t->batch_stride + (row + i) * t->row_stride + column + j;
      *(uint16_t*)(shared_memory + swizzled(to + i * 128 + j * 2)) = inside ? t->data[from] : 0;
    }
  barriers[bar].bytes -= t->box_rows * 128;
  barriers[bar].check();
}
inline void tma_store(const TensorMap* map, uint32_t from, int column, int row, int batch) {
  const Tensor* t = (const Tensor*)map;
  if (row < 0 || row + t->box_rows > t->rows) fail("stores outside its tensor");
  for (int i = 0; i < t->box_rows; i++)
    for (int j = 0; j < 64; j++)
      t->data[batch * t->batch_stride + (row + i) * t->row_stride + column + j] =
          *(uint16_t*)(shared_memory + swizzled(from + i * 128 + j * 2));
}
inline void tma_store_has_read() {}
inline void proxy_fence() {}

inline float __uint_as_float(uint32_t x) {
  float y;
  memcpy(&y, &x, 4);
  return y;
}
inline float __int_as_float(int x) { return __uint_as_float(x); }
inline float exp2_(float x) { return exp2f(x); }
inline float log2_(float x) { return log2f(x); }
inline float silu_of_twice(float half) { return fmaf(half, tanhf(half), half); }
inline float low(uint32_t x) { return __uint_as_float(x << 16); }
inline float high(uint32_t x) { return __uint_as_float(x & 0xffff0000u); }
inline uint16_t bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return x != x ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
inline uint32_t pack(float low, float high) { return bfloat16(low) | (uint32_t)bfloat16(high) << 16; }
inline uint32_t halved(uint32_t x) { return pack(0.5f * low(x), 0.5f * high(x)); }

inline float shuffled[FIBERS];
inline float shuffle(float x, int lane) {
  shuffled[threadIdx.x] = x;
  meet_warp();
  const float y = shuffled[warp_of_block() * 32 + lane];
  meet_warp();
  return y;
}
inline float __shfl_sync(unsigned, float x, int lane) { return shuffle(x, lane); }
inline float __shfl_xor_sync(unsigned, float x, int mask) { return shuffle(x, threadIdx.x % 32 ^ mask); }
inline float __shfl_up_sync(unsigned, float x, int by) {
  const int lane = threadIdx.x % 32;
  return shuffle(x, lane < by ? lane : lane - by);
}
inline float __shfl_down_sync(unsigned, float x, int by) {
  const int lane = threadIdx.x % 32;
  return shuffle(x, lane + by > 31 ? lane : lane + by);
}

// Four matrices of 8 rows of 16 bytes; lane 8 i + r gives the address of row r of matrix i.
inline uint32_t row_addresses[FIBERS];
template <class F>
void with_rows(uint32_t at, F f) {
  if (at % 16) fail("a row of a matrix is not aligned");
  row_addresses[threadIdx.x] = at;
  meet_warp();
  const int lane = threadIdx.x % 32;
  for (int i = 0; i < 4; i++)
    f(i, [i](int row) { return shared_memory + row_addresses[warp_of_block() * 32 + 8 * i + row]; }, lane / 4, 2 * (lane % 4));
  meet_warp();
}
inline void load_transposed(uint32_t (&r)[4], uint32_t at) {
  with_rows(at, [&](int i, auto row, int one, int two) {
    r[i] = ((uint16_t*)row(two))[one] | (uint32_t)((uint16_t*)row(two + 1))[one] << 16;
  });
}
inline void store_transposed(uint32_t at, const uint32_t (&r)[4]) {
  with_rows(at, [&](int i, auto row, int one, int two) {
    ((uint16_t*)row(two))[one] = r[i];
    ((uint16_t*)row(two + 1))[one] = r[i] >> 16;
  });
}
inline void store_matrix(uint32_t at, const uint32_t (&r)[4]) {
  with_rows(at, [&](int i, auto row, int one, int two) { ((uint32_t*)row(one))[two / 2] = r[i]; });
}

inline void wgmma_fence() {}
inline void wgmma_commit() {}
template <int PENDING>
void wgmma_wait() {}
template <int K>
void pin(float (&)[K]) {}

inline float element(uint64_t descriptor, int row, int column) {  // of an operand in shared memory
  const uint32_t at = (uint32_t)(descriptor & 0x3fff) * 16 + row * 128 + column * 2;
  return low(*(uint16_t*)(shared_memory + swizzled(at)));
}
inline const uint32_t* operands[FIBERS];  // in registers
inline float element(const uint32_t*, int row, int k) {
  const int thread = threadIdx.x / 128 * 128 + row / 16 * 32 + row % 8 * 4 + k % 8 / 2;
  const uint32_t pair = operands[thread][row % 16 / 8 + 2 * (k / 8)];
  return k % 2 ? high(pair) : low(pair);
}
template <int SIZE, class A, class B>
void multiply_with(float (&d)[SIZE], A a, B b, bool accumulate) {
  meet_warpgroup();
  const int thread = threadIdx.x % 128, row = thread / 32 * 16 + thread % 32 / 4, pair = 2 * (thread % 4);
  for (int i = 0; i < SIZE; i++) {
    float sum = accumulate ? d[i] : 0.f;
    for (int k = 0; k < 16; k++) sum += element(a, row + 8 * (i / 2 % 2), k) * b(i / 4 * 8 + pair + i % 2, k);
    d[i] = sum;
  }
  meet_warpgroup();
}
inline void multiply(float (&d)[32], uint64_t a, uint64_t b, bool accumulate) {
  multiply_with(d, a, [b](int n, int k) { return element(b, n, k); }, accumulate);
}
inline void multiply(float (&d)[32], const uint32_t* a, uint64_t b, bool accumulate) {
  operands[threadIdx.x] = a;
  multiply_with(d, a, [b](int n, int k) { return element(b, n, k); }, accumulate);
}
inline void multiply_wide(float (&d)[64], const uint32_t* a, uint64_t b) {
  operands[threadIdx.x] = a;
  const uint64_t next = b >> 16 & 0x3fff;  // tile of 64 columns
  multiply_with(d, a, [b, next](int n, int k) { return element(b + n / 64 * next, k, n % 64); }, true);
}
