// Products with sparse matrices for XLA on the CPU: y = x W with x [batch, inputs] and W [inputs,
// outputs], of which only some values (Csr) or some blocks (Blocks) are stored, and the gradients.
//
// A worker takes a tile of the batch and a range of outputs, turns the tile so that features come
// first (lanes.inc), multiplies, and turns the result back. Vectors are as wide as the machine's.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Kept weights by group of `width` inputs, then by output: those of output o in group g are
// starts[g * outputs + o] <= n < starts[g * outputs + o + 1]. Indices count within the group.
template <typename Value, typename Index>
struct CsrOf {
  const Value* values;
  const Index* indices;
  const int32_t* starts;
  int64_t inputs, outputs, width, groups;
};
using Csr = CsrOf<float, uint16_t>;
using CsrInt8 = CsrOf<int8_t, uint8_t>;

// Blocks [wide inputs, high outputs] by output block; rows[n] is the input block of block n.
template <typename Value>
struct BlocksOf {
  const Value* values;
  const int32_t* rows;
  const int32_t* starts;
  int64_t wide, high, across, down;  // the size of a block, and how many inputs and outputs have
};
using Blocks = BlocksOf<float>;
using BlocksInt8 = BlocksOf<int8_t>;

// A convolution as a sum over taps: group g adds to output o the sum over n, from
// starts[g * outputs + o] on, of values[n] times what lies reads[n] after the first plane of the
// group. The planes of two groups are `group` floats apart, the rows of a tile `pitch`. Without
// `reads` a weight reads the tile with the number indices[n].
struct Taps {
  const float* values;
  const uint16_t* indices;
  const int32_t* starts;
  const int32_t* reads;
  int64_t outputs, groups, group, pitch;
};

// `count` cells of `size` floats, together on a grid, and `step` floats apart in an array.
struct Piece {
  int64_t grid, memory, count, size, step;
};

// Copies of planes: each has `floats` of what begins at from[n], where its mask, of `period` floats,
// is not 0, else 0; the next one begins `apart` floats later.
struct Shifts {
  int64_t floats, period, apart;
  std::vector<int64_t> from;
  std::vector<int32_t> masks;
};

constexpr int kTiles = 16;
constexpr int kSmall = 2;  // vectors of a tile, at most, that is found by its index
using ConvForward = void (*)(const Taps&, const float*, int64_t, int64_t, float*);
using ConvWeights = void (*)(const Taps&, const float*, const float*, int64_t, int64_t, float*);
struct ConvKernels {
  int64_t tile;  // vectors, at most
  ConvForward forward[2][kTiles];  // for tiles of one or two rows, by the vectors of a row
  ConvWeights weights[2][kTiles];
  void (*to_grid)(const Piece*, int64_t, const float*, int64_t, float*);
  void (*shift)(const Shifts&, const float*, float*);
  void (*from_grid)(const Piece*, int64_t, const float*, float*);
};

#define UNROLLED _Pragma("GCC unroll 16")
#ifndef __has_builtin
#define __has_builtin(x) 0
#endif
#define PLAIN(...) __VA_ARGS__
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE_(p, q, ...) __builtin_shufflevector(p, q, __VA_ARGS__)
#define SHUFFLE(p, q, order) SHUFFLE_(p, q, PLAIN order)
#else  // GCC before 12
typedef int Order4 __attribute__((vector_size(16)));
typedef int Order8 __attribute__((vector_size(32)));
typedef int Order16 __attribute__((vector_size(64)));
#define ORDER_(lanes) Order##lanes
#define ORDER(lanes) ORDER_(lanes)
#define SHUFFLE(p, q, order) __builtin_shuffle(p, q, (ORDER(LANES)){PLAIN order})
#endif

