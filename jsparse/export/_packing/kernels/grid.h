// How convolutions over two axes are laid out and cut, for the kernels in conv.inc. Included by conv.h.
//
// Arrays are [batch, height, width, features] and lie either image by image, plane by plane, or with
// the batch innermost. A worker takes an image (or as many as a cell has floats) and a band of rows,
// copies the planes to a grid with zeros around them, and sums tile by tile.
//
// Rows of a grid follow each other with just the zeros between that both need, so a tile is any run
// of cells; what it computes between two rows is dropped. Where tiles of a row leave less to drop,
// they are. With a stride, a plane is dealt to `stride` planes an axis, its phases, so that
// neighbors of y read neighbors on the grid.
//
// A vector that begins anywhere in a row is mostly read from two lines of the cache. So where cells
// are floats and planes are read by many weights, there is a copy of a plane for each column of the
// window, shifted by it, whose rows begin a vector; or one for each tap, if images are small.

constexpr int64_t kBand = 384 << 10;  // floats of a grid, about
constexpr int64_t kMost = 65536;      // of anything that a window has
constexpr int64_t kNear = 8;          // vectors of a tile that is read from copies of planes
constexpr int64_t kLeast = 3;         // weights for each copy, for them to pay

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

// How copies of planes lie for vectors of `lanes`, with rows of `wide` floats; 0: there are none.
// `whole` images are tiles, in which a row need not begin a vector.
struct Aligned {
  int64_t lanes = 0, wide = 0;
  bool whole = false;
};

// What a copy has at cell [i, j]: that of a phase which is `down` and `across` from its first.
struct Copy {
  int64_t phase, down, across;
};

// How a problem is cut, for vectors of k.lanes.
struct Grid {
  Grid(const Kernels& k, const Problem& p, const Aligned& a = {}, std::vector<Copy> of_plane = {})
      : problem(p), copies(std::move(of_plane)), whole(a.whole) {
    wide = a.wide ? a.wide : with_zeros();
    if (p.batch_last) {
      cell = k.lanes;
      while (cell < p.batch && cell < (p.rows * p.columns < 4 ? 4 : 2) * k.lanes) cell *= 2;
    }
    chunks = ceil_div(p.batch, cell);
    const double row = static_cast<double>(planes()) * wide * cell;
    const auto fit = static_cast<int64_t>(kBand / std::max(1.0, row));
    bands = whole ? 1 : ceil_div(p.rows, std::max<int64_t>(1, fit - p.reach[0]));
    band = ceil_div(p.rows, bands);
    // a tile is a multiple of so many: of rows, where they begin a vector
    const int64_t cells = a.wide && !whole ? wide : std::max<int64_t>(1, k.lanes / cell);
    const int64_t each = cells * cell / k.lanes;
    const int64_t most = (a.wide ? std::max(kNear, each) : k.conv.tile) / each;
    auto cut = [&](int64_t run) {
      const int64_t units = ceil_div(run, cells);
      return ceil_div(units, ceil_div(units, most)) * cells;
    };
    tile = cut(whole ? std::max(band, p.sources(0)) * wide : span(band));
    // tiles that end with their row compute nothing between rows, if they are not much smaller
    const int64_t of_row = cut(p.columns), parts = ceil_div(p.columns, of_row);
    if (!a.wide && parts * of_row <= wide && 4 * of_row >= 3 * tile &&
        band * parts * of_row <= tiles(band) * tile) {
      tile = of_row;
      in_row = parts;
    }
    vectors = tile * cell / k.lanes;
    // what the last tile reads is within the plane, so what it drops is not of another one
    const int64_t down = whole ? 0 : p.reach[0], across = a.wide ? 0 : p.reach[1];
    used = (begin(tiles(band) - 1) + tile + down * wide + across) * cell;
    if (!a.wide) used = std::max(used, (band + down) * wide * cell);
    plane = used;
    if (whole) return;
    plane = ceil_div(plane, 16) * 16;
    if (plane % 1024 == 0) plane += 16;  // planes a page apart would share few lines of a cache
  }
  int64_t span(int64_t rows) const { return (rows - 1) * wide + problem.columns; }
  int64_t tiles(int64_t rows) const { return in_row ? rows * in_row : ceil_div(span(rows), tile); }
  int64_t begin(int64_t n) const {
    return in_row ? n / in_row * wide + n % in_row * tile : n * tile;
  }
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
  int64_t held(int64_t band_number) const {
    return std::min(band, problem.rows - band_number * band);
  }

  const Problem& problem;
  const std::vector<Copy> copies;
  const bool whole;
  int64_t cell = 1, wide, chunks, band, bands, tile, vectors, used, plane;
  int64_t in_row = 0;  // tiles of a row; 0: they run on over the ends of rows
};

// Vectors and rows for copies of planes, or none where these take longer than they save.
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
  const Grid g(k, p);
  const int64_t span = g.span(g.band);
  return 2 * ceil_div(span, narrow.lanes) <= 3 * ceil_div(span, k.lanes) ? narrow : k;
}

// Where the images of a chunk lie in an array.
struct Place {
  Place(const Grid& g, const View& v, int64_t chunk)
      : batch(g.problem.batch_last ? g.problem.batch : 1),
        here(g.problem.batch_last ? std::min(g.cell, batch - chunk * g.cell) : 1),
        plane(v.size[0] * v.size[1] * batch),
        begin(g.problem.batch_last ? chunk * g.cell : chunk * v.planes * plane) {}
  int64_t batch, here, plane, begin;
};

