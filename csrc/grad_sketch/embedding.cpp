#include <algorithm>

#include "../common/parallel.h"
#include "../xorts/xorts.h"
#include "grad_sketch.h"
#include "rademacher.h"

namespace adaptinf {
namespace {

constexpr int64_t kIds = 64;             // rows of a table that are summed before they are sketched
constexpr int64_t kIdColumns = 1 << 13;

// One sample's gradient of an embedding table, sketched.
class EmbeddingSample {
 public:
  EmbeddingSample(const Context& context, const std::vector<int64_t>& ids, const Matrix& grad_out, const Key& key,
                  float* out)
      : context_(context), ids_(ids), grad_out_(grad_out), key_(key), out_(out) {}

  // Returns the squared norm, if it is wanted.
  double run(int64_t first, int64_t last, int64_t padding) {
    std::fill_n(out_, context_.sketch.k, 0.0f);
    std::vector<int64_t> tokens;
    for (int64_t token = first; token < last; ++token)
      if (id(token) != padding) tokens.push_back(token);
    std::stable_sort(tokens.begin(), tokens.end(), [this](int64_t a, int64_t b) { return id(a) < id(b); });
    if (context_.kind == Kind::sjlt)
      accumulators_.assign(static_cast<size_t>(sjlt_accumulators(context_.sketch, false)), 0.0f);
    if (context_.kind == Kind::xorts) xorts_.emplace(context_.sketch.k, out_);
    double squares = 0;
    for (size_t token = 0; token < tokens.size();) {
      token = sum_rows(tokens, token);
      const int64_t rows = static_cast<int64_t>(distinct_.size());
      if (context_.output.squared_norms != nullptr)
        squares += context_.kernels.squared_norm(sums_.data(), grad_out_.columns, rows, grad_out_.columns);
      if (context_.kind == Kind::sjlt) {
        add_sjlt_rows();
      } else if (context_.kind == Kind::xorts) {
        add_xorts_rows();
      } else {
        for (int64_t row = 0; row < rows; ++row) add_dense_row(row);
      }
    }
    if (context_.kind == Kind::sjlt) add_sjlt(context_.sketch, false, accumulators_.data(), out_);
    if (xorts_) xorts_->flush();
    return squares;
  }

 private:
  int64_t id(int64_t token) const { return ids_[static_cast<size_t>(token)]; }

  // The next ids and the sums of their tokens; returns the first token that is left.
  size_t sum_rows(const std::vector<int64_t>& tokens, size_t token) {
    distinct_.clear();
    sums_.clear();
    std::vector<double> sums(static_cast<size_t>(grad_out_.columns));
    while (token < tokens.size() && distinct_.size() < kIds) {
      const int64_t row = id(tokens[token]);
      std::fill(sums.begin(), sums.end(), 0.0);
      for (; token < tokens.size() && id(tokens[token]) == row; ++token)
        add_tokens(grad_out_, {}, tokens[token], tokens[token] + 1, sums.data(), workspace_, context_.kernels);
      distinct_.push_back(static_cast<uint32_t>(row));
      sums_.insert(sums_.end(), sums.begin(), sums.end());
    }
    return token;
  }

  void add_sjlt_rows() {
    const int64_t width = grad_out_.columns;
    for (int64_t first = 0; first < width; first += kIdColumns) {
      const int64_t last = std::min(first + kIdColumns, width);
      tables_.make(context_.sketch, key_.philox, false, distinct_, first, last - first, context_.kernels);
      for (int64_t column = first; column < last; column += kPanel) {
        SjltPanel panel = tables_.panel(column, std::min(kPanel, last - column));
        panel.values = sums_.data() + column;
        panel.step = width;
        context_.kernels.sjlt(panel, accumulators_.data());
      }
    }
  }

  void add_xorts_rows() {
    const int64_t width = grad_out_.columns;
    for (size_t row = 0; row < distinct_.size(); ++row)
      xorts_->add({sums_.data() + static_cast<int64_t>(row) * width, width}, key_.rows, distinct_[row], 1, key_.columns, 0,
                  width);
  }

  void add_dense_row(int64_t row) {
    const int64_t width = grad_out_.columns, k = context_.sketch.k;
    SampleTiles tile(1, width, context_.kernels);
    std::copy_n(sums_.data() + row * width, width, tile.column(0).to);
    const uint64_t first = static_cast<uint64_t>(distinct_[static_cast<size_t>(row)]) * static_cast<uint64_t>(width);
    for (int64_t number = 0; number < k; number += kPanel) {
      const int64_t count = std::min(kPanel, k - number);
      float sums[kPanel] = {};
      std::copy_n(out_ + number, count, sums);
      signs_.add(key_.philox, number, first, width, tile, sums, context_.kernels);
      std::copy_n(sums, count, out_ + number);
    }
  }

  const Context& context_;
  const std::vector<int64_t>& ids_;
  const Matrix& grad_out_;
  const Key& key_;
  float* const out_;
  Workspace workspace_;
  SjltTables tables_;
  SignRows signs_;
  std::vector<uint32_t> distinct_;
  std::optional<XortsSum> xorts_;
  std::vector<float> sums_, accumulators_;
};

}  // namespace

void grad_sketch_embedding(const Context& context, const std::vector<int64_t>& ids, const Matrix& grad_out,
                           const std::vector<int64_t>& bounds, const Key& key, int64_t padding) {
  const Output& output = context.output;
  parallel_for(static_cast<int64_t>(bounds.size()) - 1, context.threads, [&](int64_t sample) {
    const int64_t first = bounds[static_cast<size_t>(sample)], last = bounds[static_cast<size_t>(sample) + 1];
    EmbeddingSample one(context, ids, grad_out, key, output.sketch + sample * output.step);
    const double squares = one.run(first, last, padding);
    if (output.squared_norms != nullptr) output.squared_norms[sample] = static_cast<float>(squares);
  });
}

}  // namespace adaptinf
