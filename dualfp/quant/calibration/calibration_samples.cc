#include "dualfp/quant/calibration/calibration_samples.h"

#include <algorithm>
#include <optional>
#include <string>
#include <string_view>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json.h"
#include "dualfp/text/chat_formatter.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 30;

class SampleReader {
 public:
  SampleReader(const std::filesystem::path& file, const std::filesystem::path& directory,
               const SampleLimits& limits)
      : file_(file.string()), limits_(limits), tokenizer_(Tokenizer::FromDirectory(directory)) {}

  void ReadText(const std::string& text) {
    const std::vector<int32_t> tokens = tokenizer_.Encode(text);
    for (size_t begin = 0; begin < tokens.size() && !full(); begin += limits_.max_tokens) {
      const size_t count = std::min<size_t>(limits_.max_tokens, tokens.size() - begin);
      samples_.emplace_back(tokens.begin() + static_cast<int64_t>(begin),
                            tokens.begin() + static_cast<int64_t>(begin + count));
    }
  }

  void ReadLines(const std::string& text) {
    int64_t number = 0;
    for (size_t begin = 0; begin < text.size() && !full();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      const std::string_view line = std::string_view(text).substr(begin, end - begin);
      begin = end + 1;
      ++number;
      if (line.find_first_not_of(" \t\r") != std::string_view::npos) {
        ReadLine(line, StrCat(file_, ": line ", number));
      }
    }
  }

  std::vector<std::vector<int32_t>> Finish() {
    Check(!samples_.empty(), ErrorCode::kInvalidArgument, file_,
          ": nothing to calibrate on: the file has no tokens");
    return std::move(samples_);
  }

 private:
  bool full() const { return static_cast<int64_t>(samples_.size()) >= limits_.max_samples; }

  void ReadLine(std::string_view line, const std::string& origin) {
    const Json json = ParseJson(line, origin);
    const JsonFields fields(json, origin);
    EncodeOptions options{.max_length = limits_.max_tokens};
    std::string text;
    if (const Json* messages = fields.FindRaw("messages"); messages != nullptr) {
      ChatRequest request;
      request.messages = *messages;
      request.add_generation_prompt = false;
      text = Formatter(origin).Format(request, tokenizer_.config());
      options.add_special_tokens = false;  // the template writes them
    } else {
      text = fields.GetString("text");
    }
    std::vector<int32_t> tokens = tokenizer_.Encode(text, options);
    if (!tokens.empty()) {
      samples_.push_back(std::move(tokens));
    }
  }

  const ChatFormatter& Formatter(const std::string& origin) {
    if (!formatter_) {
      const auto* own = tokenizer_.config().ChooseChatTemplate(false);
      Check(own != nullptr, ErrorCode::kInvalidArgument, origin,
            ": has messages, but the model has no chat template");
      formatter_.emplace(ChatTemplate(own->source, own->origin));
    }
    return *formatter_;
  }

  std::string file_;
  SampleLimits limits_;
  Tokenizer tokenizer_;
  std::optional<ChatFormatter> formatter_;
  std::vector<std::vector<int32_t>> samples_;
};

}  // namespace

std::vector<std::vector<int32_t>> ReadCalibrationSamples(const std::filesystem::path& file,
                                                         const std::filesystem::path& directory,
                                                         const SampleLimits& limits) {
  SampleReader reader(file, directory, limits);
  const std::string text = ReadFile(file, kMaxFileBytes);
  if (file.extension() == ".jsonl") {
    reader.ReadLines(text);
  } else {
    reader.ReadText(text);
  }
  return reader.Finish();
}

}  // namespace dualfp
