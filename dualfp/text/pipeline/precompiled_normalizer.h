// SentencePiece's compiled normalization rules: a map from strings to what replaces them.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/text/pipeline/normalizer.h"

namespace dualfp {

class PrecompiledNormalizer final : public Normalizer {
 public:
  // "precompiled_charsmap", in base64: the size of a double array (Aoe 1989; the unit layout of
  // darts-clone) in bytes, the double array, and the replacements, each ended by a NUL.
  explicit PrecompiledNormalizer(const JsonFields& fields);

  void Apply(std::string* text, bool* from_origin, RegexScratch* scratch) const override;

 private:
  std::optional<std::string_view> Find(std::string_view text) const;

  std::vector<uint32_t> trie_;
  std::string replacements_;
};

}  // namespace dualfp