// The cells [first, last) of row i, beginning at `grid`, as far as the array has them.
void add_row(const View& v, const Place& place, int64_t cell, int64_t phase, int64_t i,
             int64_t first, int64_t last, int64_t grid, std::vector<Piece>* pieces) {
  const int64_t a = phase / v.stride[1], b = phase % v.stride[1];
  const int64_t row = i * v.stride[0] + a - v.pad[0];
  const int64_t begin = std::max(first, v.first(1, b, last)), end = v.last(1, b, last);
  if (row < 0 || row >= v.size[0] || begin >= end) return;
  const int64_t step = v.stride[1] * place.batch;
  const int64_t at = (row * v.size[1] + begin * v.stride[1] + b - v.pad[1]) * place.batch;
  grid += (begin - first) * cell;
  if (place.here == cell && place.batch == cell && (cell == 1 || v.stride[1] == 1)) {
    const Piece piece = {grid, at, (end - begin) * cell, cell == 1 ? step : 1};
    Piece* before = pieces->empty() ? nullptr : &pieces->back();
    if (before && before->step == 1 && piece.step == 1 && before->grid + before->count == grid &&
        before->memory + before->count == at)
      before->count += piece.count;
    else
      pieces->push_back(piece);
    return;
  }
  for (int64_t j = 0; j < end - begin; ++j)
    pieces->push_back({grid + j * cell, at + j * step, place.here, 1});
}

// The sources of a band on the grid, and the lists of pieces they were copied by.
class Sources {
 public:
  void fill(const Kernels& k, const Grid& g, int64_t chunk, int64_t band, const float* x,
            float* grid) {
    const View& v = g.problem.from;
    if (!g.copies.empty()) return fill_copies(k, g, chunk, band, x, grid);
    const Place place(g, v, chunk);
    const int64_t top = band * g.band, rows = g.held(band) + g.problem.reach[0];
    for (int64_t phase = 0; phase < v.phases(); ++phase) {
      pieces_.clear();
      for (int64_t i = 0; i < rows; ++i)
        add_row(v, place, g.cell, phase, top + i, 0, g.problem.columns + g.problem.reach[1],
                i * g.wide * g.cell, &pieces_);
      for (int64_t p = 0; p < v.planes; ++p)
        k.conv.to_grid(pieces_.data(), pieces_.size(), x + place.begin + p * place.plane, g.plane,
                       grid + (p * v.phases() + phase) * g.plane);
    }
  }

 private:
  // Each plane goes to memory nearby, and from there to its copies.
  void fill_copies(const Kernels& k, const Grid& g, int64_t chunk, int64_t band, const float* x,
                   float* grid) {
    const View& v = g.problem.from;
    const Place place(g, v, chunk);
    const int64_t rows = g.held(band) + g.problem.reach[0], period = g.whole ? g.tile : g.wide;
    const int64_t across = g.problem.columns + g.problem.reach[1];
    std::vector<std::vector<Piece>> pieces(v.phases());
    for (int64_t phase = 0; phase < v.phases(); ++phase) {
      const int64_t left = g.problem.first(1, phase % v.stride[1]);
      const int64_t above = g.whole ? g.problem.first(0, phase / v.stride[1]) : 0;
      for (int64_t i = above; i < rows; ++i)
        add_row(v, place, 1, phase, band * g.band + i, left, across, (i - above) * g.wide,
                &pieces[phase]);
    }
    int64_t margin = 0;
    for (const Copy& c : g.copies)
      margin = std::max(margin, ceil_div(std::abs(c.down * g.wide + c.across), 16) * 16);
    const int64_t apart = g.used + 2 * margin;  // what is read beyond a plane is masked
    Shifts shifts = {g.used, period, g.plane};
    for (const Copy& c : g.copies) {
      shifts.from.push_back(c.phase * apart + c.down * g.wide + c.across);
      for (int64_t i = 0; i < period / g.wide; ++i)
        for (int64_t j = 0; j < g.wide; ++j) {
          const int64_t row = i + c.down, column = j + c.across;
          const bool inside = row >= 0 && row < period / g.wide && column >= 0 && column < g.wide;
          shifts.masks.push_back(inside ? -1 : 0);
        }
    }
    float* planes = plane_memory.floats(v.phases() * apart) + margin;
    for (int64_t p = 0; p < v.planes; ++p) {
      for (int64_t phase = 0; phase < v.phases(); ++phase)
        k.conv.to_grid(pieces[phase].data(), pieces[phase].size(),
                       x + place.begin + p * place.plane, g.used, planes + phase * apart);
      k.conv.shift(shifts, planes, grid + p * g.parts() * g.plane);
    }
  }

  std::vector<Piece> pieces_;
};

// The results of a tile, by phase.
class Results {
 public:
  void set(const Grid& g, int64_t chunk, int64_t band, int64_t tile) {
    const View& v = g.problem.to;
    pieces_.resize(v.phases());
    const Place place(g, v, chunk);
    place_begin_ = place.begin, place_plane_ = place.plane, phases_ = v.phases();
    const int64_t begin = g.begin(tile), end = begin + g.tile, rows = g.held(band);
    for (int64_t phase = 0; phase < v.phases(); ++phase) {
      pieces_[phase].clear();
      for (int64_t i = begin / g.wide; i < rows && i * g.wide < end; ++i) {
        const int64_t first = std::max<int64_t>(0, begin - i * g.wide);
        const int64_t last = std::min(g.problem.columns, end - i * g.wide);
        add_row(v, place, g.cell, phase, band * g.band + i, first, last,
                (i * g.wide + first - begin) * g.cell, &pieces_[phase]);
      }
    }
  }
  const std::vector<Piece>& pieces(int64_t result) const { return pieces_[result % phases_]; }
  int64_t begin(int64_t result) const { return place_begin_ + result / phases_ * place_plane_; }

 private:
  std::vector<std::vector<Piece>> pieces_;
  int64_t place_begin_ = 0, place_plane_ = 0, phases_ = 1;
};
