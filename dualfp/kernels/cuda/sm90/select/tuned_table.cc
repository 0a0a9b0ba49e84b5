#include "dualfp/kernels/cuda/sm90/select/tuned_table.h"

#include <algorithm>
#include <charconv>
#include <fstream>
#include <iomanip>
#include <optional>
#include <sstream>
#include <system_error>
#include <tuple>

#include "dualfp/base/check.h"
#include "dualfp/base/env.h"
#include "dualfp/kernels/cuda/sm90/select/embedded.h"
#include "dualfp/kernels/cuda/sm90/select/plans.h"

namespace dualfp::sm90 {
namespace {

constexpr std::string_view kMagic = "dualfp-tuned-table 2";
constexpr WeightFormat kFormats[] = {WeightFormat::kNested,       WeightFormat::kNested12F16,
                                     WeightFormat::kNested12Bf16, WeightFormat::kE4m3,
                                     WeightFormat::kE4m3Promoted, WeightFormat::kF16,
                                     WeightFormat::kBf16};
constexpr int64_t kMaxBytes = int64_t{64} << 20;

auto WeightKey(const TunedRow& row) { return std::tuple(row.format, row.n, row.k); }
auto Key(const TunedRow& row) { return std::tuple(row.format, row.n, row.k, row.m); }

template <class T>
std::optional<T> ParseNumber(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0)) {
    return std::nullopt;
  }
  return value;
}

std::vector<std::string_view> Words(std::string_view line) {
  constexpr std::string_view kBlank = " \t\r";
  std::vector<std::string_view> words;
  for (size_t at = line.find_first_not_of(kBlank); at != std::string_view::npos;) {
    const size_t end = std::min(line.find_first_of(kBlank, at), line.size());
    words.push_back(line.substr(at, end - at));
    at = line.find_first_not_of(kBlank, end);
  }
  return words;
}

// Reads the lines of one table; Fail() knows where it is.
class Parser {
 public:
  Parser(std::string_view text, std::string_view origin) : text_(text) {
    table_.origin = std::string(origin);
  }

  TunedTable Parse() {
    while (!text_.empty()) {
      const size_t end = text_.find('\n');
      std::string_view line = text_.substr(0, end);
      text_.remove_prefix(end == std::string_view::npos ? text_.size() : end + 1);
      ++line_;
      line = line.substr(0, line.find('#'));
      const std::vector<std::string_view> words = Words(line);
      if (!words.empty()) {
        ParseLine(words);
      }
    }
    line_ = std::max(line_, 1);
    Expect(started_, "expected \"", kMagic, "\" in the first line");
    Expect(table_.sms > 0, "expected a line \"device MULTIPROCESSORS NAME\"");
    std::sort(table_.rows.begin(), table_.rows.end(),
              [](const TunedRow& a, const TunedRow& b) { return Key(a) < Key(b); });
    for (size_t i = 1; i < table_.rows.size(); ++i) {
      line_ = std::max(table_.rows[i].line, table_.rows[i - 1].line);
      Expect(Key(table_.rows[i - 1]) != Key(table_.rows[i]), "the same format, N, K and M as line ",
             std::min(table_.rows[i].line, table_.rows[i - 1].line));
    }
    return std::move(table_);
  }

 private:
  template <typename... Parts>
  void Expect(bool condition, const Parts&... parts) const {
    Check(condition, ErrorCode::kInvalidFile, table_.origin, ":", line_, ": ", parts...);
  }

  void ParseLine(const std::vector<std::string_view>& words) {
    if (!started_) {
      Expect(words.size() == 2 && words[0] == "dualfp-tuned-table" && words[1] == "2",
             "expected \"", kMagic, "\" in the first line");
      started_ = true;
    } else if (words[0] == "device") {
      const auto sms = words.size() > 2 ? ParseNumber<int>(words[1]) : std::nullopt;
      Expect(sms.has_value(), "expected \"device MULTIPROCESSORS NAME\"");
      table_.sms = *sms;
      table_.device = std::string(words[2]);
      for (size_t i = 3; i < words.size(); ++i) {
        table_.device.append(" ").append(words[i]);
      }
    } else if (words[0] == "kernels") {
      Expect(words.size() == 2, "expected \"kernels FINGERPRINT\"");
      table_.kernels = std::string(words[1]);
    } else if (words[0][0] < '0' || words[0][0] > '9') {
      ParseWeight(words);
    } else {
      table_.rows.push_back(ParseRow(words));
    }
  }

  int ParseSize(std::string_view word, const char* name) const {
    const auto size = ParseNumber<int>(word);
    Expect(size.has_value(), "expected a positive integer for ", name);
    return *size;
  }

