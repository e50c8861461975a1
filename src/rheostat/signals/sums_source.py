"""The C++ of `sums`: a program's products over blocks of elements that lie in the cache."""

SOURCE = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {
constexpr int64_t block = 512, ahead = 512, places = 32, most_rows = 12, most_pairs = 80;
typedef double Eight __attribute__((vector_size(64)));
typedef float Sixteen __attribute__((vector_size(64)));

struct Short { uint16_t bits; };  // bfloat16

inline double wide(float x) { return x; }
inline double wide(double x) { return x; }
inline double wide(Short x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float found;
  std::memcpy(&found, &bits, sizeof found);
  return found;
}

typedef float EightFloats __attribute__((vector_size(32)));
typedef uint16_t EightShorts __attribute__((vector_size(16)));
typedef uint32_t EightBits __attribute__((vector_size(32)));

inline Eight wide_eight(EightFloats x) {
#ifdef __AVX512F__
  return _mm512_cvtps_pd(x);  // g++ makes four instructions of what follows
#else
  return __builtin_convertvector(x, Eight);
#endif
}
inline Eight wide_eight(const double* from) {
  Eight found;
  std::memcpy(&found, from, sizeof found);
  return found;
}
inline Eight wide_eight(const float* from) {
  EightFloats found;
  std::memcpy(&found, from, sizeof found);
  return wide_eight(found);
}
inline Eight wide_eight(const Short* from) {
  EightShorts found;
  std::memcpy(&found, from, sizeof found);
  const EightBits bits = __builtin_convertvector(found, EightBits) << 16;
  EightFloats floats;
  std::memcpy(&floats, &bits, sizeof floats);
  return wide_eight(floats);
}

// A vector's next elements: in a tensor's memory, or made here.
struct Row { const void* at; int64_t kind; };

template <typename F>
inline void typed(Row row, F f) {
  if (row.kind == 0) f(static_cast<const float*>(row.at));
  else if (row.kind == 1) f(static_cast<const double*>(row.at));
  else f(static_cast<const Short*>(row.at));
}

template <typename T>
inline void ask(const T* later, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(later + i);
}

inline double total(const Eight& x) {
  double sum = 0.0;
  for (int i = 0; i < 8; ++i) sum += x[i];
  return sum;
}

// 32 sums go on, each over every 32nd element.
template <typename X, typename Y>
void add_products(const X* x, const Y* y, int64_t n, Eight* sums) {
  Eight a = sums[0], b = sums[1], c = sums[2], d = sums[3];
  int64_t i = 0;
  for (; i + places <= n; i += places) {
    ask(x + i + ahead, places);
    a += wide_eight(x + i) * wide_eight(y + i);
    b += wide_eight(x + i + 8) * wide_eight(y + i + 8);
    c += wide_eight(x + i + 16) * wide_eight(y + i + 16);
    d += wide_eight(x + i + 24) * wide_eight(y + i + 24);
  }
  if (i < n) {
    Eight rest[4] = {};
    for (int64_t k = 0; i + k < n; ++k) rest[k / 8][k % 8] = wide(x[i + k]) * wide(y[i + k]);
    a += rest[0], b += rest[1], c += rest[2], d += rest[3];
  }
  sums[0] = a, sums[1] = b, sums[2] = c, sums[3] = d;
}

inline Sixteen sixteen(const float* from) {
  Sixteen found;
  std::memcpy(&found, from, sizeof found);
  return found;
}

// A whole block of float32 has 64 sums of eight products each in its own precision, unless they
// are so small or so large that they might have lost something.
void add_products(const float* x, const float* y, int64_t n, Eight* sums) {
  if (n == block) {
    Sixteen a = {}, b = {}, c = {}, d = {};
    for (int64_t i = 0; i < block; i += 64) {
      ask(x + i + ahead, 64);
      a += sixteen(x + i) * sixteen(y + i);
      b += sixteen(x + i + 16) * sixteen(y + i + 16);
      c += sixteen(x + i + 32) * sixteen(y + i + 32);
      d += sixteen(x + i + 48) * sixteen(y + i + 48);
    }
    const Sixteen all = (a + b) + (c + d);
    const float* lanes = reinterpret_cast<const float*>(&all);
    const Eight low = wide_eight(lanes), high = wide_eight(lanes + 8);
    const double size = std::fabs(total(low + high));
    if (size > 1e-28 && size < 1e37) {
      sums[0] += low, sums[1] += high;
      return;
    }
  }
  add_products<float, float>(x, y, n, sums);
}

template <typename X, typename Y, typename T>
inline void subtract(const X* __restrict x, const Y* __restrict y, int64_t n, T* __restrict to) {
  ask(x + ahead, n), ask(y + ahead, n);
  for (int64_t i = 0; i < n; ++i) to[i] = wide(x[i]) - wide(y[i]);
}
inline void subtract(const float* __restrict x, const float* __restrict y, int64_t n,
                     float* __restrict to) {
  ask(x + ahead, n), ask(y + ahead, n);
  for (int64_t i = 0; i < n; ++i) to[i] = x[i] - y[i];
}

template <typename X, typename T>
void copy(const X* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = T(wide(from[i]));
}
void copy(const float* from, float* to, int64_t n) { std::memcpy(to, from, n * sizeof *to); }

// What no cache holds is written past it: its lines need not be read first.
bool copy_past(const float* from, float* to, int64_t n) {
#ifdef __AVX512F__
  if (n == block && reinterpret_cast<uintptr_t>(to) % 64 == 0) {
    for (int64_t i = 0; i < block; i += 16) _mm512_stream_ps(to + i, _mm512_loadu_ps(from + i));
    _mm_sfence();
    return true;
  }
#endif
  return false;
}

int64_t size_of(int64_t kind) { return kind == 0 ? 4 : kind == 1 ? 8 : 2; }

struct Program {
  const int64_t *steps, step_count, *pairs, pair_count, *stores, store_count;
};
struct Tables {
  char* const* addresses;
  const int64_t *kinds, tensors, *shares, share_count;
  double *parts, *sums;
};
}  // namespace

