// Python's view of this folder.
#include <cmath>

#include "../binding.h"
#include "../grad_sketch/arguments.h"
#include "semdedup.h"

namespace adaptinf {
namespace {

using semdedup::Found;
using semdedup::Machine;
using semdedup::Problem;

// x, rows, bounds
using ProblemArguments = std::tuple<Arguments, Arguments, Arguments>;

TensorView on_cpu(const char* name, const Arguments& arguments, const std::vector<DType>& allowed, size_t dimensions,
                  Access access) {
  const TensorView view = checked_view(name, arguments, allowed, dimensions, access);
  if (view.device != DeviceType::cpu) fail(std::string(name) + ": must be in the memory of the CPU");
  return view;
}

const int64_t* integers(const char* name, const Arguments& arguments, int64_t count) {
  const TensorView view = on_cpu(name, arguments, {DType::int64}, 1, Access::read);
  if (view.shape[0] != count) fail(std::string(name) + ": must be [" + std::to_string(count) + "]");
  return static_cast<const int64_t*>(view.data);
}

Problem checked_problem(const ProblemArguments& arguments) {
  const auto& [x, rows, bounds] = arguments;
  const std::vector<DType> floats{DType::float64, DType::float32, DType::float16, DType::bfloat16};
  Problem problem{on_cpu("x", x, floats, 2, Access::read), nullptr, nullptr, 0};
  if (problem.x.shape[1] > int64_t{1} << 20) fail("x: more than 2^20 columns");
  const std::vector<int64_t>&row_shape = std::get<1>(rows), &bound_shape = std::get<1>(bounds);
  const int64_t n = row_shape.empty() ? 0 : row_shape[0];
  problem.clusters = bound_shape.empty() ? -1 : bound_shape[0] - 1;
  if (problem.clusters < 0) fail("bounds: must be at least one number");
  problem.rows = integers("rows", rows, n);
  problem.bounds = integers("bounds", bounds, problem.clusters + 1);
  for (int64_t i = 0; i < n; ++i)
    if (problem.rows[i] < 0 || problem.rows[i] >= problem.x.shape[0]) fail("rows: must be rows of x");
  if (problem.bounds[0] != 0 || problem.bounds[problem.clusters] != n) fail("bounds: must run from 0 to the rows");
  for (int64_t i = 0; i < problem.clusters; ++i)
    if (problem.bounds[i + 1] < problem.bounds[i]) fail("bounds: must not fall");
  return problem;
}

// kept int8, before int64, similarity float64, each [results, N]; one Found per result.
std::vector<Found> checked_found(const std::tuple<Arguments, Arguments, Arguments>& arguments, int64_t results, int64_t n) {
  const TensorView kept = on_cpu("kept", std::get<0>(arguments), {DType::int8}, 2, Access::write),
                   before = on_cpu("before", std::get<1>(arguments), {DType::int64}, 2, Access::write),
                   similarity = on_cpu("similarity", std::get<2>(arguments), {DType::float64}, 2, Access::write);
  for (const TensorView* view : {&kept, &before, &similarity})
    if (view->shape[0] != results || view->shape[1] != n) fail("found: each must be [results, rows]");
  std::vector<Found> found;
  for (int64_t i = 0; i < results; ++i) {
    const auto step = [&](const TensorView& view) { return results > 1 ? i * view.strides[0] : 0; };
    found.push_back({static_cast<int8_t*>(kept.data) + step(kept), static_cast<int64_t*>(before.data) + step(before),
                     static_cast<double*>(similarity.data) + step(similarity)});
  }
  return found;
}

Machine checked_machine(int64_t threads, const std::string& level, bool brain) {
  const CpuLevel chosen = parse_level(level);
  return {chosen, semdedup::kernels(chosen, brain && has_avx512_bf16()), checked_threads(threads)};
}

int64_t places(const Problem& problem) { return problem.bounds[problem.clusters]; }

void by_threshold(const ProblemArguments& problem_arguments, const std::string& keep, const std::vector<double>& thresholds,
                  const std::tuple<Arguments, Arguments, Arguments>& found_arguments, int64_t threads,
                  const std::string& level, bool brain) {
  const Problem problem = checked_problem(problem_arguments);
  const Machine machine = checked_machine(threads, level, brain);
  const std::vector<Found> found =
      checked_found(found_arguments, static_cast<int64_t>(thresholds.size()), places(problem));
  for (const double threshold : thresholds)
    if (std::isnan(threshold)) fail("thresholds: must be numbers");
  if (keep == "components") return semdedup::components(problem, thresholds, found, machine);
  if (keep != "reference" && keep != "greedy") fail("keep '" + keep + "': choose from reference, greedy, components");
  for (size_t i = 0; i < thresholds.size(); ++i)
    (keep == "greedy" ? semdedup::greedy : semdedup::reference)(problem, thresholds[i], found[i], machine);
}

void farthest_per_cluster(const ProblemArguments& problem_arguments, const Arguments& budget_arguments,
                          const std::tuple<Arguments, Arguments, Arguments>& found_arguments, int64_t threads,
                          const std::string& level) {
  const Problem problem = checked_problem(problem_arguments);
  const int64_t* const budgets = integers("budgets", budget_arguments, problem.clusters);
  for (int64_t i = 0; i < problem.clusters; ++i)
    if (budgets[i] < 0 || budgets[i] > problem.bounds[i + 1] - problem.bounds[i]) fail("budgets: beyond a cluster's rows");
  const std::vector<Found> found = checked_found(found_arguments, 1, places(problem));
  semdedup::farthest(problem, budgets, found[0], checked_machine(threads, level, true));
}

void farthest_of_all(const ProblemArguments& problem_arguments, int64_t budget, const Arguments& rank_arguments,
                     const std::tuple<Arguments, Arguments, Arguments>& found_arguments, int64_t threads,
                     const std::string& level) {
  const Problem problem = checked_problem(problem_arguments);
  const int64_t* const ranks = integers("ranks", rank_arguments, places(problem));
  if (budget < 0 || budget > places(problem)) fail("budget: beyond the rows");
  const std::vector<Found> found = checked_found(found_arguments, 1, places(problem));
  semdedup::farthest_of_all(problem, budget, ranks, found[0], checked_machine(threads, level, true));
}

}  // namespace

void bind_semdedup(py::module_& module) {
  module.def("semdedup", &by_threshold, GilReleased(), "problem"_a, "keep"_a, "thresholds"_a, "found"_a, "threads"_a,
             "cpu_level"_a = "", "brain"_a = true, "Near-duplicates inside clusters, one result for each threshold.");
  module.def("semdedup_farthest", &farthest_per_cluster, GilReleased(), "problem"_a, "budgets"_a, "found"_a, "threads"_a,
             "cpu_level"_a = "", "Farthest first, so many rows of each cluster.");
  module.def("semdedup_farthest_of_all", &farthest_of_all, GilReleased(), "problem"_a, "budget"_a, "ranks"_a, "found"_a,
             "threads"_a, "cpu_level"_a = "", "Farthest first over all clusters, so many rows in all.");
}

}  // namespace adaptinf
