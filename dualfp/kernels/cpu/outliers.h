// The outliers of a rectangle of a nested weight.

#pragma once

#include <algorithm>
#include <cstdint>

#include "dualfp/tensor/weight.h"

namespace dualfp::cpu {

class Outliers {
 public:
  Outliers() = default;
  explicit Outliers(const Weight& weight)
      : index_(weight.outliers.index.as<int64_t>()),
        value_(weight.outliers.value.as<float>()),
        size_(weight.outliers.size()),
        k_(weight.k) {}

  // Whether rows [row, row + num_rows) have any.
  bool AnyInRows(int64_t row, int64_t num_rows) const {
    if (size_ == 0) {
      return false;
    }
    const int64_t* first = std::lower_bound(index_, index_ + size_, row * k_);
    return first != index_ + size_ && *first < (row + num_rows) * k_;
  }

  // body(row, column, value) for those in rows [row, row + num_rows), in ascending order.
  template <typename Body>
  void ForEachInRows(int64_t row, int64_t num_rows, const Body& body) const {
    if (size_ == 0) {
      return;
    }
    const int64_t end = (row + num_rows) * k_;
    int64_t row_begin = row * k_;
    for (const int64_t* it = std::lower_bound(index_, index_ + size_, row_begin);
         it != index_ + size_ && *it < end; ++it) {
      for (; *it >= row_begin + k_; row_begin += k_) {
        ++row;
      }
      body(row, *it - row_begin, value_[it - index_]);
    }
  }

  // body(row, column, value) for those in rows [row, row + num_rows) and columns
  // [column, column + num_columns), in ascending order.
  template <typename Body>
  void ForEach(int64_t row, int64_t num_rows, int64_t column, int64_t num_columns,
               const Body& body) const {
    if (size_ == 0) {
      return;
    }
    for (int64_t r = row; r < row + num_rows; ++r) {
      const int64_t end = r * k_ + column + num_columns;
      for (const int64_t* it = std::lower_bound(index_, index_ + size_, r * k_ + column);
           it != index_ + size_ && *it < end; ++it) {
        body(r, *it - r * k_, value_[it - index_]);
      }
    }
  }

 private:
  const int64_t* index_ = nullptr;  // row * K + column, ascending
  const float* value_ = nullptr;
  int64_t size_ = 0;
  int64_t k_ = 0;
};

}  // namespace dualfp::cpu
