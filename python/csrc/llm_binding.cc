#include "python/csrc/llm_binding.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "capi/guard.h"
#include "dualfp/base/check.h"
#include "dualfp/llm/llm.h"
#include "python/csrc/llm_json.h"

using dualfp::Json;
using dualfp::capi::Guarded;

namespace {

// From the engine's thread to the one that waits: the sink copies and goes.
struct Mailbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::deque<Json> outputs;
};

Json Parse(const char* text, const char* what) { return dualfp::ParseJson(text, what); }

void Give(const std::string& text, char** out) {
  auto* copy = static_cast<char*>(std::malloc(text.size() + 1));
  if (copy == nullptr) {
    throw std::bad_alloc();
  }
  std::memcpy(copy, text.c_str(), text.size() + 1);
  *out = copy;
}

// Bytes that are no text (a token may end in half a character) become U+FFFD.
void Give(const Json& json, char** out) {
  Give(json.dump(-1, ' ', false, Json::error_handler_t::replace), out);
}

}  // namespace

struct dualfp_llm {
  std::mutex mutex;
  uint64_t next_id = 1;
  struct Entry {
    std::shared_ptr<Mailbox> mailbox;
    dualfp::RequestId request = 0;
  };
  std::map<uint64_t, Entry> entries;
  std::unique_ptr<dualfp::Llm> llm;  // last: its engine ends before what its sinks use

  const dualfp::TokenizerCodec& text() const {
    dualfp::Check(llm->text != nullptr, dualfp::ErrorCode::kUnsupported,
                  "the model has no tokenizer: give and take token ids");
    return *llm->text;
  }
};

const char* dualfp_llm_last_error(void) { return dualfp_last_error(); }

void dualfp_llm_free(char* text) { std::free(text); }

dualfp_status dualfp_llm_open(const char* options, void (*progress)(int64_t, int64_t),
                              dualfp_llm** llm) {
  return Guarded([&] {
    auto opened = std::make_unique<dualfp_llm>();
    dualfp::LlmHooks hooks;
    if (progress != nullptr) {
      hooks.progress = progress;
    }
    opened->llm = dualfp::LoadLlm(dualfp::python::ReadOptions(Parse(options, "LLM")), hooks);
    *llm = opened.release();
  });
}

void dualfp_llm_close(dualfp_llm* llm) { delete llm; }

dualfp_status dualfp_llm_info(dualfp_llm* llm, char** info) {
  return Guarded([&] { Give(dualfp::python::InfoOf(*llm->llm), info); });
}

dualfp_status dualfp_llm_submit(dualfp_llm* llm, const char* request, uint64_t* id) {
  return Guarded([&] {
    const auto mailbox = std::make_shared<Mailbox>();
    const dualfp::RequestId made =
        llm->llm->engine->Submit(dualfp::python::ReadRequest(Parse(request, "request")),
                                 [mailbox](const dualfp::RequestOutput& output) {
                                   Json json = dualfp::python::ToJson(output);
                                   const std::lock_guard lock(mailbox->mutex);
                                   mailbox->outputs.push_back(std::move(json));
                                   mailbox->arrived.notify_one();
                                 });
    const std::lock_guard lock(llm->mutex);
    *id = llm->next_id++;
    llm->entries[*id] = {mailbox, made};
  });
}

dualfp_status dualfp_llm_next(dualfp_llm* llm, uint64_t id, double seconds, char** output) {
  return Guarded([&] {
    *output = nullptr;
    std::shared_ptr<Mailbox> mailbox;
    {
      const std::lock_guard lock(llm->mutex);
      const auto found = llm->entries.find(id);
      dualfp::Check(found != llm->entries.end(), dualfp::ErrorCode::kNotFound, "no request ", id);
      mailbox = found->second.mailbox;
    }
    Json next;
    {
      std::unique_lock lock(mailbox->mutex);
      const auto most = std::chrono::duration<double>(std::clamp(seconds, 0.0, 3600.0));
      if (!mailbox->arrived.wait_for(lock, most, [&] { return !mailbox->outputs.empty(); })) {
        return;
      }
      next = std::move(mailbox->outputs.front());
      mailbox->outputs.pop_front();
    }
    Give(next, output);
    if (next["finished"].get<bool>()) {
      const std::lock_guard lock(llm->mutex);
      llm->entries.erase(id);
    }
  });
}

dualfp_status dualfp_llm_cancel(dualfp_llm* llm, uint64_t id) {
  return Guarded([&] {
    const std::lock_guard lock(llm->mutex);
    const auto found = llm->entries.find(id);
    if (found != llm->entries.end()) {
      llm->llm->engine->Cancel(found->second.request);
      llm->entries.erase(found);
    }
  });
}

dualfp_status dualfp_llm_set_precision(dualfp_llm* llm, const char* precision) {
  return Guarded([&] {
    llm->llm->engine->SetPrecision(dualfp::python::ReadPrecision(Parse(precision, "precision")));
  });
}

dualfp_status dualfp_llm_get_precision(dualfp_llm* llm, char** precision) {
  return Guarded(
      [&] { Give(dualfp::python::ToJson(llm->llm->engine->GetPrecision()), precision); });
}

dualfp_status dualfp_llm_encode(dualfp_llm* llm, const char* request, char** token_ids) {
  return Guarded([&] {
    const Json json = Parse(request, "encode");
    const dualfp::JsonFields fields(json, "encode");
    Give(Json(llm->text().Encode(fields.GetString("text"),
                                 fields.FindBool("add_special_tokens").value_or(true), {})),
         token_ids);
  });
}

dualfp_status dualfp_llm_decode(dualfp_llm* llm, const char* request, char** text) {
  return Guarded([&] {
    const Json json = Parse(request, "decode");
    const dualfp::JsonFields fields(json, "decode");
    const int64_t last = llm->llm->config.vocab_size - 1;
    std::vector<int32_t> tokens;
    if (const auto given = fields.FindIntOrInts("token_ids", 0, last)) {
      tokens.assign(given->begin(), given->end());
    }
    const bool skip = fields.FindBool("skip_special_tokens").value_or(true);
    Give(Json(llm->text().Decode(tokens, skip)), text);
  });
}

dualfp_status dualfp_llm_render_chat(dualfp_llm* llm, const char* request, char** text) {
  return Guarded([&] {
    const Json json = Parse(request, "chat");
    const dualfp::JsonFields fields(json, "chat");
    dualfp::ChatPrompt prompt;
    const Json* messages = fields.FindRaw("messages");
    dualfp::Check(messages != nullptr && messages->is_array() && !messages->empty(),
                  dualfp::ErrorCode::kInvalidArgument,
                  "chat: expected a list of at least one message");
    prompt.messages = *messages;
    prompt.add_generation_prompt = fields.FindBool("add_generation_prompt").value_or(true);
    prompt.continue_final_message = fields.FindBool("continue_final_message").value_or(false);
    if (const Json* arguments = fields.FindRaw("chat_template_kwargs")) {
      prompt.template_arguments = *arguments;
    }
    Give(Json(llm->text().RenderChat(prompt)), text);
  });
}