// The kernels of one instruction set; [0], [1], [2] are for tiles of 1, 2 and 4 vectors.
struct Kernels {
  int64_t lanes;
  void (*to_tile[3])(const float*, int64_t, int64_t, int64_t, float*);
  void (*from_tile[3])(const float*, int64_t, int64_t, int64_t, float*);
  void (*csr_backward[3])(const Csr&, const float*, float*);
  void (*csr_weights[3])(const Csr&, const float*, const float*, int64_t, int64_t, float*);
  bool (*falls)(const int32_t*, int64_t);
  template <typename Value, typename Index>
  struct OfCsr {
    void (*forward[3])(const CsrOf<Value, Index>&, const float*, int64_t, int64_t, float*);
    void (*row)(const CsrOf<Value, Index>&, const float*, int64_t, int64_t, float*);
    int64_t (*most)(const Index*, int64_t);
  };
  template <typename Value>
  struct OfBlocks {
    void (*forward[3][2])(const BlocksOf<Value>&, const float*, int64_t, int64_t, float*);
    void (*row)(const BlocksOf<Value>&, const float*, int64_t, int64_t, float*);
  };
  OfCsr<float, uint16_t> csr;
  OfCsr<int8_t, uint8_t> csr_int8;
  OfBlocks<float> blocks;
  OfBlocks<int8_t> blocks_int8;
  ConvKernels conv;
  const auto& of(const Csr&) const { return csr; }
  const auto& of(const CsrInt8&) const { return csr_int8; }
  const auto& of(const Blocks&) const { return blocks; }
  const auto& of(const BlocksInt8&) const { return blocks_int8; }
};

#define LANES 4
#define UNROLL 2
#define TILE 8
namespace lanes4 {
#include "lanes.inc"
}
#undef LANES
#undef UNROLL
#undef TILE

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define LANES 8
#define UNROLL 4
#define TILE 12
namespace lanes8 {
#include "lanes.inc"
}
#undef LANES
#undef UNROLL
#undef TILE
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma"))), \
                             apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma")
#endif
#define LANES 16
#define UNROLL 4
#define TILE 16
namespace lanes16 {
#include "lanes.inc"
}
#undef LANES
#undef UNROLL
#undef TILE
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif  // __x86_64__

// Floats in a vector, at most, as JSPARSE_MAX_ISA says; read once.
int64_t widest() {
  static const int64_t found = [] {
    const char* asked = std::getenv("JSPARSE_MAX_ISA");
    const std::string name = asked ? asked : "";
    return name == "SSE2" ? 4 : name == "AVX2" ? 8 : 16;
  }();
  return found;
}

const Kernels& kernels(int64_t most) {
  most = std::min(most, widest());
#if defined(__x86_64__)
  static const bool avx512 = __builtin_cpu_supports("avx512f") &&
                             __builtin_cpu_supports("avx512vl") &&
                             __builtin_cpu_supports("avx512dq") &&
                             __builtin_cpu_supports("avx512bw");
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx512 && most >= 16) return lanes16::table;
  if (avx2 && most >= 8) return lanes8::table;
#endif
  return lanes4::table;
}

// Memory of a thread, kept between calls; for vectors of any width.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  float* floats(int64_t count) {
    if (count > size_) {
      std::free(data_);
      size_ = (count + 15) / 16 * 16;
      data_ = static_cast<float*>(std::aligned_alloc(64, size_ * sizeof(float)));
      if (!data_) std::abort();
    }
    return data_;
  }

 private:
  float* data_ = nullptr;
  int64_t size_ = 0;
};
thread_local Scratch tile_memory, out_memory, plane_memory;

// Calls work(next) on the threads of the pool and on this one; next() gives 0, 1, ..., items - 1 and
// then -1. The pool may be busy: whoever comes finds what is left, and nobody waits for a thread that
// has not started.
template <typename Work>
void share(ffi::ThreadPool pool, int64_t items, const Work& work) {
  struct Shared {
    std::atomic<int64_t> taken{0}, busy{0};
    std::atomic<bool> closed{false};
  };
  auto shared = std::make_shared<Shared>();
  auto run = [shared, items, &work] {
    work([&] {
      const int64_t item = shared->taken.fetch_add(1);
      return item < items ? item : int64_t{-1};
    });
  };
  const int64_t others = std::min<int64_t>(pool.num_threads(), items) - 1;
  for (int64_t i = 0; i < others; ++i)
    pool.Schedule([shared, run] {
      shared->busy.fetch_add(1);
      if (!shared->closed.load()) run();  // once closed, `work` may be gone
      shared->busy.fetch_sub(1);
    });
  run();
  shared->closed.store(true);
  for (int spins = 0; shared->busy.load() > 0; ++spins)
    if (spins > 1000) std::this_thread::yield();
}

