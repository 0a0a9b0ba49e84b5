#include "dualfp/server/testing/toy_model.h"

#include <thread>

#include "dualfp/base/check.h"
#include "dualfp/engine/testing/fake_runner.h"
#include "dualfp/engine/testing/fake_vocabulary.h"

namespace dualfp::testing {
namespace {

std::vector<std::string> ToyTokens() {
  std::vector<std::string> tokens;
  for (char c = ' '; c <= '~'; ++c) {
    tokens.emplace_back(1, c);
  }
  tokens.insert(tokens.end(), {"\n", "\xc3\xa9", "\xe6", "\x97", "\xa5", "<eos>"});
  return tokens;
}

class Codec final : public TextCodec {
 public:
  std::vector<int32_t> Encode(std::string_view text, bool /*add_special_tokens*/,
                              std::optional<int64_t> max_tokens) const override {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < text.size();) {
      int32_t found = '?' - ' ';
      size_t length = 1;
      for (int32_t id = 0; id < kToyEos; ++id) {
        if (text.substr(i, tokens_[id].size()) == tokens_[id]) {
          found = id;
          length = tokens_[id].size();
          break;
        }
      }
      ids.push_back(found);
      i += length;
    }
    if (max_tokens && static_cast<int64_t>(ids.size()) > *max_tokens) {
      ids.erase(ids.begin(), ids.end() - *max_tokens);
    }
    return ids;
  }

  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens) const override {
    std::string text;
    for (const int32_t id : ids) {
      if (id != kToyEos || !skip_special_tokens) {
        text += tokens_.at(id);
      }
    }
    return text;
  }

  std::string TokenBytes(int32_t token) const override { return tokens_.at(token); }
  bool IsSpecial(int32_t token) const override { return token == kToyEos; }

  std::string RenderChat(const ChatPrompt& prompt) const override {
    std::string text;
    for (const Json& message : prompt.messages) {
      const auto role = message["role"].get<std::string>();
      Check(role != "clown", ErrorCode::kInvalidArgument, "the template knows no role clown");
      const Json& content = message["content"];
      text += role + ": " + (content.is_string() ? content.get<std::string>() : "") + "\n";
    }
    return prompt.add_generation_prompt ? text + "assistant: " : text;
  }

 private:
  std::vector<std::string> tokens_ = ToyTokens();
};

}  // namespace

std::shared_ptr<const TextCodec> ToyCodec() { return std::make_shared<Codec>(); }

ToyModel::ToyModel(const ToyOptions& options) {
  RunnerInfo info = SmallInfo();
  info.vocab_size = kToyVocabSize;
  info.max_model_len = options.max_model_len;
  info.block_size = 16;
  info.num_blocks = options.num_blocks;
  info.max_rows = 4096;
  info.max_sequences = options.max_num_seqs;
  info.max_logit_rows = 4096;
  auto runner = std::make_unique<FakeRunner>(info);
  if (options.step_time.count() > 0) {
    runner->before = [time = options.step_time](const StepBatch&) {
      std::this_thread::sleep_for(time);
    };
  }
  EngineConfig config;
  config.max_waiting = options.max_waiting;
  config.max_num_seqs = options.max_num_seqs;
  config.eos_token_ids = {kToyEos};
  engine_ = std::make_shared<Engine>(config, std::move(runner),
                                     std::make_shared<FakeVocabulary>(ToyTokens()),
                                     MakeThresholdController(8));
}

ServedModel ToyModel::Serve() {
  ServedModel model;
  model.names = {"toy", "toy-alias"};
  model.root = "toy";
  model.engine = MakeEngineClient(engine_.get());
  model.text = ToyCodec();
  return model;
}

}  // namespace dualfp::testing