extern "C" void take(const Program* program, const Tables* tables, int threads) {
  const int64_t *steps = program->steps, *pairs = program->pairs, *stores = program->stores;
  const int64_t pair_count = program->pair_count, share_count = tables->share_count;
  const int64_t *kinds = tables->kinds, *shares = tables->shares, tensors = tables->tensors;
  char* const* addresses = tables->addresses;
  double* parts = tables->parts;
  static const double zeros[block] = {};
  const bool large = share_count > 64;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
  for (int64_t share = 0; share < share_count; ++share) {
    const int64_t tensor = shares[3 * share];
    const int64_t start = shares[3 * share + 1], length = shares[3 * share + 2];
    alignas(64) double made[most_rows][block];
    Row rows[most_rows];
    Eight found[most_pairs][4];
    std::memset(found, 0, pair_count * sizeof found[0]);
    for (int64_t at = 0; at < length; at += block) {
      const int64_t n = std::min(block, length - at), from = start + at;
      for (int64_t row = 0; row < program->step_count; ++row) {
        const int64_t* step = steps + 3 * row;
        double* to = made[row];
        rows[row] = {to, 1};
        if (step[0] == 0) {  // read
          const int64_t entry = step[1] * tensors + tensor, kind = kinds[entry];
          const char* memory = addresses[entry];
          if (memory == nullptr) rows[row] = {zeros, 1};
          else rows[row] = {memory + from * size_of(kind), kind};
        } else if (step[0] == 1) {  // a difference
          const Row x = rows[step[1]], y = rows[step[2]];
          if (x.kind == 0 && y.kind == 0) {
            rows[row].kind = 0;
            subtract(static_cast<const float*>(x.at), static_cast<const float*>(y.at), n,
                     reinterpret_cast<float*>(to));
          } else {
            typed(x, [&](auto* x) { typed(y, [&](auto* y) { subtract(x, y, n, to); }); });
          }
        } else if (step[0] == 2) {  // 1 where it is small
          double least;
          std::memcpy(&least, step + 2, sizeof least);
          typed(rows[step[1]], [&](auto* x) {
            for (int64_t i = 0; i < n; ++i) to[i] = std::fabs(wide(x[i])) <= least ? 1.0 : 0.0;
          });
        } else {
          std::fill(to, to + n, 1.0);
        }
      }
      for (int64_t pair = 0; pair < pair_count; ++pair)
        typed(rows[pairs[2 * pair]], [&](auto* x) {
          typed(rows[pairs[2 * pair + 1]], [&](auto* y) { add_products(x, y, n, found[pair]); });
        });
      for (int64_t one = 0; one < program->store_count; ++one) {
        const int64_t entry = stores[2 * one + 1] * tensors + tensor, kind = kinds[entry];
        char* memory = addresses[entry] + from * size_of(kind);
        const Row row = rows[stores[2 * one]];
        if (large && kind == 0 && row.kind == 0 &&
            copy_past(static_cast<const float*>(row.at), reinterpret_cast<float*>(memory), n))
          continue;
        typed(row, [&](auto* x) {
          if (kind == 0) copy(x, reinterpret_cast<float*>(memory), n);
          else copy(x, reinterpret_cast<double*>(memory), n);
        });
      }
    }
    for (int64_t pair = 0; pair < pair_count; ++pair) {
      const Eight* of = found[pair];
      parts[share * pair_count + pair] = total((of[0] + of[1]) + (of[2] + of[3]));
    }
  }
  for (int64_t pair = 0; pair < pair_count; ++pair) {
    double sum = 0.0;
    for (int64_t share = 0; share < share_count; ++share) sum += parts[share * pair_count + pair];
    tables->sums[pair] = sum;
  }
}
"""