int vectors(int64_t batch, int64_t lanes) { return batch <= lanes ? 0 : batch <= 2 * lanes ? 1 : 2; }

constexpr int64_t kSpan = 256;  // outputs whose sums are kept near

// How a product is cut into items: tiles of the batch, and parts of the outputs where tiles are few.
struct Cut {
  Cut(int64_t batch, int64_t rows, int64_t outputs, int64_t threads)
      : tiles((batch + rows - 1) / rows) {
    const int64_t wanted = tiles >= 4 * threads ? 1 : (2 * threads + tiles - 1) / tiles;
    const int64_t most = std::max<int64_t>(1, outputs / 16);
    parts = std::min(wanted, most);
    part = (outputs + parts - 1) / parts;
  }
  int64_t tiles, parts, part;
};

// y = x W in tiles. `forward(tile, first, last, out)` writes outputs first <= o < last; `padded` is
// the number of features a tile needs, `unit` what outputs come in.
template <typename Forward>
void in_tiles(const Kernels& k, ffi::ThreadPool pool, const float* x, int64_t batch, int64_t inputs,
              int64_t padded, int64_t outputs, int64_t unit, float* y, const Forward& forward) {
  const int v = vectors(batch, k.lanes);
  const int64_t rows = k.lanes << v;
  const int64_t units = (outputs + unit - 1) / unit, span = std::max<int64_t>(1, kSpan / unit);
  const Cut cut(batch, rows, units, std::max<int64_t>(1, pool.num_threads()));
  share(pool, cut.tiles * cut.parts, [&](auto next) {
    float* tile = tile_memory.floats(padded * rows);
    float* out = out_memory.floats(span * unit * rows);
    int64_t held = -1;
    for (int64_t item; (item = next()) >= 0;) {
      const int64_t at = item % cut.tiles, row = at * rows;
      const int64_t here = std::min(rows, batch - row);
      if (held != at) {
        k.to_tile[v](x + row * inputs, here, inputs, inputs, tile);
        std::fill(tile + inputs * rows, tile + padded * rows, 0.0f);
        held = at;
      }
      const int64_t begin = item / cut.tiles * cut.part, end = std::min(units, begin + cut.part);
      for (int64_t first = begin; first < end; first += span) {
        const int64_t last = std::min(end, first + span);
        forward(v, tile, first, last, out);
        const int64_t features = std::min(last * unit, outputs) - first * unit;
        k.from_tile[v](out, here, outputs, features, y + row * outputs + first * unit);
      }
    }
  });
}

using Floats = ffi::Buffer<ffi::F32>;
using Result = ffi::Result<Floats>;

// The products trust what they are given, and files and users can give anything. So each call looks
// at sizes and positions first: nothing is read or written out of bounds.

ffi::Error refused(const std::string& what) {
  return ffi::Error::InvalidArgument("the structure of a packed layer is damaged: " + what);
}

ffi::Error bad_sizes() { return refused("sizes of its arrays do not fit together"); }

bool is_matrix(const Floats& x) { return x.dimensions().size() == 2; }

bool rise(const Kernels& k, const int32_t* starts, int64_t parts, int64_t kept) {
  return starts[0] >= 0 && starts[parts] <= kept && !k.falls(starts, parts);
}

template <typename Value, typename Index>
ffi::Error fault(const Kernels& k, const CsrOf<Value, Index>& m, int64_t kept, int64_t starts) {
  if (starts != m.groups * m.outputs + 1) return bad_sizes();
  if (!rise(k, m.starts, starts - 1, kept))
    return refused("starts do not rise from 0 to what is kept");
  for (int64_t g = 0; g < m.groups; ++g) {
    const int64_t width = std::min(m.width, m.inputs - g * m.width);
    const int64_t begin = m.starts[g * m.outputs], end = m.starts[(g + 1) * m.outputs];
    if (k.of(m).most(m.indices + begin, end - begin) >= width)
      return refused("an index is outside its group of inputs");
  }
  return ffi::Error::Success();
}

