// How planes are copied to a grid, and results from it: by lists of pieces that lie together in
// both. Included by conv.h.

// Where the images of a chunk lie in an array: `here` of the `batch` images are side by side, from
// `begin` on, and planes are `plane` floats apart.
struct Place {
  Place(const Grid& g, const View& v, int64_t chunk)
      : batch(g.problem.batch_last ? g.problem.batch : 1),
        here(g.problem.batch_last ? std::min(g.cell, batch - chunk * g.cell) : 1),
        plane(v.size[0] * v.size[1] * batch),
        begin(g.problem.batch_last ? chunk * g.cell : chunk * v.planes * plane) {}
  int64_t batch, here, plane, begin;
};

// Adds the cells [first, last) of row i, beginning at `grid`, as far as the array has them.
void add_row(const View& v, const Place& place, int64_t cell, int64_t phase, int64_t i,
             int64_t first, int64_t last, int64_t grid, std::vector<Piece>* pieces) {
  const int64_t a = phase / v.stride[1], b = phase % v.stride[1];
  const int64_t row = i * v.stride[0] + a - v.pad[0];
  const int64_t begin = std::max(first, v.first(1, b, last)), end = v.last(1, b, last);
  if (row < 0 || row >= v.size[0] || begin >= end) return;
  const int64_t step = v.stride[1] * place.batch;
  const int64_t at = (row * v.size[1] + begin * v.stride[1] + b - v.pad[1]) * place.batch;
  grid += (begin - first) * cell;
  if (place.here < cell) {
    for (int64_t j = 0; j < end - begin; ++j)
      pieces->push_back({grid + j * cell, at + j * step, 1, place.here, place.here});
    return;
  }
  Piece* before = pieces->empty() ? nullptr : &pieces->back();
  const int64_t length = before ? before->count * cell : 0;
  if (before && step == cell && before->grid + length == grid && before->memory + length == at)
    before->count += end - begin;
  else
    pieces->push_back({grid, at, end - begin, cell, step});
}

// The sources of a block, copied to the grid.
class Sources {
 public:
  void fill(const Kernels& k, const Grid& g, const Block& block, const float* x, float* grid) {
    const View& v = g.problem.from;
    if (!g.copies.empty()) return fill_copies(k, g, block, x, grid);
    const Place place(g, v, block.chunk);
    const int64_t rows = block.rows + g.problem.reach[0];
    const int64_t last = block.left + block.columns + g.problem.reach[1];
    for (int64_t phase = 0; phase < v.phases(); ++phase) {
      pieces_.clear();
      for (int64_t i = 0; i < rows; ++i)
        add_row(v, place, g.cell, phase, block.top + i, block.left, last, i * g.wide * g.cell,
                &pieces_);
      for (int64_t p = 0; p < v.planes; ++p)
        k.conv.to_grid(pieces_.data(), pieces_.size(), x + place.begin + p * place.plane, g.plane,
                       grid + (p * v.phases() + phase) * g.plane);
    }
  }

 private:
  // Each plane goes to memory nearby, and from there to its copies.
  void fill_copies(const Kernels& k, const Grid& g, const Block& block, const float* x,
                   float* grid) {
    const View& v = g.problem.from;
    const Place place(g, v, block.chunk);
    const int64_t rows = block.rows + g.problem.reach[0], period = g.whole ? g.tile : g.wide;
    const int64_t across = g.problem.columns + g.problem.reach[1];
    std::vector<std::vector<Piece>> pieces(v.phases());
    for (int64_t phase = 0; phase < v.phases(); ++phase) {
      const int64_t left = g.problem.first(1, phase % v.stride[1]);
      const int64_t above = g.whole ? g.problem.first(0, phase / v.stride[1]) : 0;
      for (int64_t i = above; i < rows; ++i)
        add_row(v, place, 1, phase, block.top + i, left, across, (i - above) * g.wide,
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

// Where the results of a tile go, as a list of pieces for each phase.
class Results {
 public:
  void set(const Grid& g, const Block& block, const Tile& tile) {
    const View& v = g.problem.to;
    pieces_.resize(v.phases());
    const Place place(g, v, block.chunk);
    place_begin_ = place.begin, place_plane_ = place.plane, phases_ = v.phases();
    const int64_t top = tile.begin / g.wide, begin = tile.begin % g.wide;
    const int64_t end = begin + tile.columns;
    for (int64_t phase = 0; phase < v.phases(); ++phase) {
      pieces_[phase].clear();
      auto add = [&](int64_t row, int64_t first, int64_t last, int64_t at) {
        add_row(v, place, g.cell, phase, block.top + top + row, block.left + first,
                block.left + last, at * g.cell, &pieces_[phase]);
      };
      if (g.problem.batch_last)
        for (int64_t i = 0; i < tile.rows; ++i) add(i, begin, end, i * tile.columns);
      else
        for (int64_t i = 0; top + i < block.rows && i * g.wide < end; ++i) {
          const int64_t first = i ? 0 : begin;
          add(i, first, std::min(block.columns, end - i * g.wide), i * g.wide + first - begin);
        }
    }
  }
  const std::vector<Piece>& pieces(int64_t result) const { return pieces_[result % phases_]; }
  int64_t begin(int64_t result) const { return place_begin_ + result / phases_ * place_plane_; }

 private:
  std::vector<std::vector<Piece>> pieces_;
  int64_t place_begin_ = 0, place_plane_ = 0, phases_ = 1;
};
