#include "dualfp/server/service.h"

#include <algorithm>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/engine/precision/precision_plan.h"
#include "dualfp/server/openai/json_writer.h"
#include "dualfp/server/openai/openai_request.h"
#include "dualfp/server/openai/openai_response.h"
#include "dualfp/server/prepare.h"
#include "dualfp/server/web/web_page.h"

namespace dualfp {
namespace {

constexpr std::string_view kVersion = DUALFP_VERSION;
constexpr size_t kOutputsAtATime = 64;
constexpr std::string_view kModelsPath = "/v1/models";

struct Route {
  std::string_view path;
  std::string_view methods;  // comma-separated, as the Allow header has them
  bool needs_key;
  bool needs_model;
};

constexpr Route kRoutes[] = {
    {"/", "GET, HEAD", false, false},
    {"/health", "GET, HEAD", false, false},
    {"/version", "GET, HEAD", false, false},
    {"/metrics", "GET, HEAD", false, false},
    {kModelsPath, "GET, HEAD", true, true},
    {"/v1/completions", "POST", true, true},
    {"/v1/chat/completions", "POST", true, true},
    {"/v1/precision", "GET, HEAD, PUT", true, true},
    {"/tokenize", "POST", true, true},
    {"/detokenize", "POST", true, true},
};

const Route* FindRoute(std::string_view path) {
  for (const Route& route : kRoutes) {
    if (path == route.path ||
        (route.path == kModelsPath && path.substr(0, kModelsPath.size() + 1) == "/v1/models/")) {
      return &route;
    }
  }
  return nullptr;
}

bool Allows(std::string_view methods, std::string_view method) {
  for (size_t begin = 0; begin < methods.size();) {
    const size_t end = std::min(methods.find(',', begin), methods.size());
    if (methods.substr(begin, end - begin) == method) {
      return true;
    }
    begin = end + 2;
  }
  return false;
}

// Takes the same time wherever the two differ.
bool SameKey(std::string_view given, std::string_view key) {
  unsigned char difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < key.size(); ++i) {
    difference |=
        static_cast<unsigned char>(key[i] ^ (given.empty() ? 0 : given[i % given.size()]));
  }
  return difference == 0;
}

bool IsJsonType(std::string_view content_type) {
  const std::string_view type = content_type.substr(0, content_type.find(';'));
  std::string lower;
  for (const char c : type) {
    if (c != ' ') {
      lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    }
  }
  return lower.empty() || lower == "application/json";
}

HttpResponse JsonResponse(JsonWriter* json) {
  HttpResponse response;
  response.body = json->Take();
  return response;
}

void WriteModel(const ServedModel& model, const std::string& name, JsonWriter* json) {
  json->BeginObject();
  json->Key("id").String(name);
  json->Key("object").String("model");
  json->Key("created").Int(model.created);
  json->Key("owned_by").String("dualfp");
  json->Key("root").String(model.root);
  json->Key("parent").Null();
  json->Key("max_model_len").Int(model.engine->info().max_model_len);
  json->EndObject();
}

std::string_view ModeName(PrecisionMode mode) {
  switch (mode) {
    case PrecisionMode::kFp16:
      return "exact";
    case PrecisionMode::kFp8:
      return "fp8";
    case PrecisionMode::kAuto:
      return "auto";
    case PrecisionMode::kLayers:
      return "layers";
  }
  return "";
}

void WriteLayers(std::string_view key, const std::vector<dualfp::Precision>& layers,
                 JsonWriter* json) {
  json->Key(key).BeginArray();
  for (const dualfp::Precision precision : layers) {
    json->String(PrecisionName(precision));
  }
  json->EndArray();
}

}  // namespace

HttpResponse ErrorResponse(const ApiError& error) {
  HttpResponse response;
  response.status = error.status();
  response.body = error.ToJson();
  if (error.status() == 429 || error.status() == 503) {
    response.headers.emplace_back("Retry-After", "1");
  }
  if (error.status() == 401) {
    response.headers.emplace_back("WWW-Authenticate", "Bearer");
  }
  return response;
}

Service::Service(ServerConfig config, std::function<void()> wake)
    : config_(std::move(config)), mailbox_(std::make_shared<OutputMailbox>(std::move(wake))) {}

void Service::Attach(ServedModel model) {
  Check(!model.names.empty() && model.engine != nullptr, ErrorCode::kInvalidArgument,
        "a served model needs a name and an engine");
  const std::lock_guard lock(model_mutex_);
  model_ = std::make_shared<const ServedModel>(std::move(model));
}

std::shared_ptr<const ServedModel> Service::model() const {
  const std::lock_guard lock(model_mutex_);
  return model_;
}

std::shared_ptr<const ServedModel> Service::ModelNamed(const std::string& name) const {
  std::shared_ptr<const ServedModel> served = model();
  const auto& names = served->names;
  if (!name.empty() && std::find(names.begin(), names.end(), name) == names.end()) {
    throw ApiError(404,
                   StrCat("the model ", QuoteForMessage(name), " does not exist; this server has ",
                          QuoteForMessage(names.front())),
                   "model", "model_not_found");
  }
  return served;
}