template <typename Value>
ffi::Error fault(const Kernels& k, const BlocksOf<Value>& m, int64_t kept, int64_t rows,
                 int64_t starts) {
  if (m.wide < 1 || m.high < 1 || rows != kept || starts != (m.down + m.high - 1) / m.high + 1)
    return bad_sizes();
  if (!rise(k, m.starts, starts - 1, kept))
    return refused("starts do not rise from 0 to what is kept");
  const int64_t down = (m.across + m.wide - 1) / m.wide;
  for (int64_t n = 0; n < rows; ++n)
    if (m.rows[n] < 0 || m.rows[n] >= down) return refused("a row of blocks is outside the matrix");
  return ffi::Error::Success();
}

// A product of x [batch, inputs] and y [batch, outputs]; `values` has what is kept.
ffi::Error csr(const Floats& values, const ffi::Buffer<ffi::U16>& indices,
               const ffi::Buffer<ffi::S32>& starts, const Floats& x, const Floats& y, int64_t width,
               const Kernels& k, Csr* m) {
  if (!is_matrix(x) || !is_matrix(y) || x.dimensions()[0] != y.dimensions()[0] || width < 1 ||
      width > 65536 || values.element_count() != indices.element_count())
    return bad_sizes();
  const int64_t inputs = x.dimensions()[1], outputs = y.dimensions()[1];
  *m = {values.typed_data(), indices.typed_data(), starts.typed_data(), inputs,
        outputs,             width,                (inputs + width - 1) / width};
  return fault(k, *m, values.element_count(), starts.element_count());
}

template <typename Matrix>
void csr_product(ffi::ThreadPool pool, const Kernels& k, const Matrix& m, const Floats& x, Result y) {
  const int64_t batch = x.dimensions()[0], inputs = m.inputs, outputs = m.outputs;
  if (batch == 0) return;
  if (batch == 1) {
    const Cut cut(1, 1, outputs, 2 * std::max<int64_t>(1, pool.num_threads()));
    share(pool, cut.parts, [&](auto next) {
      for (int64_t i; (i = next()) >= 0;)
        k.of(m).row(m, x.typed_data(), i * cut.part, std::min(outputs, (i + 1) * cut.part),
                    y->typed_data());
    });
    return;
  }
  in_tiles(k, pool, x.typed_data(), batch, inputs, inputs, outputs, 1, y->typed_data(),
           [&](int v, const float* tile, int64_t first, int64_t last, float* out) {
             k.of(m).forward[v](m, tile, first, last, out);
           });
}

ffi::Error csr_forward(ffi::ThreadPool pool, Floats values, ffi::Buffer<ffi::U16> indices,
                       ffi::Buffer<ffi::S32> starts, Floats x, Result y, int64_t width,
                       int64_t lanes) {
  const Kernels& k = kernels(lanes);
  Csr m;
  if (ffi::Error error = csr(values, indices, starts, x, *y, width, k, &m); error.failure())
    return error;
  csr_product(pool, k, m, x, y);
  return ffi::Error::Success();
}

// Each output of each group says how many weights it has.
ffi::Error csr_int8_forward(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> values,
                            ffi::Buffer<ffi::U8> indices, ffi::Buffer<ffi::U8> counts, Floats x,
                            Result y, int64_t width, int64_t lanes) {
  const int64_t kept = values.element_count(), parts = counts.element_count();
  if (!is_matrix(x) || !is_matrix(*y) || x.dimensions()[0] != y->dimensions()[0] || width < 1 ||
      width > 255 || static_cast<int64_t>(indices.element_count()) != kept || kept > INT32_MAX)
    return bad_sizes();
  std::vector<int32_t> starts(parts + 1);
  int64_t total = 0;
  for (int64_t n = 0; n < parts; ++n) {
    total += counts.typed_data()[n];
    if (total > kept) return refused("counts add up to more than what is kept");
    starts[n + 1] = static_cast<int32_t>(total);
  }
  const int64_t inputs = x.dimensions()[1], outputs = y->dimensions()[1];
  const CsrInt8 m = {values.typed_data(), indices.typed_data(), starts.data(), inputs,
                     outputs,             width,                (inputs + width - 1) / width};
  const Kernels& k = kernels(lanes);
  if (ffi::Error error = fault(k, m, kept, parts + 1); error.failure()) return error;
  csr_product(pool, k, m, x, y);
  return ffi::Error::Success();
}

