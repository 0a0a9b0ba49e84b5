#include "bench/gemm_lab/report/record.h"

#include <cmath>

namespace dualfp {
namespace {

constexpr int64_t kMaxSize = 1 << 24;
constexpr double kMaxMicroseconds = 1e9;

double Rounded(double microseconds) { return std::round(microseconds * 1000) / 1000; }

}  // namespace

bool IsFp8(const std::string& format) { return format.starts_with("fp8"); }

double WeightBytes(const std::string& format) {
  return IsFp8(format) ? 1.0 : format.starts_with("nested12") ? 1.5 : 2.0;
}

double GemmRecord::Bytes() const {
  const double x_bytes = IsFp8(format) ? 1.0 : 2.0;
  return (n * WeightBytes(format) + m * x_bytes) * k + 2.0 * m * n;
}

Json ToJson(const GemmRecord& r) {
  Json json = {{"kind", "point"},
               {"format", r.format},
               {"n", r.n},
               {"k", r.k},
               {"m", r.m},
               {"plan", r.plan},
               {"us", Rounded(r.microseconds)},
               {"no_overlap_us", Rounded(r.no_overlap_microseconds)},
               {"cublaslt_us", Rounded(r.cublaslt_microseconds)},
               {"with_quantize_us", Rounded(r.with_quantize_microseconds)},
               {"error", r.error}};
  if (r.cublaslt_error > 0) {
    json["cublaslt_error"] = r.cublaslt_error;
  }
  return json;
}

GemmRecord ParseGemmRecord(const JsonFields& fields) {
  GemmRecord r;
  r.format = fields.GetString("format");
  r.n = static_cast<int>(fields.GetInt("n", 1, kMaxSize));
  r.k = static_cast<int>(fields.GetInt("k", 1, kMaxSize));
  r.m = static_cast<int>(fields.GetInt("m", 1, kMaxSize));
  r.plan = fields.GetString("plan");
  r.microseconds = fields.GetNumber("us", 1e-3, kMaxMicroseconds);
  const auto optional = [&](const char* key) {
    return fields.FindNumber(key, 0, kMaxMicroseconds).value_or(0);
  };
  r.no_overlap_microseconds = optional("no_overlap_us");
  r.cublaslt_microseconds = optional("cublaslt_us");
  r.with_quantize_microseconds = optional("with_quantize_us");
  r.error = optional("error");
  r.cublaslt_error = optional("cublaslt_error");
  return r;
}

}  // namespace dualfp
