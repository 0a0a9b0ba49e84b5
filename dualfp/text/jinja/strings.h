// Python's string methods on UTF-8 text.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace dualfp::jinja {

enum class Side : uint8_t { kLeft, kRight, kBoth };

bool IsPythonWhitespace(char32_t c);

std::string_view StripWhitespace(std::string_view text, Side side);
// Strips every character that occurs in `characters`.
std::string_view StripCharacters(std::string_view text, std::string_view characters, Side side);

// At most `limit` cuts, counted from the left or the right; a negative limit is none. `separator`
// is not empty.
std::vector<std::string_view> Split(std::string_view text, std::string_view separator,
                                    int64_t limit, bool from_right);
// At runs of whitespace, without empty parts.
std::vector<std::string_view> SplitWhitespace(std::string_view text, int64_t limit,
                                              bool from_right);
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);

// The first `count` occurrences; all when it is negative.
std::string ReplaceAll(std::string_view text, std::string_view old_text, std::string_view new_text,
                       int64_t count);

std::string Capitalize(std::string_view text);
std::string TitleCase(std::string_view text);   // str.title()
std::string TitleWords(std::string_view text);  // Jinja's filter: words end at space, -, (, {, [, <
std::string SwapCase(std::string_view text);

std::string IndentLines(std::string_view text, std::string_view indent, bool first, bool blank);

// Whether there is at least one character and `holds` for all.
// Whether `holds` for some character.
bool AnyOf(std::string_view text, bool (*holds)(char32_t));
bool AllOf(std::string_view text, bool (*holds)(char32_t));
bool IsLetter(char32_t c);
bool IsDecimalDigit(char32_t c);
bool IsUpper(char32_t c);
bool IsLower(char32_t c);

}  // namespace dualfp::jinja