ffi::Error csr_backward(ffi::ThreadPool pool, Floats values, ffi::Buffer<ffi::U16> indices,
                        ffi::Buffer<ffi::S32> starts, Floats dy, Result dx, int64_t width,
                        int64_t lanes) {
  const Kernels& k = kernels(lanes);
  Csr m;
  if (ffi::Error error = csr(values, indices, starts, *dx, dy, width, k, &m); error.failure())
    return error;
  const int64_t batch = dy.dimensions()[0], inputs = m.inputs, outputs = m.outputs;
  int v = vectors(batch, k.lanes);
  const int64_t threads = std::max<int64_t>(1, pool.num_threads());
  while (v > 0 && (k.lanes << v) * threads > batch) --v;  // only tiles are shared here
  const int64_t rows = k.lanes << v, tiles = (batch + rows - 1) / rows;
  share(pool, tiles, [&](auto next) {
    float* tile = tile_memory.floats(inputs * rows);
    float* from = out_memory.floats(outputs * rows);
    for (int64_t at; (at = next()) >= 0;) {
      const int64_t row = at * rows, here = std::min(rows, batch - row);
      k.to_tile[v](dy.typed_data() + row * outputs, here, outputs, outputs, from);
      std::fill(tile, tile + inputs * rows, 0.0f);
      k.csr_backward[v](m, from, tile);
      k.from_tile[v](tile, here, inputs, inputs, dx->typed_data() + row * inputs);
    }
  });
  return ffi::Error::Success();
}

ffi::Error csr_weights(ffi::ThreadPool pool, ffi::Buffer<ffi::U16> indices,
                       ffi::Buffer<ffi::S32> starts, Floats x, Floats dy, Result dw, int64_t width,
                       int64_t lanes) {
  const Kernels& k = kernels(lanes);
  Csr m;
  if (ffi::Error error = csr(*dw, indices, starts, x, dy, width, k, &m); error.failure())
    return error;
  const int64_t batch = x.dimensions()[0], inputs = m.inputs, outputs = m.outputs;
  const int v = vectors(batch, k.lanes);
  const int64_t rows = k.lanes << v;
  std::fill(dw->typed_data(), dw->typed_data() + dw->element_count(), 0.0f);
  const Cut cut(1, 1, outputs, std::max<int64_t>(1, pool.num_threads()));
  share(pool, cut.parts, [&](auto next) {
    float* tile = tile_memory.floats(inputs * rows);
    float* from = out_memory.floats(cut.part * rows);
    for (int64_t i; (i = next()) >= 0;) {
      const int64_t first = i * cut.part, last = std::min(outputs, first + cut.part);
      for (int64_t row = 0; row < batch && first < last; row += rows) {
        const int64_t here = std::min(rows, batch - row);
        k.to_tile[v](x.typed_data() + row * inputs, here, inputs, inputs, tile);
        k.to_tile[v](dy.typed_data() + row * outputs + first, here, outputs, last - first, from);
        k.csr_weights[v](m, tile, from, first, last, dw->typed_data());
      }
    }
  });
  return ffi::Error::Success();
}

template <typename Values>
ffi::Error block_product(ffi::ThreadPool pool, Values values, ffi::Buffer<ffi::S32> rows,
                         ffi::Buffer<ffi::S32> starts, Floats x, Result y, int64_t lanes) {
  if (!is_matrix(x) || !is_matrix(*y) || x.dimensions()[0] != y->dimensions()[0] ||
      values.dimensions().size() != 3)
    return bad_sizes();
  if (!values.element_count()) {
    std::fill(y->typed_data(), y->typed_data() + y->element_count(), 0.0f);
    return ffi::Error::Success();
  }
  const int64_t batch = x.dimensions()[0], inputs = x.dimensions()[1];
  const int64_t outputs = y->dimensions()[1];
  const int64_t wide = values.dimensions()[1], high = values.dimensions()[2];
  using Value = std::remove_pointer_t<decltype(values.typed_data())>;
  const BlocksOf<std::remove_const_t<Value>> m = {values.typed_data(), rows.typed_data(),
                                                  starts.typed_data(), wide, high,
                                                  inputs,              outputs};
  const Kernels& k = kernels(lanes);
  if (ffi::Error error = fault(k, m, values.dimensions()[0], rows.element_count(),
                               starts.element_count());
      error.failure())
    return error;
  if (batch == 0) return ffi::Error::Success();
  if (batch == 1) {
    const int64_t units = (outputs + high - 1) / high;
    const Cut cut(1, 1, 16 * units, std::max<int64_t>(1, pool.num_threads()));
    const int64_t part = (units + cut.parts - 1) / cut.parts;
    share(pool, cut.parts, [&](auto next) {
      for (int64_t i; (i = next()) >= 0;)
        k.of(m).row(m, x.typed_data(), i * part, std::min(units, (i + 1) * part),
                    y->typed_data());
    });
    return ffi::Error::Success();
  }
  const int many = high % 4 == 0;
  const int64_t padded = (inputs + wide - 1) / wide * wide;
  in_tiles(k, pool, x.typed_data(), batch, inputs, padded, outputs, high, y->typed_data(),
           [&](int v, const float* tile, int64_t first, int64_t last, float* out) {
             k.of(m).forward[v][many](m, tile, first, last, out);
           });
  return ffi::Error::Success();
}

