#include "bench/gemm_lab/report/record_file.h"

#include <string>
#include <string_view>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxBytes = int64_t{1} << 30;

}  // namespace

size_t ReadRecords(const std::filesystem::path& path,
                   const std::function<void(const JsonFields&)>& visit, bool skip_torn_line) {
  const std::string content = ReadFile(path, kMaxBytes);
  const size_t complete = content.rfind('\n') + 1;  // 0 where there is none
  std::string_view text = content;
  if (skip_torn_line) {
    text = text.substr(0, complete);
  }
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) {
      continue;
    }
    const std::string origin = StrCat(path.string(), ":", number);
    const Json record = ParseJson(line, origin);
    visit(JsonFields(record, origin));
  }
  return complete;
}

}  // namespace dualfp
