// What every folder's bind.cpp needs. Plain functions of numbers: a tensor is the tuple of common/tensor_view.h, checked
// before anything is touched; the interpreter lock is released while they run.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>

#include "adaptinf_build.h"
#include "common/cpu_features.h"
#include "common/tensor_view.h"

namespace adaptinf {

namespace py = pybind11;
using namespace py::literals;
using GilReleased = py::call_guard<py::gil_scoped_release>;

// The level of that name, "" for the best; fails where this processor lacks it.
CpuLevel parse_level(const std::string& name);

[[noreturn]] inline void no_cuda() { fail(std::string("this module has no CUDA part: ") + ADAPTINF_CUDA_REASON); }

// One per folder.
void bind_attention(py::module_& module);
void bind_grad_gram(py::module_& module);
void bind_grad_sketch(py::module_& module);
void bind_kmeans(py::module_& module);
void bind_kmeans_cuda(py::module_& module);
void bind_rowwise(py::module_& module);
void bind_semdedup(py::module_& module);
void bind_semdedup_cuda(py::module_& module);
void bind_sketch(py::module_& module);
void bind_token_scores(py::module_& module);

}  // namespace adaptinf
