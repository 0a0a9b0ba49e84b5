// Integers of any size, for what 64 bits do not hold.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace dualfp::jinja {

class BigInt {
 public:
  BigInt(int64_t value);  // NOLINT: implicit, as numbers convert
  ~BigInt();
  BigInt(const BigInt& other);
  BigInt(BigInt&&) noexcept;
  BigInt& operator=(BigInt&&) noexcept;

  // Digits of that base (2 to 36), with a sign or not; nothing for anything else.
  static std::optional<BigInt> Parse(std::string_view digits, int base);
  // The whole part of a finite number.
  static BigInt FromDouble(double value);

  // Nothing where it does not fit.
  std::optional<int64_t> ToInt64() const;
  double ToDouble() const;
  std::string ToString() const;
  // Of that base (2, 8 or 16), lower case, with a sign but no prefix.
  std::string ToString(int base) const;

  // -1, 0 or 1.
  int Compare(const BigInt& other) const;
  bool IsZero() const;
  bool IsNegative() const;
  size_t BitCount() const;  // of the magnitude

  BigInt Plus(const BigInt& other) const;
  BigInt Minus(const BigInt& other) const;
  BigInt Times(const BigInt& other) const;
  // Rounded down, as in Python; `other` is not zero.
  BigInt FloorDividedBy(const BigInt& other) const;
  BigInt Modulo(const BigInt& other) const;
  BigInt Power(uint32_t exponent) const;

 private:
  struct Number;
  explicit BigInt(std::unique_ptr<Number> number);

  std::unique_ptr<Number> number_;
};

}  // namespace dualfp::jinja
