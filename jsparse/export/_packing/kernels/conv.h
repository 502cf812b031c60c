// Sparse convolutions over two axes: y[n, i, j, o] sums w x[n, s i + d k - p, ..., c] over the kept
// weights w of (c, k), and the gradients. Included by sparse.cc.
//
// The gradient for x is a convolution too: of dy, with the weights sorted by the plane they read.

#include "grid.h"
#include "pieces.h"

constexpr int64_t kResults = 128;  // planes of a tile whose sums are kept near
constexpr int64_t kOutputs = 32;   // of a group, in the gradient for x

// Results from sources: items are blocks, and parts of the results where those are few.
void conv_product(const Kernels& k, ffi::ThreadPool pool, const Grid& g, const Taps& m,
                  const float* x, float* y) {
  const Cut cut(g.items(), 1, m.outputs, std::max<int64_t>(1, pool.num_threads()));
  share(pool, g.items() * cut.parts, [&](auto next) {
    float* grid = tile_memory.floats(g.floats());
    float* out = out_memory.floats(kResults * kTiles * k.lanes);
    Sources sources;
    Results results;
    int64_t held = -1;
    for (int64_t item; (item = next()) >= 0;) {
      const Block block = g.block(item % g.items());
      if (held != item % g.items()) sources.fill(k, g, block, x, grid);
      held = item % g.items();
      const int64_t begin = item / g.items() * cut.part;
      const int64_t end = std::min(m.outputs, begin + cut.part);
      for (int64_t n = 0; n < g.tiles(block); ++n) {
        const Tile tile = g.at(block, n);
        const int64_t size = tile.rows * tile.columns * g.cell;
        const auto kernel = k.conv.forward[tile.rows - 1][g.row_vectors(tile) - 1];
        results.set(g, block, tile);
        for (int64_t first = begin; first < end; first += kResults) {
          const int64_t last = std::min(end, first + kResults);
          kernel(m, grid + tile.begin * g.cell, first, last, out);
          for (int64_t r = first; r < last; ++r) {
            const auto& pieces = results.pieces(r);
            k.conv.from_grid(pieces.data(), pieces.size(), out + (r - first) * size,
                             y + results.begin(r));
          }
        }
      }
    }
  });
}

// dw of each kept weight: x on the grid, dy tile by tile.
void conv_gradient(const Kernels& k, ffi::ThreadPool pool, const Grid& g, const Taps& m,
                   const float* x, const float* dy, float* dw) {
  const Cut cut(1, 1, m.outputs, std::max<int64_t>(1, pool.num_threads()));
  share(pool, cut.parts, [&](auto next) {
    float* grid = tile_memory.floats(g.floats());
    float* from = out_memory.floats(kResults * kTiles * k.lanes);
    Sources sources;
    Results results;
    for (int64_t i; (i = next()) >= 0;) {
      const int64_t begin = i * cut.part, end = std::min(m.outputs, begin + cut.part);
      for (int64_t item = 0; item < g.items() && begin < end; ++item) {
        const Block block = g.block(item);
        sources.fill(k, g, block, x, grid);
        for (int64_t n = 0; n < g.tiles(block); ++n) {
          const Tile tile = g.at(block, n);
          const int64_t size = tile.rows * tile.columns * g.cell;
          const auto kernel = k.conv.weights[tile.rows - 1][g.row_vectors(tile) - 1];
          results.set(g, block, tile);
          for (int64_t first = begin; first < end; first += kResults) {
            const int64_t last = std::min(end, first + kResults);
            for (int64_t r = first; r < last; ++r) {
              const auto& pieces = results.pieces(r);
              k.conv.to_grid(pieces.data(), pieces.size(), dy + results.begin(r), size,
                             from + (r - first) * size);
            }
            kernel(m, grid + tile.begin * g.cell, from, first, last, dw);
          }
        }
      }
    }
  });
}

