// GPT-2's printable alphabet for bytes: every byte has a character that is neither space nor
// control, so that byte-level BPE can be written down as text (openai/gpt-2, encoder.py).

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dualfp {

// The character of a byte.
char32_t ByteToAlphabet(uint8_t byte);

// The byte of a character; -1 for a character outside the alphabet.
int AlphabetToByte(char32_t character);

// Every byte replaced by its character, as UTF-8.
std::string BytesToAlphabet(std::string_view bytes);

// The reverse; false, with *bytes unspecified, when a character is outside the alphabet.
bool AlphabetToBytes(std::string_view text, std::string* bytes);

}  // namespace dualfp
