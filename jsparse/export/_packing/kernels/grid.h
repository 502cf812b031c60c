// How convolutions over two axes are laid out and cut, for the kernels in conv.inc. Included by
// conv.h.
//
// Arrays are [batch, height, width, features] and lie either image by image, plane by plane, or
// with the batch innermost. A worker copies a block of the planes to a grid with zeros around it,
// and sums tile by tile. With a stride, a plane is dealt to `stride` planes an axis, its phases, so
// that neighbors of y read neighbors on the grid.
//
// With the batch innermost, cells are vectors over the batch, and a tile is a row or two of a few
// cells. What weights read for neighbors overlaps, so the nearest cache holds more planes of small
// and square tiles. Sums that read from the next cache take half as long again.
//
// With single images cells are floats, and a block is a band of whole rows. Between two rows are
// just the zeros that both need, so a tile is any run of cells; what it computes there is dropped.
// Tiles end with their row where that drops less. A vector that begins anywhere in a row is mostly
// read from two lines of the cache. So where many weights read a plane, there is a copy of it for
// each column of the window, shifted by it, in which each row begins with a whole vector; or a copy
// for each tap, if images are small.

constexpr int64_t kBand = 384 << 10;  // floats of a grid, about
constexpr int64_t kCache = 11 << 10;  // floats of a group for a tile that the nearest cache holds
constexpr int64_t kRow = 4;           // vectors in a row of a tile; twice that, if kCache allows it
constexpr int64_t kMost = 65536;      // of anything that a window has
constexpr int64_t kNear = 8;          // vectors of a tile that is read from copies of planes
constexpr int64_t kLeast = 3;         // weights that read a copy, or it costs more than it saves

int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }

// How planes lie in an array: cell i of phase a is at i * stride + a - pad, on each axis.
struct View {
  int64_t planes, size[2], stride[2], pad[2];
  int64_t phases() const { return stride[0] * stride[1]; }
  // The cells first <= i < last that the array has, of 0 <= i < end.
  int64_t first(int axis, int64_t phase, int64_t end) const {
    return std::clamp(ceil_div(pad[axis] - phase, stride[axis]), int64_t{0}, end);
  }
  int64_t last(int axis, int64_t phase, int64_t end) const {
    return std::clamp(ceil_div(size[axis] + pad[axis] - phase, stride[axis]), int64_t{0}, end);
  }
};

// A sum over taps: result [i, j] reads sources [i, j] to [i + reach[0], j + reach[1]].
struct Problem {
  View from, to;
  int64_t rows, columns, reach[2], batch;
  bool batch_last;
  int64_t results(int axis) const { return axis ? columns : rows; }
  // The first cell of a phase that has a source, and the most of them that there are.
  int64_t first(int axis, int64_t phase) const {
    return from.first(axis, phase, results(axis) + reach[axis]);
  }
  int64_t sources(int axis) const {
    int64_t most = 0;
    for (int64_t n = 0; n < from.stride[axis]; ++n)
      most = std::max(most, from.last(axis, n, results(axis) + reach[axis]) - first(axis, n));
    return most;
  }
};

// What is known of a convolution besides its weights.
struct Window {
  int64_t size[2], stride[2], dilation[2], pad[2];
  int64_t taps() const { return size[0] * size[1]; }
  int64_t phases() const { return stride[0] * stride[1]; }
  int64_t reach(int axis) const { return (size[axis] - 1) * dilation[axis] / stride[axis]; }
  int64_t at(int axis, int64_t tap) const {
    return (axis ? tap % size[1] : tap / size[1]) * dilation[axis];
  }
  int64_t shift(int axis, int64_t tap) const { return at(axis, tap) / stride[axis]; }
  int64_t phase(int axis, int64_t tap) const { return at(axis, tap) % stride[axis]; }
  int64_t phase(int64_t tap) const { return phase(0, tap) * stride[1] + phase(1, tap); }
  // The copy of a plane that a tap reads.
  int64_t copy(bool whole, int64_t tap) const {
    return whole ? tap : phase(0, tap) * size[1] + tap % size[1];
  }
};

// How copies of planes lie: for vectors of `lanes`, with rows of `wide` floats; 0 without copies.
// If `whole`, a tile is an image, and only its first row begins with a whole vector.
struct Aligned {
  int64_t lanes = 0, wide = 0;
  bool whole = false;
};

// A copy has at cell [i, j] what a phase has at [i + down, j + across], from its first cell on.
struct Copy {
  int64_t phase, down, across;
};

// Part of the results of an image, or of the images that share cells.
struct Block {
  int64_t chunk, top, left, rows, columns;
};

