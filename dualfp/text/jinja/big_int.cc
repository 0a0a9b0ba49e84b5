#include "dualfp/text/jinja/big_int.h"

#include <algorithm>
#include <boost/multiprecision/cpp_int.hpp>
#include <limits>

namespace dualfp::jinja {

using boost::multiprecision::cpp_int;

struct BigInt::Number {
  cpp_int value;
};

BigInt::BigInt(int64_t value) : number_(std::make_unique<Number>(Number{cpp_int(value)})) {}
BigInt::BigInt(std::unique_ptr<Number> number) : number_(std::move(number)) {}
BigInt::~BigInt() = default;
BigInt::BigInt(const BigInt& other) : number_(std::make_unique<Number>(*other.number_)) {}
BigInt::BigInt(BigInt&&) noexcept = default;
BigInt& BigInt::operator=(BigInt&&) noexcept = default;

std::optional<BigInt> BigInt::Parse(std::string_view digits, int base) {
  const bool negative = digits.starts_with('-');
  if (negative || digits.starts_with('+')) {
    digits.remove_prefix(1);
  }
  if (digits.empty()) {
    return std::nullopt;
  }
  auto number = std::make_unique<Number>();
  // As many digits at a time as 32 bits hold.
  uint32_t part = 0;
  uint32_t scale = 1;
  for (const char c : digits) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 10
                      : c >= 'A' && c <= 'Z' ? c - 'A' + 10
                                             : base;
    if (digit >= base) {
      return std::nullopt;
    }
    part = part * static_cast<uint32_t>(base) + static_cast<uint32_t>(digit);
    scale *= static_cast<uint32_t>(base);
    if (scale > std::numeric_limits<uint32_t>::max() / 36) {
      number->value = number->value * scale + part;
      part = 0;
      scale = 1;
    }
  }
  number->value = number->value * scale + part;
  if (negative) {
    number->value = -number->value;
  }
  return BigInt(std::move(number));
}

BigInt BigInt::FromDouble(double value) {
  return BigInt(std::make_unique<Number>(Number{cpp_int(value)}));
}

std::optional<int64_t> BigInt::ToInt64() const {
  if (number_->value < std::numeric_limits<int64_t>::min() ||
      number_->value > std::numeric_limits<int64_t>::max()) {
    return std::nullopt;
  }
  return number_->value.convert_to<int64_t>();
}

double BigInt::ToDouble() const { return number_->value.convert_to<double>(); }

std::string BigInt::ToString() const { return number_->value.str(); }

std::string BigInt::ToString(int base) const {
  const int bits = base == 16 ? 4 : base == 8 ? 3 : 1;
  std::string digits;
  for (cpp_int rest = abs(number_->value); rest != 0; rest >>= bits) {
    const auto digit = static_cast<unsigned>(rest & ((1 << bits) - 1));
    digits += static_cast<char>(digit < 10 ? '0' + digit : 'a' + digit - 10);
  }
  digits += digits.empty() ? "0" : IsNegative() ? "-" : "";
  std::reverse(digits.begin(), digits.end());
  return digits;
}

int BigInt::Compare(const BigInt& other) const {
  const int order = number_->value.compare(other.number_->value);
  return order < 0 ? -1 : order > 0 ? 1 : 0;
}

bool BigInt::IsZero() const { return number_->value == 0; }
bool BigInt::IsNegative() const { return number_->value < 0; }
size_t BigInt::BitCount() const { return IsZero() ? 0 : msb(abs(number_->value)) + 1; }

BigInt BigInt::Plus(const BigInt& other) const {
  return BigInt(std::make_unique<Number>(Number{number_->value + other.number_->value}));
}

BigInt BigInt::Minus(const BigInt& other) const {
  return BigInt(std::make_unique<Number>(Number{number_->value - other.number_->value}));
}

BigInt BigInt::Times(const BigInt& other) const {
  return BigInt(std::make_unique<Number>(Number{number_->value * other.number_->value}));
}

BigInt BigInt::FloorDividedBy(const BigInt& other) const {
  const cpp_int& divisor = other.number_->value;
  cpp_int quotient;
  cpp_int remainder;
  divide_qr(number_->value, divisor, quotient, remainder);
  // Boost rounds towards zero.
  if (remainder != 0 && (remainder < 0) != (divisor < 0)) {
    --quotient;
  }
  return BigInt(std::make_unique<Number>(Number{std::move(quotient)}));
}

BigInt BigInt::Modulo(const BigInt& other) const {
  return Minus(FloorDividedBy(other).Times(other));
}

BigInt BigInt::Power(uint32_t exponent) const {
  return BigInt(std::make_unique<Number>(Number{pow(number_->value, exponent)}));
}

}  // namespace dualfp::jinja