bool Service::Authorized(const HttpRequest& head) const {
  constexpr std::string_view kScheme = "Bearer ";
  if (config_.api_keys.empty()) {
    return true;
  }
  const std::string_view header = head.authorization;
  if (header.substr(0, kScheme.size()) != kScheme) {
    return false;
  }
  bool found = false;
  for (const std::string& key : config_.api_keys) {
    found |= SameKey(header.substr(kScheme.size()), key);
  }
  return found;
}

std::optional<HttpResponse> Service::RefuseByHead(const HttpRequest& head) const {
  const Route* route = FindRoute(head.path);
  // An unknown path is told from a known one only to those who have the key.
  if ((route == nullptr || route->needs_key) && !Authorized(head)) {
    return ErrorResponse(
        {401, "send the API key as Authorization: Bearer KEY", "", "invalid_api_key"});
  }
  if (route == nullptr) {
    return ErrorResponse(
        {404, StrCat("there is no ", QuoteForMessage(head.path)), "", "unknown_path"});
  }
  if (!Allows(route->methods, head.method)) {
    HttpResponse response = ErrorResponse(
        {405,
         StrCat(route->path, " takes ", route->methods, ", not ", QuoteForMessage(head.method)), "",
         "method_not_allowed"});
    response.headers.emplace_back("Allow", route->methods);
    return response;
  }
  if ((head.method == "POST" || head.method == "PUT") && !IsJsonType(head.content_type)) {
    return ErrorResponse({415, "send Content-Type: application/json", "", "unsupported_type"});
  }
  if (route->needs_model && model() == nullptr) {
    return ErrorResponse({503, "the model is still being loaded", "", "loading"});
  }
  if (!accepting_ && head.method == "POST") {
    return ErrorResponse({503, "the server is shutting down", "", "shutting_down"});
  }
  return std::nullopt;
}

Service::Prepared Service::Prepare(const HttpRequest& request) {
  try {
    if (std::optional<HttpResponse> refusal = RefuseByHead(request)) {
      return *std::move(refusal);
    }
    if (request.path == "/v1/completions") {
      CompletionRequest parsed = ParseCompletionRequest(request.body, RulesOf(*model()));
      auto served = ModelNamed(parsed.options.model);
      return PrepareCompletion(std::move(served), std::move(parsed), request.arrival);
    }
    if (request.path == "/v1/chat/completions") {
      const ChatCompletionRequest parsed = ParseChatRequest(request.body, RulesOf(*model()));
      auto served = ModelNamed(parsed.options.model);
      return PrepareChat(std::move(served), parsed, request.arrival);
    }
    return Answer(request);
  } catch (const ApiError& error) {
    return ErrorResponse(error);
  } catch (const Error& error) {
    return ErrorResponse(ToApiError(error));
  } catch (const std::bad_alloc&) {
    return ErrorResponse({503, "out of memory", "", "out_of_memory"});
  } catch (const std::exception& error) {
    return ErrorResponse({500, error.what(), "", "internal_error"});
  }
}

