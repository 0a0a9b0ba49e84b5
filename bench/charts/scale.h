// From values to places along an axis, with round ticks.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace dualfp {

// The smallest of 1, 2 or 5 times a power of ten that is not below `least` (> 0).
double RoundStep(double least);

enum class ScaleKind : uint8_t { kLinear, kLog2, kLog10 };

struct ChartAxis {
  std::string title;  // with its unit
  ScaleKind kind = ScaleKind::kLinear;
  double from = 0;           // a linear axis begins here, or below where values are smaller
  std::optional<double> to;  // a linear axis ends here; else at the tick above the largest value
};

class ChartScale {
 public:
  // An axis for `values`, of which those that it cannot show do not count, with about `most_ticks`
  // ticks at the most.
  ChartScale(const ChartAxis& axis, const std::vector<double>& values, int most_ticks);

  // Finite, and on a logarithmic scale positive.
  bool Shows(double value) const;
  // 0 at the axis's beginning, 1 at its end, and no less or more; 0 for what it does not show.
  double Share(double value) const;
  const std::vector<double>& ticks() const { return ticks_; }
  // "0.5", "4096", "20 k".
  std::string Label(double tick) const;

 private:
  double Transform(double value) const;
  void PlaceLinear(const ChartAxis& axis, double smallest, double largest, int most_ticks);
  void PlaceLog2(double smallest, double largest, int most_ticks);
  void PlaceLog10(double smallest, double largest, int most_ticks);

  ScaleKind kind_;
  double low_ = 0;  // transformed
  double high_ = 1;
  std::vector<double> ticks_;
};

}  // namespace dualfp
