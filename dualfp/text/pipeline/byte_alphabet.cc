#include "dualfp/text/pipeline/byte_alphabet.h"

#include <array>

#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr bool IsPrintableByte(int byte) {
  return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
}

struct Tables {
  std::array<uint16_t, 256> to_alphabet;
  std::array<int16_t, 0x144> to_byte;  // 68 bytes are not printable: characters up to U+0143
};

constexpr Tables MakeTables() {
  Tables tables{};
  tables.to_byte.fill(-1);
  uint16_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const auto character = IsPrintableByte(byte) ? static_cast<uint16_t>(byte) : next++;
    tables.to_alphabet[static_cast<size_t>(byte)] = character;
    tables.to_byte[character] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

}  // namespace

char32_t ByteToAlphabet(uint8_t byte) { return kTables.to_alphabet[byte]; }

int AlphabetToByte(char32_t character) {
  return character < kTables.to_byte.size() ? kTables.to_byte[character] : -1;
}

std::string BytesToAlphabet(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() + bytes.size() / 4);
  for (const char byte : bytes) {
    AppendUtf8(ByteToAlphabet(static_cast<uint8_t>(byte)), &text);
  }
  return text;
}

bool AlphabetToBytes(std::string_view text, std::string* bytes) {
  bytes->clear();
  for (size_t i = 0; i < text.size();) {
    const int byte = AlphabetToByte(DecodeUtf8(text, &i));
    if (byte < 0) {
      return false;
    }
    *bytes += static_cast<char>(byte);
  }
  return true;
}

}  // namespace dualfp
