// The CUDA half of adaptinf_kernels._C with its kernels on the CPU: what native_cuda.py calls, for tensors in the host's memory.
#include "binding.h"
#include "cuda_runtime.h"

PYBIND11_MODULE(cuda_on_cpu, module) {
  using namespace adaptinf;
  bind_kmeans_cuda(module);
  bind_semdedup_cuda(module);
  module.def("counts", [] { return std::pair(cuda_shim::waits, cuda_shim::launches); },
             "How often the host waited for the device so far, and kernels that were launched.");
}
