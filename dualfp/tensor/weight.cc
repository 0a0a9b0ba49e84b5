#include "dualfp/tensor/weight.h"

#include <algorithm>

#include "dualfp/base/check.h"

namespace dualfp {

std::string Weight::Unsupported(Precision precision) const {
  const QuantFormatInfo& info = GetQuantFormatInfo(format);
  if (Offers(info, precision)) {
    return "";
  }
  return StrCat("a ", info.name, " weight cannot compute at ", PrecisionName(precision),
                format == QuantFormat::kPlain && precision == Precision::kFp8
                    ? "; load it as nested (--quantization nested)"
                    : "");
}

bool Weight::UsesOutliers(Precision precision) const {
  return outliers.size() > 0 && (format == QuantFormat::kNested || precision == Precision::kExact);
}

int64_t Weight::NumBlockRows() const {
  int64_t rows = 0;
  for (int part = 0; part < parts.count; ++part) {
    const int64_t last = parts.interleaved != 0   ? n - 1 - (n - 1 + part) % 2
                         : part + 1 < parts.count ? parts.first_row[part + 1] - 1
                                                  : n - 1;
    rows = std::max<int64_t>(rows, parts.BlockRow(last) + 1);
  }
  return rows;
}

int64_t Weight::BytesRead(Precision precision) const {
  int64_t bytes = values.num_bytes();
  if (lower && precision == Precision::kExact) {
    bytes += lower.num_bytes();
  }
  if (scales) {
    bytes += scales.num_bytes();
  }
  if (UsesOutliers(precision)) {
    bytes += outliers.index.num_bytes() + outliers.value.num_bytes();
  }
  if (tiny && precision == Precision::kExact) {
    bytes += tiny.num_bytes();
  }
  return bytes;
}

}  // namespace dualfp
