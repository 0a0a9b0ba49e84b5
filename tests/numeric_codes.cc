// Prints scalar codecs' tables in binary, for numeric_oracle_test.py:
//   numeric_codes decode FORMAT   every code's value, F32
//   numeric_codes encode FORMAT   the code (U16) of each F32 read from standard input
//   numeric_codes nested          upper and lower byte of every eligible FP16 weight, by code
//   numeric_codes nested12        upper byte and nibble of every BF16 weight of at most 1.75 in a
//                                 row with shift 0: in an even column, then in an odd one

#include <cstdio>
#include <functional>
#include <string_view>
#include <vector>

#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/e8m0.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp4.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/numeric/nested12.h"

namespace {

struct Format {
  std::string_view name;
  int bits;
  std::function<float(uint32_t)> decode;
  std::function<uint16_t(float)> encode;
};

const std::vector<Format>& Formats() {
  static const std::vector<Format> formats = {
      {"fp16", 16, dualfp::Fp16ToFloat, dualfp::FloatToFp16},
      {"bf16", 16, dualfp::Bf16ToFloat, dualfp::FloatToBf16},
      {"e4m3", 8, dualfp::E4m3ToFloat, dualfp::FloatToE4m3},
      {"e5m2", 8, dualfp::E5m2ToFloat, dualfp::FloatToE5m2},
      {"e2m1", 4, dualfp::E2m1ToFloat, dualfp::FloatToE2m1},
      {"e8m0", 8, dualfp::E8m0ToFloat, dualfp::FloatToE8m0Floor},
  };
  return formats;
}

template <typename T>
void Write(const std::vector<T>& values) {
  std::fwrite(values.data(), sizeof(T), values.size(), stdout);
}

void Decode(const Format& format) {
  std::vector<float> values;
  for (uint32_t code = 0; code < 1u << format.bits; ++code) {
    values.push_back(format.decode(code));
  }
  Write(values);
}

void Encode(const Format& format) {
  std::vector<uint16_t> codes;
  for (float value; std::fread(&value, sizeof(value), 1, stdin) == 1;) {
    codes.push_back(format.encode(value));
  }
  Write(codes);
}

void Nested() {
  std::vector<dualfp::NestedBytes> bytes;
  for (uint32_t code = 0; code < 1u << 16; ++code) {
    if (dualfp::NestedEligible(static_cast<uint16_t>(code))) {
      bytes.push_back(dualfp::NestedSplit(static_cast<uint16_t>(code)));
    }
  }
  Write(bytes);
}

void Nested12() {
  std::vector<dualfp::Nested12Bits> bits;
  for (uint32_t code = 0; code < 1u << 16; ++code) {
    if ((code & 0x7fff) <= dualfp::kNested12MaxBits) {
      for (const bool odd : {false, true}) {
        bits.push_back(dualfp::Nested12Split(static_cast<uint16_t>(code), 0, odd).bits);
      }
    }
  }
  Write(bits);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string_view mode = argc > 1 ? argv[1] : "";
  if (mode == "nested") {
    Nested();
    return 0;
  }
  if (mode == "nested12") {
    Nested12();
    return 0;
  }
  for (const Format& format : Formats()) {
    if (argc > 2 && format.name == argv[2]) {
      mode == "decode" ? Decode(format) : Encode(format);
      return 0;
    }
  }
  std::fprintf(stderr, "usage: numeric_codes decode|encode FORMAT | nested | nested12\n");
  return 2;
}