ffi::Error block_forward(ffi::ThreadPool pool, Floats values, ffi::Buffer<ffi::S32> rows,
                         ffi::Buffer<ffi::S32> starts, Floats x, Result y, int64_t lanes) {
  return block_product(pool, values, rows, starts, x, y, lanes);
}

ffi::Error block_int8_forward(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> values,
                              ffi::Buffer<ffi::S32> rows, ffi::Buffer<ffi::S32> starts, Floats x,
                              Result y, int64_t lanes) {
  return block_product(pool, values, rows, starts, x, y, lanes);
}

#include "conv.h"

}  // namespace

// Floats in the vectors of this machine's kernels.
extern "C" int64_t jsparse_lanes() { return kernels(INT64_MAX).lanes; }

#define WITH ffi::Ffi::Bind().Ctx<ffi::ThreadPool>()
#define STRUCTURE Arg<ffi::Buffer<ffi::U16>>().Arg<ffi::Buffer<ffi::S32>>()

XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_csr_forward, csr_forward,
                              WITH.Arg<Floats>().STRUCTURE.Arg<Floats>().Ret<Floats>()
                                  .Attr<int64_t>("width").Attr<int64_t>("lanes"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_csr_backward, csr_backward,
                              WITH.Arg<Floats>().STRUCTURE.Arg<Floats>().Ret<Floats>()
                                  .Attr<int64_t>("width").Attr<int64_t>("lanes"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_csr_weights, csr_weights,
                              WITH.STRUCTURE.Arg<Floats>().Arg<Floats>().Ret<Floats>()
                                  .Attr<int64_t>("width").Attr<int64_t>("lanes"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_block_forward, block_forward,
                              WITH.Arg<Floats>().Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>().Arg<Floats>().Ret<Floats>()
                                  .Attr<int64_t>("lanes"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_csr_int8_forward, csr_int8_forward,
                              WITH.Arg<ffi::Buffer<ffi::S8>>().Arg<ffi::Buffer<ffi::U8>>()
                                  .Arg<ffi::Buffer<ffi::U8>>().Arg<Floats>().Ret<Floats>()
                                  .Attr<int64_t>("width").Attr<int64_t>("lanes"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_block_int8_forward, block_int8_forward,
                              WITH.Arg<ffi::Buffer<ffi::S8>>().Arg<ffi::Buffer<ffi::S32>>()
                                  .Arg<ffi::Buffer<ffi::S32>>().Arg<Floats>().Ret<Floats>()
                                  .Attr<int64_t>("lanes"));

#define CONVOLUTION Attr<ffi::Span<const int64_t>>("window").Attr<int64_t>("width") \
    .Attr<int64_t>("batch_last").Attr<int64_t>("lanes")
XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_conv_forward, conv_forward,
                              WITH.Arg<Floats>().STRUCTURE.Arg<Floats>().Ret<Floats>()
                                  .CONVOLUTION);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_conv_backward, conv_backward,
                              WITH.Arg<Floats>().STRUCTURE.Arg<Floats>().Ret<Floats>()
                                  .CONVOLUTION);
XLA_FFI_DEFINE_HANDLER_SYMBOL(jsparse_conv_weights, conv_weights,
                              WITH.STRUCTURE.Arg<Floats>().Arg<Floats>().Ret<Floats>()
                                  .CONVOLUTION);