// What a kernel computes at once: rows of a block, or a run of cells; from which cell on.
struct Tile {
  int64_t begin, rows, columns;
};

// The length of equal parts, as few as possible, that are at most so long.
int64_t even(int64_t length, int64_t most) { return ceil_div(length, ceil_div(length, most)); }

// How a problem is cut, for vectors of k.lanes. `group` planes are read together.
struct Grid {
  Grid(const Kernels& k, const Problem& p, int64_t group, const Aligned& a = {},
       std::vector<Copy> of_plane = {})
      : problem(p), copies(std::move(of_plane)), whole(a.whole), lanes(k.lanes) {
    p.batch_last ? cut_in_blocks(k, group) : cut_in_runs(k, a);
    if (whole) return;
    plane = ceil_div(plane, 16) * 16;
    if (plane % 1024 == 0) plane += 16;  // planes a page apart would share few lines of a cache
  }
  int64_t items() const { return chunks * bands * strips; }
  Block block(int64_t item) const {
    const int64_t at = item / chunks;  // the chunks of a place lie together
    const int64_t top = at / strips * band, left = at % strips * strip;
    return {item % chunks, top, left, std::min(band, problem.rows - top),
            std::min(strip, problem.columns - left)};
  }
  int64_t span(int64_t rows) const { return (rows - 1) * wide + problem.columns; }
  int64_t tiles(const Block& b) const {
    if (problem.batch_last) return ceil_div(b.rows, tile_rows) * ceil_div(b.columns, tile);
    return in_row ? b.rows * in_row : ceil_div(span(b.rows), tile);
  }
  Tile at(const Block& b, int64_t n) const {
    if (!problem.batch_last)
      return {in_row ? n / in_row * wide + n % in_row * tile : n * tile, 1, tile};
    const int64_t across = ceil_div(b.columns, tile);
    const int64_t i = n / across * tile_rows, j = n % across * tile;
    return {i * wide + j, std::min(tile_rows, b.rows - i), std::min(tile, b.columns - j)};
  }
  int64_t row_vectors(const Tile& t) const { return t.columns * cell / lanes; }
  // Cells from a row to the next: its own, and the zeros that both need.
  int64_t with_zeros() const {
    const View& from = problem.from;
    const int64_t across = problem.columns + problem.reach[1];
    int64_t head = across, end = problem.columns;
    for (int64_t b = 0; b < from.stride[1]; ++b) {
      head = std::min(head, from.first(1, b, across));
      end = std::max(end, from.last(1, b, across));
    }
    return std::max(end, across - head);
  }
  // Planes of the grid that a plane of an image has.
  int64_t parts() const { return copies.empty() ? problem.from.phases() : copies.size(); }
  int64_t planes() const { return problem.from.planes * parts(); }
  int64_t floats() const { return plane * planes(); }
  bool fits(int64_t group) const {
    const double size = plane;
    return size * planes() < INT32_MAX && size * group < INT32_MAX;
  }

  const Problem& problem;
  const std::vector<Copy> copies;
  const bool whole;
  const int64_t lanes;
  int64_t cell = 1, wide, chunks, band, bands, strip, strips = 1, tile, tile_rows = 1, used, plane;
  int64_t in_row = 0;  // tiles of a row; 0: they run on over the ends of rows

 private:
  // Cells are floats, and tiles are runs of them in bands of whole rows.
  void cut_in_runs(const Kernels& k, const Aligned& a) {
    const Problem& p = problem;
    wide = a.wide ? a.wide : with_zeros();
    chunks = p.batch;
    strip = p.columns;
    const double row = static_cast<double>(planes()) * wide;
    const auto fit = static_cast<int64_t>(kBand / std::max(1.0, row));
    bands = whole ? 1 : ceil_div(p.rows, std::max<int64_t>(1, fit - p.reach[0]));
    band = ceil_div(p.rows, bands);
    // a tile is a multiple of so many cells: of rows, where they begin a vector
    const int64_t unit = a.wide && !whole ? wide : lanes, each = unit / lanes;
    const int64_t most = (a.wide ? std::max(kNear, each) : k.conv.tile) / each;
    auto cut = [&](int64_t run) { return even(ceil_div(run, unit), most) * unit; };
    tile = cut(whole ? std::max(band, p.sources(0)) * wide : span(band));
    // tiles that end with their row compute nothing between rows, if they are not much smaller
    const int64_t of_row = cut(p.columns), parts = ceil_div(p.columns, of_row);
    const Block first = block(0);
    if (!a.wide && parts * of_row <= wide && 4 * of_row >= 3 * tile &&
        band * parts * of_row <= tiles(first) * tile) {
      tile = of_row;
      in_row = parts;
    }
    // what the last tile reads is within the plane, so what it drops is not of another one
    const int64_t down = whole ? 0 : p.reach[0], across = a.wide ? 0 : p.reach[1];
    used = at(first, tiles(first) - 1).begin + tile + down * wide + across;
    if (!a.wide) used = std::max(used, (band + down) * wide);
    plane = used;
  }