// dw anew, term by term, where its sum is NaN: the grid has zeros of dy between rows, and zero
// times what is not finite is NaN.
void conv_gradient_alone(const Csr& m, const Window& w, const int64_t* in, const int64_t* out,
                         bool batch_last, const float* x, const float* dy, float* dw) {
  auto at = [&](const int64_t* size, int64_t n, int64_t i, int64_t j, int64_t plane) {
    const int64_t cell = i * size[2] + j, cells = size[1] * size[2];
    return batch_last ? (plane * cells + cell) * size[0] + n : (n * size[3] + plane) * cells + cell;
  };
  for (int64_t row = 0; row < m.groups * m.outputs; ++row)
    for (int64_t k = m.starts[row]; k < m.starts[row + 1]; ++k) {
      if (!std::isnan(dw[k])) continue;
      const int64_t read = row / m.outputs * m.width + m.indices[k];
      const int64_t tap = read % w.taps(), output = row % m.outputs;
      double sum = 0;
      for (int64_t n = 0; n < in[0]; ++n)
        for (int64_t i = 0; i < out[1]; ++i)
          for (int64_t j = 0; j < out[2] && !std::isnan(sum); ++j) {
            const int64_t a = i * w.stride[0] + w.at(0, tap) - w.pad[0];
            const int64_t b = j * w.stride[1] + w.at(1, tap) - w.pad[1];
            if (a < 0 || a >= in[1] || b < 0 || b >= in[2]) continue;
            sum += double{x[at(in, n, a, b, read / w.taps())]} * dy[at(out, n, i, j, output)];
          }
      dw[k] = static_cast<float>(sum);
    }
}

Problem forward_problem(const Window& w, const int64_t* x, const int64_t* y, bool batch_last) {
  return {{x[3], {x[1], x[2]}, {w.stride[0], w.stride[1]}, {w.pad[0], w.pad[1]}},
          {y[3], {y[1], y[2]}, {1, 1}, {0, 0}},
          y[1], y[2], {w.reach(0), w.reach(1)}, x[0], batch_last};
}

// dx from dy: cells of x from the first that is in x.
Problem backward_problem(const Window& w, const int64_t* x, const int64_t* y, bool batch_last) {
  Problem p = {{y[3], {y[1], y[2]}, {1, 1}, {0, 0}},
               {x[3], {x[1], x[2]}, {w.stride[0], w.stride[1]}, {0, 0}},
               0, 0, {w.reach(0), w.reach(1)}, x[0], batch_last};
  for (int axis = 0; axis < 2; ++axis) {
    const int64_t origin = floor_div(w.pad[axis], w.stride[axis]);
    const int64_t end = floor_div(w.pad[axis] + x[1 + axis] - 1, w.stride[axis]) + 1;
    p.from.pad[axis] = p.reach[axis] - origin;
    p.to.pad[axis] = w.pad[axis] - origin * w.stride[axis];
    (axis ? p.columns : p.rows) = end - origin;
  }
  return p;
}

// The weights by the phase of the plane they read, in groups of `width` outputs.
struct Turned {
  Turned(const Csr& m, const Window& w, int64_t width_) : width(width_) {
    const int64_t taps = w.taps(), phases = w.phases(), planes = m.inputs / taps * phases;
    const int64_t kept = m.starts[m.groups * m.outputs] - m.starts[0];
    groups = ceil_div(m.outputs, width);
    starts.assign(groups * planes + 1, 0);
    values.resize(kept);
    indices.resize(kept);
    struct Read {
      int64_t plane, tap;
    };
    std::vector<Read> read(m.width);  // of each index of a group
    for (int64_t n = 0; n < m.width; ++n)
      read[n] = {n / taps * phases + w.phase(n % taps), n % taps};
    auto each = [&](const auto& visit) {
      for (int64_t g = 0; g < m.groups; ++g)
        for (int64_t o = 0; o < m.outputs; ++o) {
          const int64_t part = o / width * planes + g * (m.width / taps) * phases;
          const int32_t* ends = m.starts + g * m.outputs + o;
          for (int64_t n = ends[0]; n < ends[1]; ++n) {
            const Read& one = read[m.indices[n]];
            visit(n, o, one.tap, part + one.plane);
          }
        }
    };
    each([&](int64_t, int64_t, int64_t, int64_t part) { ++starts[part + 1]; });
    for (size_t n = 1; n < starts.size(); ++n) starts[n] += starts[n - 1];
    std::vector<int32_t> next(starts.begin(), starts.end() - 1);
    each([&](int64_t n, int64_t o, int64_t tap, int64_t part) {
      const int32_t to = next[part]++;
      values[to] = m.values[n];
      indices[to] = static_cast<uint16_t>(o % width * taps + tap);
    });
  }
  std::vector<float> values;
  std::vector<uint16_t> indices;
  std::vector<int32_t> starts;
  int64_t width, groups;
};

