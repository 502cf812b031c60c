// Runs the kernels on structures from a file, to be compiled with sanitizers: every array lies in
// memory of its own, of its exact size. Prints a line for each structure: "ran" or "refused".
//
//     kernels < structures
//
// A structure is numbers of 64 bits: 0 (csr), 1 (blocks), 2 (csr int8), 3 (blocks int8) or 4
// (convolution), batch, inputs, outputs, lanes, kept; width, or wide and high, or width, whether the
// batch is last, height and width of x and of y, and the window; the number of indices (or rows),
// these, the number of starts (or counts), these.

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <vector>

#include "sparse.cc"

extern "C" const XLA_FFI_Api* XLA_FFI_GetApi() { return nullptr; }  // of jaxlib, not linked here

namespace {

int64_t number() {
  int64_t value;
  if (std::fread(&value, sizeof value, 1, stdin) != 1) std::exit(0);
  return value;
}

template <typename T>
std::vector<T> numbers(int64_t count) {
  std::vector<T> found(count);
  for (T& one : found) one = static_cast<T>(number());
  found.shrink_to_fit();
  return found;
}

template <typename T = float>
std::vector<T> floats(int64_t count) {
  std::vector<T> found(count);
  for (int64_t n = 0; n < count; ++n) found[n] = T(n % 7) - T(3);
  return found;
}

template <ffi::DataType dtype, typename T>
struct Array {
  Array(std::vector<T>& data, std::vector<int64_t> shape) : dims(shape) {
    buffer.struct_size = sizeof buffer;
    buffer.extension_start = nullptr;
    buffer.dtype = static_cast<XLA_FFI_DataType>(dtype);
    buffer.data = data.data();
    buffer.rank = dims.size();
    buffer.dims = dims.data();
  }
  ffi::Buffer<dtype> get() { return ffi::Buffer<dtype>(&buffer); }
  std::vector<int64_t> dims;
  XLA_FFI_Buffer buffer;
};
using Reals = Array<ffi::F32, float>;
using Wholes = Array<ffi::S32, int32_t>;
using Shorts = Array<ffi::U16, uint16_t>;
using Bytes = Array<ffi::U8, uint8_t>;
using SmallValues = Array<ffi::S8, int8_t>;

XLA_FFI_Error* schedule(XLA_FFI_ThreadPool_Schedule_Args* args) {
  std::thread([task = args->task, data = args->data] { task(data); }).detach();
  return nullptr;
}

XLA_FFI_Error* threads(XLA_FFI_ThreadPool_NumThreads_Args* args) {
  *args->num_threads = 2;
  return nullptr;
}

bool run_csr(ffi::ThreadPool pool, int64_t batch, int64_t inputs, int64_t outputs, int64_t lanes,
             int64_t kept) {
  const int64_t width = number();
  auto indices = numbers<uint16_t>(number());
  auto starts = numbers<int32_t>(number());
  auto values = floats(kept), dw = floats(kept), x = floats(batch * inputs),
       dx = floats(batch * inputs), y = floats(batch * outputs), dy = floats(batch * outputs);
  Reals of_values(values, {kept}), of_dw(dw, {kept});
  Reals of_x(x, {batch, inputs}), of_dx(dx, {batch, inputs});
  Reals of_y(y, {batch, outputs}), of_dy(dy, {batch, outputs});
  Shorts of_indices(indices, {int64_t(indices.size())});
  Wholes of_starts(starts, {int64_t(starts.size())});
  auto i = of_indices.get();
  auto s = of_starts.get();
  bool ran = csr_forward(pool, of_values.get(), i, s, of_x.get(), of_y.get(), width, lanes).success();
  ran &= csr_backward(pool, of_values.get(), i, s, of_dy.get(), of_dx.get(), width, lanes).success();
  ran &= csr_weights(pool, i, s, of_x.get(), of_dy.get(), of_dw.get(), width, lanes).success();
  return ran;
}

bool run_csr_int8(ffi::ThreadPool pool, int64_t batch, int64_t inputs, int64_t outputs,
                  int64_t lanes, int64_t kept) {
  const int64_t width = number();
  auto indices = numbers<uint8_t>(number());
  auto counts = numbers<uint8_t>(number());
  auto values = floats<int8_t>(kept);
  auto x = floats(batch * inputs), y = floats(batch * outputs);
  SmallValues of_values(values, {kept});
  Bytes of_indices(indices, {int64_t(indices.size())}), of_counts(counts, {int64_t(counts.size())});
  Reals of_x(x, {batch, inputs}), of_y(y, {batch, outputs});
  return csr_int8_forward(pool, of_values.get(), of_indices.get(), of_counts.get(), of_x.get(),
                          of_y.get(), width, lanes)
      .success();
}

template <ffi::DataType dtype, typename Value>
bool run_blocks(ffi::ThreadPool pool, int64_t batch, int64_t inputs, int64_t outputs, int64_t lanes,
                int64_t kept) {
  const int64_t wide = number(), high = number();
  auto rows = numbers<int32_t>(number());
  auto starts = numbers<int32_t>(number());
  auto values = floats<Value>(kept * wide * high);
  auto x = floats(batch * inputs), y = floats(batch * outputs);
  Array<dtype, Value> of_values(values, {kept, wide, high});
  Reals of_x(x, {batch, inputs}), of_y(y, {batch, outputs});
  Wholes of_rows(rows, {int64_t(rows.size())}), of_starts(starts, {int64_t(starts.size())});
  return block_product(pool, of_values.get(), of_rows.get(), of_starts.get(), of_x.get(), of_y.get(),
                       lanes)
      .success();
}

bool run_conv(ffi::ThreadPool pool, int64_t batch, int64_t inputs, int64_t outputs, int64_t lanes,
              int64_t kept) {
  const int64_t width = number(), last = number();
  const auto image = numbers<int64_t>(2), result = numbers<int64_t>(2);
  const auto window = numbers<int64_t>(8);
  auto indices = numbers<uint16_t>(number());
  auto starts = numbers<int32_t>(number());
  const int64_t across = batch * image[0] * image[1] * inputs;
  const int64_t down = batch * result[0] * result[1] * outputs;
  auto values = floats(kept), dw = floats(kept), x = floats(across), dx = floats(across),
       y = floats(down), dy = floats(down);
  Reals of_values(values, {kept}), of_dw(dw, {kept});
  const std::vector<int64_t> in = {batch, image[0], image[1], inputs};
  const std::vector<int64_t> out = {batch, result[0], result[1], outputs};
  Reals of_x(x, in), of_dx(dx, in), of_y(y, out), of_dy(dy, out);
  Shorts of_indices(indices, {int64_t(indices.size())});
  Wholes of_starts(starts, {int64_t(starts.size())});
  auto i = of_indices.get();
  auto s = of_starts.get();
  ffi::Span<const int64_t> w(window.data(), window.size());
  bool ran = conv_forward(pool, of_values.get(), i, s, of_x.get(), of_y.get(), w, width, last, lanes)
                 .success();
  ran &= conv_backward(pool, of_values.get(), i, s, of_dy.get(), of_dx.get(), w, width, last, lanes)
             .success();
  for (const float first : {1.0F, std::numeric_limits<float>::infinity()}) {
    if (across) x[0] = first;
    ran &= conv_weights(pool, i, s, of_x.get(), of_dy.get(), of_dw.get(), w, width, last, lanes)
               .success();
  }
  return ran;
}

}  // namespace

int main() {
  XLA_FFI_Api api = {};
  api.XLA_FFI_ThreadPool_Schedule = schedule;
  api.XLA_FFI_ThreadPool_NumThreads = threads;
  ffi::DiagnosticEngine diagnostic;
  auto pool = *ffi::CtxDecoding<ffi::ThreadPool>::Decode(&api, nullptr, diagnostic);
  for (;;) {
    const int64_t kind = number(), batch = number(), inputs = number(), outputs = number();
    const int64_t lanes = number(), kept = number();
    const auto run = kind == 0   ? run_csr
                     : kind == 1 ? run_blocks<ffi::F32, float>
                     : kind == 2 ? run_csr_int8
                     : kind == 3 ? run_blocks<ffi::S8, int8_t>
                                 : run_conv;
    const bool ran = run(pool, batch, inputs, outputs, lanes, kept);
    std::puts(ran ? "ran" : "refused");
    std::fflush(stdout);
  }
}