HttpResponse Service::Answer(const HttpRequest& request) {
  const std::string& path = request.path;
  if (path == "/") {
    HttpResponse response;
    response.content_type = "text/html; charset=utf-8";
    response.body = WebPage();
    // The page is one file: nothing is loaded from elsewhere, whatever gets into it.
    response.headers.emplace_back("Content-Security-Policy",
                                  "default-src 'none'; style-src 'unsafe-inline'; script-src "
                                  "'unsafe-inline'; img-src data:; connect-src 'self'; "
                                  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
    return response;
  }
  if (path == "/health") {
    return Health();
  }
  if (path == "/version") {
    JsonWriter json;
    json.BeginObject().Key("version").String(kVersion).EndObject();
    return JsonResponse(&json);
  }
  if (path == "/metrics") {
    const std::shared_ptr<const ServedModel> served = model();
    HttpResponse response;
    response.content_type = kMetricsContentType;
    response.body = RenderMetrics(served != nullptr ? &served->engine->metrics() : nullptr,
                                  served != nullptr ? served->names.front() : "", http_metrics_);
    return response;
  }
  if (path == "/v1/precision") {
    return Precision(request);
  }
  if (path == "/tokenize") {
    return Tokenize(request.body);
  }
  if (path == "/detokenize") {
    return Detokenize(request.body);
  }
  return Models(path);
}

HttpResponse Service::Health() const {
  HttpResponse response;
  const bool loaded = model() != nullptr;
  JsonWriter json;
  json.BeginObject().Key("status");
  json.String(!accepting_ ? "shutting down" : loaded ? "ok" : "loading").EndObject();
  response.status = loaded && accepting_ ? 200 : 503;
  response.body = json.Take();
  return response;
}

HttpResponse Service::Models(const std::string& path) const {
  const std::shared_ptr<const ServedModel> served = model();
  JsonWriter json;
  if (path.size() > kModelsPath.size()) {
    const std::string name = path.substr(kModelsPath.size() + 1);
    WriteModel(*ModelNamed(name), name, &json);
    return JsonResponse(&json);
  }
  json.BeginObject().Key("object").String("list").Key("data").BeginArray();
  for (const std::string& name : served->names) {
    WriteModel(*served, name, &json);
  }
  json.EndArray().EndObject();
  return JsonResponse(&json);
}

HttpResponse Service::Tokenize(const std::string& body) const {
  const TokenizeRequest request = ParseTokenizeRequest(body);
  const auto served = ModelNamed(request.model);
  const auto* chat = std::get_if<ChatPrompt>(&request.text);
  const std::string text =
      chat != nullptr ? RenderChat(*served, *chat) : std::get<std::string>(request.text);
  const TextCodec& codec = CodecOf(*served, chat != nullptr ? "messages" : "prompt");
  const std::vector<int32_t> tokens = codec.Encode(text, request.add_special_tokens);

  JsonWriter json;
  json.BeginObject();
  json.Key("count").Int(static_cast<int64_t>(tokens.size()));
  json.Key("max_model_len").Int(served->engine->info().max_model_len);
  json.Key("tokens").BeginArray();
  for (const int32_t token : tokens) {
    json.Int(token);
  }
  json.EndArray().Key("token_strs");
  if (request.return_token_strings) {
    json.BeginArray();
    for (const int32_t token : tokens) {
      json.String(TokenText(codec.TokenBytes(token)));
    }
    json.EndArray();
  } else {
    json.Null();
  }
  json.EndObject();
  return JsonResponse(&json);
}

HttpResponse Service::Detokenize(const std::string& body) const {
  const DetokenizeRequest request = ParseDetokenizeRequest(body, RulesOf(*model()));
  const auto served = ModelNamed(request.model);
  JsonWriter json;
  json.BeginObject().Key("prompt");
  json.String(CodecOf(*served, "tokens").Decode(request.tokens, false)).EndObject();
  return JsonResponse(&json);
}

HttpResponse Service::Precision(const HttpRequest& request) const {
  EngineClient& engine = *model()->engine;
  const RunnerInfo& info = engine.info();
  if (request.method == "PUT") {
    engine.SetPrecision(ParsePrecisionRequest(request.body, info.num_layers));
  }
  const PrecisionStatus status = engine.GetPrecision();
  JsonWriter json;
  json.BeginObject();
  json.Key("mode").String(ModeName(status.setting.mode));
  json.Key("controller").String(status.controller);
  json.Key("supported").BeginArray();
  if (info.fp16_unsupported.empty()) {
    json.String("exact");
  }
  if (info.fp8_unsupported.empty()) {
    json.String("fp8");
  }
  json.EndArray();
  if (status.setting.mode == PrecisionMode::kLayers) {
    WriteLayers("layers", status.setting.layers, &json);
  }
  json.Key("current").BeginObject();
  json.Key("precision").String(PrecisionClassName(ClassOf(status.current)));
  WriteLayers("layers", status.current.layers, &json);
  json.EndObject().EndObject();
  return JsonResponse(&json);
}

std::shared_ptr<Generation> Service::Start(std::unique_ptr<PreparedGeneration> prepared,
                                           ResponseSink* sink) {
  auto generation = std::make_shared<Generation>(std::move(prepared), sink);
  const uint64_t first_tag = next_tag_;
  next_tag_ += generation->num_prompts();
  for (int i = 0; i < generation->num_prompts(); ++i) {
    active_.emplace(first_tag + i, Active{generation, i});
  }
  const auto refuse = [&](const ApiError& error) {
    for (uint64_t tag = first_tag; tag < next_tag_; ++tag) {
      active_.erase(tag);
    }
    sink->Send(ErrorResponse(error));
  };
  try {
    generation->Submit([&](int prompt) -> OutputSink {
      return [mailbox = mailbox_, tag = first_tag + prompt](const RequestOutput& output) {
        mailbox->Push(tag, output);
      };
    });
  } catch (const Error& error) {
    refuse(ToApiError(error));
  } catch (const std::exception& error) {
    refuse({500, error.what(), "", "internal_error"});
  }
  return generation;
}

bool Service::Deliver() {
  return mailbox_->Drain(kOutputsAtATime, [this](EngineOutput& output) {
    const auto found = active_.find(output.tag);
    if (found == active_.end()) {
      return;
    }
    const Active active = found->second;
    if (output.finished) {
      active_.erase(found);
    }
    active.generation->OnOutput(active.prompt, output);
  });
}

void Service::FailAll() {
  std::vector<std::shared_ptr<Generation>> generations;
  for (const auto& [tag, active] : active_) {
    generations.push_back(active.generation);
  }
  for (const auto& generation : generations) {
    generation->FailWith(ApiError(503, "the server is shutting down", "", "shutting_down"));
  }
}

}  // namespace dualfp