// Where each of the weights reads, from the first plane of its group on.
std::vector<int32_t> reads(const Window& w, const Grid& g, int64_t width, bool back,
                           const Csr& m) {
  const int64_t taps = w.taps(), step = g.parts() * g.plane;
  std::vector<int32_t> found(width * taps);
  for (int64_t tap = 0; tap < taps; ++tap) {
    const int64_t down = w.shift(0, tap), across = w.shift(1, tap);
    const int64_t i = back ? w.reach(0) - down : down, j = back ? w.reach(1) - across : across;
    int64_t first = (back ? 0 : w.phase(tap) * g.plane) + (i * g.wide + j) * g.cell;
    if (!g.copies.empty())  // which are of x, and shifted themselves
      first = w.copy(g.whole, tap) * g.plane + (g.whole ? 0 : down * g.wide);
    for (int64_t plane = 0; plane < width; ++plane)
      found[plane * taps + tap] = static_cast<int32_t>(first + plane * step);
  }
  const int64_t begin = m.starts[0], end = m.starts[m.groups * m.outputs];
  std::vector<int32_t> all(end);
  for (int64_t n = begin; n < end; ++n) all[n] = found[m.indices[n]];
  return all;
}

// Far from where products of sizes would overflow.
bool sizes_fit(const Floats& x) {
  if (x.dimensions().size() != 4) return false;
  double total = 1;
  for (int64_t size : x.dimensions()) total *= std::max<int64_t>(1, size);
  return total < double{kMost} * kMost;
}

// Checks everything; `m` has the weights as those of a matrix [features * taps, outputs].
ffi::Error conv(const Floats& values, const ffi::Buffer<ffi::U16>& indices,
                const ffi::Buffer<ffi::S32>& starts, const Floats& x, const Floats& y,
                ffi::Span<const int64_t> window, int64_t width, const Kernels& k, Csr* m,
                Window* w) {
  if (!sizes_fit(x) || !sizes_fit(y) || window.size() != 8 || width < 1 ||
      x.dimensions()[0] != y.dimensions()[0] || values.element_count() != indices.element_count())
    return bad_sizes();
  for (int n = 0; n < 8; ++n)
    if (window[n] < (n < 6 ? 1 : -kMost) || window[n] > kMost) return bad_sizes();
  *w = {{window[0], window[1]}, {window[2], window[3]}, {window[4], window[5]},
        {window[6], window[7]}};
  if (w->taps() > kMost || width > kMost / w->taps() || w->phases() > kMost ||
      w->reach(0) > kMost || w->reach(1) > kMost)
    return bad_sizes();
  const int64_t features = x.dimensions()[3], outputs = y.dimensions()[3];
  *m = {values.typed_data(), indices.typed_data(), starts.typed_data(), features * w->taps(),
        outputs,             width * w->taps(),    ceil_div(features, width)};
  return fault(k, *m, values.element_count(), starts.element_count());
}

ffi::Error too_large() {
  return ffi::Error::InvalidArgument("the images are too large for the kernels of packed layers");
}

