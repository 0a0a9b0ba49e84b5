// Recorded measurements: files of one JSON object a line.

#pragma once

#include <filesystem>
#include <functional>

#include "dualfp/io/json.h"

namespace dualfp {

// Calls `visit` for each line. Throws kInvalidFile "PATH:LINE: ..." for what is not a JSON object,
// and passes on what JsonFields throws, which also begins with PATH:LINE.
//
// Returns the length of the complete lines. What follows the last line's end is what an
// interruption left of a record, unless the file was edited: it is read like a line, or with
// `skip_torn_line` left out.
size_t ReadRecords(const std::filesystem::path& path,
                   const std::function<void(const JsonFields&)>& visit,
                   bool skip_torn_line = false);

}  // namespace dualfp
