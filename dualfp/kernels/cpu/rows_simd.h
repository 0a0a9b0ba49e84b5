// The loops of row_inner.h over a Simd type:
//
//   Vector, kLanes
//   LoadF32, LoadF16, LoadBf16(pointer), StoreF32, StoreF16, StoreBf16(pointer, v)
//   StoreE4m3(uint8_t*, v)          v holds E4M3 values
//   RoundToE4m3(v)                  nearest, ties to even, saturating; NaN stays NaN
//   MaxMagnitude(acc, v)            lanes of acc where v is NaN
//   Deinterleave(a, b, even, odd)   of the 2 * kLanes elements a, b
//   Broadcast, Add, Mul, Div
//   Floats                          the type of simd.h for the same vectors
//
// Included only by files that are compiled for one instruction set; internal linkage throughout.

#pragma once

#include <cstring>

#include "dualfp/kernels/cpu/row_inner.h"
#include "dualfp/kernels/cpu/simd.h"

namespace dualfp::cpu {
namespace {  // NOLINT(google-build-namespaces): see the comment on linkage

template <typename S>
struct F32Row {
  static constexpr int kBytes = 4;
  [[gnu::always_inline]] static typename S::Vector Load(const char* p) { return S::LoadF32(p); }
  [[gnu::always_inline]] static void Store(char* p, typename S::Vector v) { S::StoreF32(p, v); }
};

template <typename S>
struct F16Row {
  static constexpr int kBytes = 2;
  [[gnu::always_inline]] static typename S::Vector Load(const char* p) { return S::LoadF16(p); }
  [[gnu::always_inline]] static void Store(char* p, typename S::Vector v) { S::StoreF16(p, v); }
};

template <typename S>
struct Bf16Row {
  static constexpr int kBytes = 2;
  [[gnu::always_inline]] static typename S::Vector Load(const char* p) { return S::LoadBf16(p); }
  [[gnu::always_inline]] static void Store(char* p, typename S::Vector v) { S::StoreBf16(p, v); }
};

// Calls body with the row type of `dtype`.
template <typename S, typename Body>
void WithRowType(DType dtype, const Body& body) {
  if (dtype == DType::kF16) {
    body(F16Row<S>());
  } else if (dtype == DType::kBF16) {
    body(Bf16Row<S>());
  } else {
    body(F32Row<S>());
  }
}

// body(v, i, count) for each vector of the row, elements [i, i + count); a last, partial one is
// filled up with zeros.
template <typename S, typename Row, typename Body>
void ForEachVector(const void* x, int64_t n, const Body& body) {
  const auto* bytes = static_cast<const char*>(x);
  int64_t i = 0;
  for (; i + S::kLanes <= n; i += S::kLanes) {
    body(Row::Load(bytes + i * Row::kBytes), i, S::kLanes);
  }
  if (i < n) {
    char padded[S::kLanes * Row::kBytes] = {};
    std::memcpy(padded, bytes + i * Row::kBytes, (n - i) * Row::kBytes);
    body(Row::Load(padded), i, static_cast<int>(n - i));
  }
}

// The first `count` elements of v to y[i...].
template <typename S, typename Row>
void StoreSome(void* y, int64_t i, int count, typename S::Vector v) {
  char* out = static_cast<char*>(y) + i * Row::kBytes;
  if (count == S::kLanes) {
    Row::Store(out, v);
  } else {
    char padded[S::kLanes * Row::kBytes];
    Row::Store(padded, v);
    std::memcpy(out, padded, count * Row::kBytes);
  }
}

template <typename S>
float MaxMagnitude(const void* x, DType dtype, int64_t n) {
  float lanes[S::kLanes];
  WithRowType<S>(dtype, [&](auto row) {
    auto acc = S::Broadcast(0.0f);
    ForEachVector<S, decltype(row)>(
        x, n, [&](typename S::Vector v, int64_t, int) { acc = S::MaxMagnitude(acc, v); });
    S::StoreF32(lanes, acc);
  });
  float amax = 0.0f;
  for (const float lane : lanes) {
    amax = lane > amax ? lane : amax;
  }
  return amax;
}

template <typename S>
void ToFloat(const void* x, DType dtype, int64_t n, float* out) {
  WithRowType<S>(dtype, [&](auto row) {
    ForEachVector<S, decltype(row)>(x, n, [&](typename S::Vector v, int64_t i, int count) {
      StoreSome<S, F32Row<S>>(out, i, count, v);
    });
  });
}

template <typename S>
void Quantize(const void* x, DType dtype, int64_t n, float scale, float* out) {
  const auto divisor = S::Broadcast(scale);
  WithRowType<S>(dtype, [&](auto row) {
    ForEachVector<S, decltype(row)>(x, n, [&](typename S::Vector v, int64_t i, int count) {
      StoreSome<S, F32Row<S>>(out, i, count, S::RoundToE4m3(S::Div(v, divisor)));
    });
  });
}

template <typename S>
void Encode(const void* x, DType dtype, int64_t n, float scale, uint8_t* codes) {
  const auto divisor = S::Broadcast(scale);
  WithRowType<S>(dtype, [&](auto row) {
    ForEachVector<S, decltype(row)>(x, n, [&](typename S::Vector v, int64_t i, int count) {
      uint8_t lanes[S::kLanes];
      S::StoreE4m3(lanes, S::RoundToE4m3(S::Div(v, divisor)));
      std::memcpy(codes + i, lanes, count);
    });
  });
}

template <typename S>
void EncodeQuotient(const void* x, DType dtype, int64_t n, float factor, bool multiply,
                    bool rounded, uint8_t* codes) {
  const auto by = S::Broadcast(factor);
  WithRowType<S>(dtype, [&](auto row) {
    using Row = decltype(row);
    ForEachVector<S, Row>(x, n, [&](typename S::Vector v, int64_t i, int count) {
      auto quotient = multiply ? S::Mul(v, by) : S::Div(v, by);
      if (rounded) {
        char narrow[S::kLanes * Row::kBytes];
        Row::Store(narrow, quotient);
        quotient = Row::Load(narrow);
      }
      uint8_t lanes[S::kLanes];
      S::StoreE4m3(lanes, S::RoundToE4m3(quotient));
      std::memcpy(codes + i, lanes, count);
    });
  });
}

template <typename S>
typename S::Vector Silu(typename S::Vector v) {
  const typename S::Floats negative = {S::Mul(v, S::Broadcast(-1.0f))};
  return S::Div(v, S::Add(S::Broadcast(1.0f), Exp(negative).v));
}

// sums[i, i + count) scaled and with the bias; elements beyond are of no meaning.
template <typename S>
[[gnu::always_inline]] inline typename S::Vector Scaled(const float* sums, int64_t i, int count,
                                                        const RowEpilogue& e) {
  const auto load = [count](const float* p) {
    float padded[S::kLanes] = {};
    if (count == S::kLanes) {
      return S::LoadF32(p);
    }
    std::memcpy(padded, p, count * sizeof(float));
    return S::LoadF32(padded);
  };
  auto v = S::Mul(load(sums + i), S::Broadcast(e.x_scale));
  v = S::Mul(v, S::Broadcast(e.w_scale));
  if (e.w_scales != nullptr) {
    v = S::Mul(v, load(e.w_scales + i));
  }
  return e.bias == nullptr ? v : S::Add(v, load(e.bias + i));
}

template <typename S>
void Finish(const float* sums, int64_t n, const RowEpilogue& e) {
  WithRowType<S>(e.y_dtype, [&](auto row) {
    using Row = decltype(row);
    const bool pairs = e.activation == Activation::kSiluMul;
    const int64_t columns = pairs ? n / 2 : n;
    for (int64_t i = 0; i < columns; i += S::kLanes) {
      const int count = columns - i < S::kLanes ? static_cast<int>(columns - i) : S::kLanes;
      typename S::Vector v;
      if (pairs) {
        const int first = 2 * count < S::kLanes ? 2 * count : S::kLanes;
        const int second = 2 * count - first;
        typename S::Vector gate;
        typename S::Vector up;
        S::Deinterleave(
            Scaled<S>(sums, 2 * i, first, e),
            second > 0 ? Scaled<S>(sums, 2 * i + S::kLanes, second, e) : S::Broadcast(0.0f), gate,
            up);
        v = S::Mul(Silu<S>(gate), up);
      } else {
        v = Scaled<S>(sums, i, count, e);
      }
      if (e.residual != nullptr) {
        ForEachVector<S, Row>(static_cast<const char*>(e.residual) + i * Row::kBytes, count,
                              [&](typename S::Vector r, int64_t, int) { v = S::Add(v, r); });
      }
      StoreSome<S, Row>(e.y, i, count, v);
    }
  });
}

template <typename S>
constexpr RowInner MakeRowInner() {
  return {MaxMagnitude<S>, ToFloat<S>, Quantize<S>, Encode<S>, EncodeQuotient<S>, Finish<S>};
}

}  // namespace
}  // namespace dualfp::cpu
