// Calls the native gradient sketches and grad_gram on memory of exactly their inputs' sizes, for the sanitizers to watch. Prints how many
// calls it made.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "grad_gram/grad_gram.h"
#include "grad_sketch/grad_sketch.h"

using namespace adaptinf;

namespace {

int64_t size_of(DType dtype) { return (static_cast<int64_t>(dtype) & 0xff) / 8; }

// A matrix on the heap, its rows `gap` elements apart, filled with ones and a few other numbers.
struct Owned {
  Owned(int64_t rows, int64_t columns, DType dtype, int64_t gap = 0)
      : step(columns + gap), bytes(static_cast<size_t>(rows == 0 ? 0 : ((rows - 1) * step + columns) * size_of(dtype))),
        memory(new char[bytes]), view{memory.get(), {rows, columns}, {step, 1}, dtype, DeviceType::cpu, 0} {
    for (size_t i = 0; i < bytes; ++i) memory[i] = static_cast<char>(i % 61);
  }
  Matrix matrix() const { return Matrix(view); }
  int64_t step;
  size_t bytes;
  std::unique_ptr<char[]> memory;
  TensorView view;
};

Preconditioning moments(const Owned& first, const Owned& second) {
  Preconditioner by;
  by.form = Form::less;
  by.eps = 1;
  return {by, first.matrix(), second.matrix()};
}

}  // namespace

int main() {
  const std::vector<Sjlt> sketches{{1, 1, 1, 1}, {33, 1, 3, 11}, {60, 4, 3, 5}, {1009, 1, 1, 1009}};
  const std::vector<std::pair<int64_t, int64_t>> shapes{{1, 1}, {17, 15}, {3, 0}, {63, 33}, {130, 9}, {1, 300}};
  const std::vector<int64_t> bounds{0, 0, 1, 34, 34, 292};
  const int64_t tokens = bounds.back(), samples = static_cast<int64_t>(bounds.size()) - 1;
  const Key key{{1, 2}, {}, {}};
  int calls = 0;
  for (const CpuLevel level : {CpuLevel::portable, CpuLevel::avx2, CpuLevel::avx512}) {
    if (level > cpu_level()) continue;
    for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16})
      for (const Sjlt& sketch : sketches)
        for (const auto& [rows, columns] : shapes)
          for (const bool is_sjlt : {true, false}) {
            if (!is_sjlt && sketch.k > 60) continue;  // slow, and the same code
            const std::unique_ptr<float[]> z(new float[static_cast<size_t>(samples * sketch.k)]), norms(new float[samples]);
            const Kind kind = is_sjlt ? Kind::sjlt : Kind::rademacher;
            const Context context{kind, sketch, {z.get(), sketch.k, norms.get()}, level, kernels(level), 2};
            const Owned x(tokens, columns, dtype), g(tokens, rows, dtype, 3), a(5, columns, dtype), b(rows, 5, dtype, 1);
            const Owned scale(1, rows, dtype), state(rows, columns, dtype, 2);
            const Owned state_a(5, columns, dtype), state_b(rows, 5, dtype);
            grad_sketch_linear(context, x.matrix(), g.matrix(), bounds, key, {});
            grad_sketch_linear(context, x.matrix(), g.matrix(), bounds, key, moments(state, state));
            grad_sketch_lora(context, x.matrix(), g.matrix(), bounds,
                             {a.matrix(), b.matrix(), 0.5, scale.matrix(), key, key, moments(state_a, state_a),
                              moments(state_b, state_b)});
            grad_sketch_vector(context, g.matrix(), g.matrix(), bounds, key, moments(scale, scale));
            std::vector<int64_t> ids(static_cast<size_t>(tokens));
            for (size_t token = 0; token < ids.size(); ++token) ids[token] = static_cast<int64_t>(token * 37 % 97);
            grad_sketch_embedding(context, ids, g.matrix(), bounds, key, 3);
            const Owned given(samples, rows * columns, dtype, 1);
            project({kind, sketch, {z.get(), sketch.k, nullptr}, level, kernels(level), 2}, given.matrix(), rows, columns, key);
            calls += 6;
          }
    for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16})
      for (const auto& [rows, columns] : shapes) {
        const Owned x(tokens, columns, dtype), g(tokens, rows, dtype, 3), y(34, columns, dtype, 1), h(34, rows, dtype);
        const std::unique_ptr<float[]> out(new float[static_cast<size_t>(samples * samples)]);
        const Samples ours{x.matrix(), g.matrix(), bounds}, others{y.matrix(), h.matrix(), {0, 34, 34}};
        grad_gram(ours, {}, out.get(), samples, kernels(level), 2);
        grad_gram(ours, others, out.get(), 2, kernels(level), 2);
        grad_gram(others, ours, out.get(), samples, kernels(level), 2);
        calls += 3;
      }
  }
  std::printf("%d\n", calls);
}
