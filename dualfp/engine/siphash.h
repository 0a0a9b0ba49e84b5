// SipHash-2-4 with 128 bits of output (Aumasson and Bernstein, 2012; the authors' siphash.c).
//
// A keyed hash: who does not know the key cannot build two inputs with the same hash. Prefix-cache
// keys need that, because a collision would show one user's context to another.

#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>

namespace dualfp {

struct Hash128 {
  uint64_t low = 0;
  uint64_t high = 0;

  friend bool operator==(const Hash128&, const Hash128&) = default;
};

inline Hash128 SipHash128(const Hash128& key, std::span<const std::byte> input) {
  uint64_t v0 = key.low ^ 0x736f6d6570736575;
  uint64_t v1 = key.high ^ 0x646f72616e646f6d ^ 0xee;
  uint64_t v2 = key.low ^ 0x6c7967656e657261;
  uint64_t v3 = key.high ^ 0x7465646279746573;

  const auto rounds = [&](int count) {
    for (int i = 0; i < count; ++i) {
      v0 += v1;
      v2 += v3;
      v1 = std::rotl(v1, 13) ^ v0;
      v3 = std::rotl(v3, 16) ^ v2;
      v0 = std::rotl(v0, 32);
      v2 += v1;
      v0 += v3;
      v1 = std::rotl(v1, 17) ^ v2;
      v3 = std::rotl(v3, 21) ^ v0;
      v2 = std::rotl(v2, 32);
    }
  };
  const auto absorb = [&](uint64_t word) {
    v3 ^= word;
    rounds(2);
    v0 ^= word;
  };

  size_t at = 0;
  for (; at + 8 <= input.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, input.data() + at, 8);
    absorb(word);
  }
  // The last word: what is left, and the length in the top byte.
  uint64_t last = static_cast<uint64_t>(input.size()) << 56;
  for (size_t i = 0; at + i < input.size(); ++i) {
    last |= static_cast<uint64_t>(input[at + i]) << (8 * i);
  }
  absorb(last);

  Hash128 hash;
  v2 ^= 0xee;
  rounds(4);
  hash.low = v0 ^ v1 ^ v2 ^ v3;
  v1 ^= 0xdd;
  rounds(4);
  hash.high = v0 ^ v1 ^ v2 ^ v3;
  return hash;
}

}  // namespace dualfp