  // Cells are vectors over the batch, more than one where images are small. Blocks are a few tiles,
  // which share what lies around them, each way at least as long as the window reaches.
  void cut_in_blocks(const Kernels& k, int64_t group) {
    const Problem& p = problem;
    cell = lanes;
    while (cell < p.batch && p.columns * cell < kRow * lanes &&
           p.rows * p.columns * cell < 2 * kRow * lanes)
      cell *= 2;
    chunks = ceil_div(p.batch, cell);
    tile_rows = std::min<int64_t>(2, p.rows);
    auto floats = [&](double planes, int64_t rows, int64_t columns) {
      return planes * (rows + p.reach[0]) * (columns + p.reach[1]) * cell;
    };
    int64_t most = std::min(k.conv.tile / tile_rows, 2 * kRow) * lanes / cell;
    if (floats(group, tile_rows, most) > kCache) most = std::min(most, kRow * lanes / cell);
    tile = even(p.columns, most);
    band = tile_rows, strip = tile;
    while (band < p.rows || strip < p.columns) {
      const bool down = strip >= p.columns || (band < p.rows && band < strip);
      const int64_t rows = band + down * tile_rows, columns = strip + !down * tile;
      const bool large = floats(planes(), rows, columns) > kBand;
      if (large && band >= p.reach[0] && strip >= p.reach[1]) break;
      band = rows, strip = columns;
    }
    band = ceil_div(even(p.rows, band), tile_rows) * tile_rows;
    strip = ceil_div(even(p.columns, strip), tile) * tile;
    bands = ceil_div(p.rows, band), strips = ceil_div(p.columns, strip);
    wide = strip + p.reach[1];
    plane = used = (band + p.reach[0]) * wide * cell;
  }
};

// How copies of planes lie; without any where they would take longer than they save.
Aligned alignment(const Kernels& k, const Problem& p, const Window& w, double kept) {
  const int64_t columns = std::max(p.columns, p.sources(1)), rows = std::max(p.rows, p.sources(0));
  const double each = kept / std::max<int64_t>(1, p.from.planes);  // that read a plane
  if (p.batch_last || !columns || each < kLeast * w.stride[0] * w.size[1]) return {};
  if (columns > 4) {
    const int64_t eights = ceil_div(columns, 8) * 8, sixteens = ceil_div(columns, 16) * 16;
    const int64_t lanes = std::min<int64_t>(k.lanes, 7 * sixteens <= 8 * eights ? 16 : 8);
    const int64_t wide = ceil_div(columns, lanes) * lanes;
    return wide > kernels(lanes).conv.tile * lanes ? Aligned{} : Aligned{lanes, wide, false};
  }
  const int64_t wide = columns == 3 ? 4 : columns, size = rows * wide;
  const int64_t lanes = std::min<int64_t>(k.lanes, size > 8 ? 16 : size > 4 ? 8 : 4);
  if (size > kNear * lanes || each < kLeast * w.taps()) return {};
  return {lanes, wide, true};
}

// The copies of a plane that taps read, in the order of `Window::copy`.
std::vector<Copy> copies_of(const Window& w, const Problem& p, const Aligned& aligned) {
  std::vector<Copy> found;
  if (!aligned.wide) return found;
  found.resize(aligned.whole ? w.taps() : w.stride[0] * w.size[1]);
  for (int64_t tap = 0; tap < w.taps(); ++tap) {
    const int64_t down = aligned.whole ? w.shift(0, tap) - p.first(0, w.phase(0, tap)) : 0;
    const int64_t across = w.shift(1, tap) - p.first(1, w.phase(1, tap));
    found[w.copy(aligned.whole, tap)] = {w.phase(tap), down, across};
  }
  return found;
}

// Narrower kernels where many places of wide vectors would be empty: for small images.
const Kernels& fitting(const Kernels& k, const Problem& p) {
  if (p.batch_last || k.lanes <= 8) return k;
  const Kernels& narrow = kernels(8);
  const Grid g(k, p, 1);
  const int64_t span = g.span(g.band);
  return 2 * ceil_div(span, narrow.lanes) <= 3 * ceil_div(span, k.lanes) ? narrow : k;
}
