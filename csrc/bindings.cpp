// The pybind11 shell of the module; each folder binds its own functions.
#include "binding.h"

namespace adaptinf {

CpuLevel parse_level(const std::string& name) {
  for (const CpuLevel level : {CpuLevel::portable, CpuLevel::avx2, CpuLevel::avx512})
    if (name == cpu_level_name(level)) {
      if (level > cpu_level()) fail("this processor has no " + name);
      return level;
    }
  if (!name.empty()) fail("cpu_level '" + name + "': choose from portable, avx2, avx512, or '' for the best");
  return cpu_level();
}

namespace {

py::dict build_info() {
  std::vector<std::string> levels;
  for (const CpuLevel level : {CpuLevel::portable, CpuLevel::avx2, CpuLevel::avx512})
    if (level <= cpu_level()) levels.emplace_back(cpu_level_name(level));
  return py::dict("compiler"_a = ADAPTINF_COMPILER, "bindings"_a = ADAPTINF_BINDINGS,
                  "cuda"_a = py::dict("built"_a = bool(ADAPTINF_HAS_CUDA), "reason"_a = ADAPTINF_CUDA_REASON,
                                      "architectures"_a = std::string(ADAPTINF_CUDA_ARCHITECTURES),
                                      "toolkit"_a = std::string(ADAPTINF_CUDA_TOOLKIT)),
                  "cpu"_a = py::dict("used"_a = cpu_level_name(cpu_level()), "levels"_a = levels));
}

}  // namespace
}  // namespace adaptinf

PYBIND11_MODULE(_C, module) {
  using namespace adaptinf;
  module.doc() = "Native kernels of adaptinf. Tensors are (pointer, shape, strides, dtype, device type, device index).";
  bind_attention(module);
  bind_grad_gram(module);
  bind_grad_sketch(module);
  bind_kmeans(module);
  bind_kmeans_cuda(module);
  bind_rowwise(module);
  bind_semdedup(module);
  bind_semdedup_cuda(module);
  bind_sketch(module);
  bind_token_scores(module);
  module.def("build_info", &build_info, "What this module was built with, and what this processor has.");
}
