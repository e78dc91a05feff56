// dedup_cuda of csrc/semdedup on the CPU: reads rows and clusters from a file, writes the results to another.
#include "driver.h"
#include "semdedup/dedup_cuda.h"

using namespace adaptinf;
using namespace adaptinf::semdedup;
using cuda_shim::Buffer;

int main(int argc, char** argv) {
  std::FILE* in = cuda_shim::begin(argc, argv);
  const Buffer<int64_t> numbers(10, in);
  const int64_t* number = numbers.data;
  CudaDedup call{};
  call.dtype = static_cast<DType>(*number++);
  call.x_rows = *number++;
  call.columns = *number++;
  call.row_stride = *number++;
  const int64_t n = *number++, clusters = *number++, results = *number++;
  call.keep = static_cast<Keep>(*number++);
  call.alone_rows = *number++;
  call.slice_tiles = *number++;
  const int64_t size = (static_cast<int64_t>(call.dtype) & 0xff) / 8;
  const int64_t elements = call.x_rows == 0 ? 0 : (call.x_rows - 1) * call.row_stride + call.columns;
  const Buffer<char> x(elements * size, in);
  const Buffer<int64_t> rows(n, in), bounds(clusters + 1, in);
  const Buffer<double> thresholds(results, in);
  const Buffer<int8_t> kept(results * n, nullptr);
  const Buffer<int64_t> before(results * n, nullptr);
  const Buffer<double> similarity(results * n, nullptr);
  call.x = x.data, call.rows = rows.data;
  call.bounds.assign(bounds.data, bounds.data + bounds.count);
  call.thresholds.assign(thresholds.data, thresholds.data + results);
  call.kept = kept.data, call.before = before.data, call.similarity = similarity.data;
  const Buffer<char> workspace(cuda_dedup_workspace(n, call.columns, clusters, results, call.keep), nullptr);
  try {
    dedup_cuda(call, workspace.data, 0, 0);
  } catch (const std::invalid_argument& failed) {
    cuda_shim::die(failed.what());
  }
  std::FILE* out = cuda_shim::output(argv);
  kept.write(out), before.write(out), similarity.write(out);
  cuda_shim::end(out);
}
