// Unicode properties and POSIX brackets by the names that Oniguruma knows, with the code points of
// its Unicode 16.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/text/regex/character_class.h"

namespace dualfp {

// A general category ("Lu", "Uppercase_Letter"), script ("Greek"), block ("In_Greek_and_Coptic"),
// binary property ("Alphabetic"), or the name of a POSIX bracket. Case, spaces, hyphens and
// underscores do not matter. Names that are not among ours are left to PCRE2; nothing for what
// cannot be a name.
std::optional<CharacterSet> FindProperty(std::string_view name);

// "alpha" of "[:alpha:]"; nothing for a name that is none.
std::optional<CharacterSet> FindPosixBracket(std::string_view name);

// The content of a class equal to \w outside of classes, where up to U+00FF it follows Latin-1's
// idea of a word character.
std::string WordCharacters();

// The names of the scripts that PCRE2 has, for \p{sc:...}.
std::vector<std::string_view> ScriptNames();

}  // namespace dualfp