  // Which the rows that follow are of.
  void ParseWeight(const std::vector<std::string_view>& words) {
    const auto* const format =
        std::find_if(std::begin(kFormats), std::end(kFormats),
                     [&](WeightFormat candidate) { return FormatName(candidate) == words[0]; });
    Expect(format != std::end(kFormats),
           "expected format nested, nested12_f16, nested12_bf16, e4m3, e4m3_promoted, f16 or bf16");
    Expect(words.size() == 3, "expected \"FORMAT N K\"");
    weight_.format = *format;
    weight_.n = ParseSize(words[1], "N");
    weight_.k = ParseSize(words[2], "K");
  }

  TunedRow ParseRow(const std::vector<std::string_view>& words) const {
    Expect(weight_.n > 0, "expected \"FORMAT N K\" before the first row");
    Expect(words.size() == 3 || words.size() == 4,
           "expected \"M PLAN MICROSECONDS [CUBLASLT]\", got ", words.size(),
           words.size() == 1 ? " word" : " words");
    TunedRow row = weight_;
    row.line = line_;
    row.m = ParseSize(words[0], "M");
    try {
      row.plan = PlanByName(StrCat(FormatName(row.format), "_", words[1]));
    } catch (const Error& error) {
      Expect(false, error.what());
    }
    const GemmProblem problem = DenseProblem(row.format, row.m, row.n, row.k);
    const std::string reason = Unsupported(row.plan, problem);
    Expect(reason.empty(), "the plan cannot run this problem: ", reason);
    const auto microseconds = ParseNumber<double>(words[2]);
    Expect(microseconds.has_value(), "expected a positive number of microseconds");
    row.microseconds = *microseconds;
    if (words.size() == 4) {
      Expect(IsPlain(row.format), "cuBLASLt's time is of plain weights, f16 and bf16");
      const auto cublaslt = ParseNumber<double>(words[3]);
      Expect(cublaslt.has_value(), "expected cuBLASLt's time over the plan's, a positive number");
      row.cublaslt = *cublaslt;
    }
    return row;
  }

  std::string_view text_;
  int line_ = 0;
  bool started_ = false;
  TunedRow weight_;  // format, N and K of the rows to come
  TunedTable table_;
};

}  // namespace

std::string_view KernelFingerprint() { return embedded::kKernelFingerprint; }

std::span<const TunedRow> TunedTable::Find(WeightFormat format, int n, int k) const {
  TunedRow probe;
  probe.format = format;
  probe.n = n;
  probe.k = k;
  const auto less = [](const TunedRow& a, const TunedRow& b) {
    return WeightKey(a) < WeightKey(b);
  };
  const auto [first, last] = std::equal_range(rows.begin(), rows.end(), probe, less);
  return {first, last};
}

std::string TunedTable::ToText() const {
  std::ostringstream text;
  text << kMagic << "\n# Written by dualfp tune; the fastest plan of each measured point.\ndevice "
       << sms << " " << device << "\nkernels " << kernels << "\n"
       << "# FORMAT N K of a weight, then its rows: M PLAN MICROSECONDS [CUBLASLT]\n"
       << std::fixed;
  const TunedRow* weight = nullptr;
  for (const TunedRow& row : rows) {
    const std::string_view format = FormatName(row.format);
    if (weight == nullptr || WeightKey(*weight) != WeightKey(row)) {
      text << format << " " << row.n << " " << row.k << "\n";
      weight = &row;
    }
    text << row.m << " " << Name(row.plan).substr(format.size() + 1) << " " << std::setprecision(2)
         << row.microseconds;
    if (row.cublaslt > 0) {
      text << " " << std::setprecision(3) << row.cublaslt;
    }
    text << "\n";
  }
  return std::move(text).str();
}

TunedTable ParseTunedTable(std::string_view text, std::string_view origin) {
  return Parser(text, origin).Parse();
}

TunedTable LoadTunedTable(const std::filesystem::path& path) {
  std::error_code error;
  Check(std::filesystem::exists(path, error), ErrorCode::kNotFound, path.string(),
        ": no such file");
  Check(std::filesystem::is_regular_file(path, error) &&
            static_cast<int64_t>(std::filesystem::file_size(path, error)) <= kMaxBytes,
        ErrorCode::kInvalidFile, path.string(), ": expected a file of at most ", kMaxBytes,
        " bytes");
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  Check(file.good() || file.eof(), ErrorCode::kIo, path.string(), ": cannot be read");
  return ParseTunedTable(std::move(text).str(), path.string());
}

const TunedTable& BuiltInTable() {
  static const TunedTable table = ParseTunedTable(embedded::kTunedTable, "tuned_h200.txt");
  return table;
}

const TunedTable* EnvironmentTable() {
  static const std::optional<TunedTable> table = []() -> std::optional<TunedTable> {
    const std::optional<std::string> path = GetEnv("DUALFP_TUNED_TABLE");
    return path ? std::optional(LoadTunedTable(*path)) : std::nullopt;
  }();
  return table ? &*table : nullptr;
}

}  // namespace dualfp::sm90
