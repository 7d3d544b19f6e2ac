// bench/factorisation/bdcsvd.hpp - the competitor: Eigen's divide-and-conquer SVD.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>

namespace bench {

using Floats = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Seconds that the SVD of `matrix` takes; its first `rank` right vectors become the columns of `vectors`. In a file of its own because
/// it takes the better part of a minute to compile.
double time_of_bdcsvd(const Eigen::Map<const Floats>& matrix, Eigen::Index rank, Floats& vectors);

}  // namespace bench
