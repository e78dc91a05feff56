// Rows for clusters that have none.
#pragma once

#include <vector>

#include "kmeans.h"
#include "sums.h"

namespace adaptinf::kmeans {

// Empty clusters in ascending order each take one row of those that have weight, are farther than rounding from their
// centroid and not alone: the farthest, or the farthest of the largest cluster. Ties go to the lowest row and cluster.
// `sizes` [clusters]; `labels` and `distances` [rows].
std::vector<Move> refill(Empty policy, const Problem& problem, const double* distances, std::vector<int64_t> sizes);

}  // namespace adaptinf::kmeans