ffi::Error conv_forward(ffi::ThreadPool pool, Floats values, ffi::Buffer<ffi::U16> indices,
                        ffi::Buffer<ffi::S32> starts, Floats x, Result y,
                        ffi::Span<const int64_t> window, int64_t width, int64_t batch_last,
                        int64_t lanes) {
  const Kernels& widest = kernels(lanes);
  Csr m;
  Window w;
  ffi::Error error = conv(values, indices, starts, x, *y, window, width, widest, &m, &w);
  if (error.failure() || !y->element_count()) return error;
  const Problem p = forward_problem(w, x.dimensions().begin(), y->dimensions().begin(), batch_last);
  const Aligned aligned = alignment(widest, p, w, values.element_count());
  const Kernels& k = aligned.wide ? kernels(aligned.lanes) : fitting(widest, p);
  const Grid g(k, p, width * w.phases(), aligned, copies_of(w, p, aligned));
  if (!g.fits(width * g.parts())) return too_large();
  std::vector<int32_t> places;
  if (!g.whole || g.tile > kSmall * k.lanes) places = reads(w, g, width, false, m);
  const Taps taps = {m.values,  m.indices, m.starts, places.empty() ? nullptr : places.data(),
                     m.outputs, m.groups,  width * g.parts() * g.plane, g.wide * g.cell};
  conv_product(k, pool, g, taps, x.typed_data(), y->typed_data());
  return ffi::Error::Success();
}

ffi::Error conv_backward(ffi::ThreadPool pool, Floats values, ffi::Buffer<ffi::U16> indices,
                         ffi::Buffer<ffi::S32> starts, Floats dy, Result dx,
                         ffi::Span<const int64_t> window, int64_t width, int64_t batch_last,
                         int64_t lanes) {
  const Kernels& widest = kernels(lanes);
  Csr m;
  Window w;
  ffi::Error error = conv(values, indices, starts, *dx, dy, window, width, widest, &m, &w);
  if (error.failure() || !dx->element_count()) return error;
  const Problem p =
      backward_problem(w, dx->dimensions().begin(), dy.dimensions().begin(), batch_last);
  const Kernels& k = fitting(widest, p);
  const int64_t outputs = std::clamp<int64_t>(65536 / w.taps(), 1, kOutputs);
  const Grid g(k, p, outputs);
  if (!g.fits(outputs)) return too_large();
  const Turned turned(m, w, outputs);
  const Csr back = {turned.values.data(), turned.indices.data(), turned.starts.data(), 0,
                    m.inputs / w.taps() * w.phases(), outputs, turned.groups};
  const auto places = reads(w, g, outputs, true, back);
  const Taps taps = {back.values, back.indices, back.starts, places.data(), back.outputs,
                     back.groups, outputs * g.plane, g.wide * g.cell};
  conv_product(k, pool, g, taps, dy.typed_data(), dx->typed_data());
  return ffi::Error::Success();
}

ffi::Error conv_weights(ffi::ThreadPool pool, ffi::Buffer<ffi::U16> indices,
                        ffi::Buffer<ffi::S32> starts, Floats x, Floats dy, Result dw,
                        ffi::Span<const int64_t> window, int64_t width, int64_t batch_last,
                        int64_t lanes) {
  const Kernels& widest = kernels(lanes);
  Csr m;
  Window w;
  ffi::Error error = conv(*dw, indices, starts, x, dy, window, width, widest, &m, &w);
  if (error.failure()) return error;
  std::fill(dw->typed_data(), dw->typed_data() + dw->element_count(), 0.0f);
  if (!dy.element_count()) return error;
  const Problem p = forward_problem(w, x.dimensions().begin(), dy.dimensions().begin(), batch_last);
  const Kernels& k = fitting(widest, p);
  const Grid g(k, p, width * w.phases());
  if (!g.fits(width * w.phases())) return too_large();
  const auto places = reads(w, g, width, false, m);
  const Taps taps = {nullptr,   m.indices, m.starts, places.data(),
                     m.outputs, m.groups,  width * w.phases() * g.plane, g.wide * g.cell};
  conv_gradient(k, pool, g, taps, x.typed_data(), dy.typed_data(), dw->typed_data());
  conv_gradient_alone(m, w, x.dimensions().begin(), dy.dimensions().begin(), batch_last,
                      x.typed_data(), dy.typed_data(), dw->typed_data());
  return ffi::Error::Success();
}
