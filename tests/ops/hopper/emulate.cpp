// The kernels of scan.cu on random inputs, by emulator.h, held to the recurrence in double.
//
//   emulate BATCH LENGTH HEADS SPLITS CHUNKS_PER_SPLIT PIECES BLOCKS LARGEST_DT      prints the relative errors of g and squares

#include <random>

#include "kernels.inc"  // scan.cu, with emulator.h in place of its instructions

bool of_states;
Maps maps;
Data data;
Sizes sizes;

bool done[FIBERS];

void fiber(int thread) {
  threadIdx.x = thread;
  of_states ? run<true>(maps, data, sizes) : run<false>(maps, data, sizes);
  done[thread] = true;
  swapcontext(&fibers[thread], &scheduler);
}

void launch(bool states, int blocks) {
  of_states = states;
  gridDim.x = blocks;
  static std::vector<std::vector<char>> stacks(FIBERS, std::vector<char>(128 * 1024));
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) {
    meetings.clear();
    barriers.clear();
    memset(shared_memory, 0xff, sizeof shared_memory);  // NaN
    for (int i = 0; i < FIBERS; i++) {
      done[i] = false;
      getcontext(&fibers[i]);
      fibers[i].uc_stack.ss_sp = stacks[i].data();
      fibers[i].uc_stack.ss_size = stacks[i].size();
      makecontext(&fibers[i], (void (*)())fiber, 1, i);
    }
    for (bool any = true; any;) {
      any = false;
      for (int i = 0; i < FIBERS; i++)
        if (!done[i]) {
          any = true;
          threadIdx.x = i;
          swapcontext(&scheduler, &fibers[i]);
        }
    }
  }
}

int main(int, char** given) {
  const int batch = atoi(given[1]), length = atoi(given[2]), heads = atoi(given[3]), splits = atoi(given[4]);
  const int chunks_per_split = atoi(given[5]), pieces = atoi(given[6]), blocks = atoi(given[7]);
  const float largest_dt = atof(given[8]);
  const int inner = heads * P, direction = 2 * inner + 2 * N + heads, row = 2 * direction, channels = inner + 2 * N;
  const int64_t tokens = (int64_t)batch * length;

  std::mt19937 generator(7);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  auto half = [&](int64_t n, float scale) {
    std::vector<uint16_t> v(n);
    for (auto& x : v) x = bfloat16(scale * normal(generator));
    return v;
  };
  auto full = [&](int64_t n, float least, float most) {
    std::vector<float> v(n);
    for (auto& x : v) x = least + (most - least) * uniform(generator);
    return v;
  };
  auto projected = half(tokens * row, 0.6f), B = half(tokens * 2 * N, 0.4f), C = half(tokens * 2 * N, 0.4f);
  auto dt = full(tokens * 2 * heads, 1e-3f, largest_dt), A = full(2 * heads, -16, -1), D = full(2 * heads, -1, 1);
  auto weight = full(2 * TAPS * channels, -.5f, .5f), bias = full(2 * channels, -.5f, .5f);
  const int parts = (splits - 1) * pieces, walks = batch * 2 * heads / HEADS;
  std::vector<float> squares(dt.size(), NAN), totals(batch * 2 * heads * parts, NAN), added(totals.size() * P * N, NAN);
  std::vector<uint16_t> g(tokens * 2 * inner, 0x7fc0);

  static TensorMap x_map, z_map, B_map, C_map, g_map;
  auto set = [&](TensorMap& map, uint16_t* at, int64_t columns, int64_t row, int box_rows) {
    const Tensor tensor = {at, columns, length, row, row * length, box_rows};
    memcpy(&map, &tensor, sizeof tensor);
  };
  set(x_map, projected.data() + inner, direction + inner, row, X_ROWS);
  set(z_map, projected.data(), direction + inner, row, CHUNK);
  set(B_map, B.data(), 2 * N, 2 * N, CHUNK);
  set(C_map, C.data(), 2 * N, 2 * N, CHUNK);
  set(g_map, g.data(), inner, inner, CHUNK);
  maps = {&x_map, &z_map, &B_map, &C_map, &g_map};
  data = {dt.data(), A.data(), D.data(), weight.data(), bias.data(), added.data(), totals.data(), squares.data()};
  sizes = {batch, length, heads, chunks_per_split, splits, pieces, direction, channels, walks * parts};
  if (parts) launch(true, min(blocks, walks * parts));
  sizes.items = walks * splits;
  launch(false, min(blocks, walks * splits));

  double wrong = 0, all = 0, wrong_squares = 0, all_squares = 0;
  for (int b = 0; b < batch; b++)
    for (int k = 0; k < 2; k++)
      for (int h = 0; h < heads; h++) {
        std::vector<double> H(P * N);
        for (int i = 0; i < length; i++) {
          const int t = k ? length - 1 - i : i;
          const int64_t token = (int64_t)b * length + t, at = ((int64_t)(b * 2 + k) * heads + h) * length + t;
          const double step = dt[at], decay = exp(step * A[k * heads + h]);
          const uint16_t *Bt = &B[(token * 2 + k) * N], *Ct = &C[(token * 2 + k) * N];
          double sum = 0;
          for (int p = 0; p < P; p++) {
            const int channel = h * P + p;
            double a = bias[k * channels + channel];
            for (int j = 0; j < TAPS; j++) {
              const int back = (k ? -1 : 1) * (TAPS - 1 - j);
              if (t - back < 0 || t - back >= length) continue;
              const int64_t raw = (token - back) * row + k * direction + inner + channel;
              a += weight[(k * TAPS + j) * channels + channel] * (double)low(projected[raw]);
            }
            const double x = a / (1 + exp(-a)), z = low(projected[token * row + k * direction + channel]);
            double y = D[k * heads + h] * x;
            for (int n = 0; n < N; n++) {
              double& state = H[p * N + n];
              state = decay * state + step * x * low(Bt[n]);
              y += state * low(Ct[n]);
            }
            const double expected = y * z / (1 + exp(-z));
            const double got = low(g[((int64_t)(k * batch + b) * length + t) * inner + channel]);
            sum += expected * expected;
            wrong += (got - expected) * (got - expected);
          }
          all += sum;
          all_squares += sum * sum;
          wrong_squares += (squares[at] - sum) * (squares[at] - sum);
        }
      }
  printf("%.2e %.2e\n", sqrt(wrong / all), sqrt(wrong_squares / all_squares));
}
