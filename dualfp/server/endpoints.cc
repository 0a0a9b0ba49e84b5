// What each path answers.

#include <utility>

#include "dualfp/engine/precision/precision_plan.h"
#include "dualfp/server/openai/json_writer.h"
#include "dualfp/server/openai/openai_request.h"
#include "dualfp/server/openai/openai_response.h"
#include "dualfp/server/prepare.h"
#include "dualfp/server/service.h"
#include "dualfp/server/web/web_page.h"

namespace dualfp {
namespace {

constexpr std::string_view kVersion = DUALFP_VERSION;

HttpResponse JsonResponse(JsonWriter* json) {
  HttpResponse response;
  response.body = json->Take();
  return response;
}

// A page is one file: nothing is loaded from elsewhere, whatever gets into it.
HttpResponse PageResponse(std::string_view page) {
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.body = page;
  response.headers.emplace_back("Content-Security-Policy",
                                "default-src 'none'; style-src 'unsafe-inline'; script-src "
                                "'unsafe-inline'; img-src data:; connect-src 'self'; "
                                "base-uri 'none'; form-action 'none'; frame-ancestors 'none'");
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
    case PrecisionMode::kExact:
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

RequestRules Service::Rules() const {
  RequestRules rules = RulesOf(*model());
  rules.allow_priority = config_.enable_priorities;
  return rules;
}

Service::Prepared Service::Page(const HttpRequest& /*request*/) const {
  return PageResponse(WebPage());
}

Service::Prepared Service::Docs(const HttpRequest& /*request*/) const {
  return PageResponse(DocsPage());
}

Service::Prepared Service::OpenApi(const HttpRequest& /*request*/) const {
  HttpResponse response;
  response.body = OpenApiSchema();
  return response;
}

Service::Prepared Service::Health(const HttpRequest& /*request*/) const {
  const bool loaded = model() != nullptr;
  JsonWriter json;
  json.BeginObject().Key("status");
  json.String(!accepting_ ? "shutting down" : loaded ? "ok" : "loading").EndObject();
  HttpResponse response = JsonResponse(&json);
  response.status = loaded && accepting_ ? 200 : 503;
  return response;
}

Service::Prepared Service::Version(const HttpRequest& /*request*/) const {
  JsonWriter json;
  json.BeginObject().Key("version").String(kVersion).EndObject();
  return JsonResponse(&json);
}

Service::Prepared Service::Metrics(const HttpRequest& /*request*/) const {
  const std::shared_ptr<const ServedModel> served = model();
  HttpResponse response;
  response.content_type = kMetricsContentType;
  response.body = RenderMetrics(config_.metrics_prefix,
                                served != nullptr ? &served->engine->metrics() : nullptr,
                                served != nullptr ? served->names.front() : "", http_metrics_);
  return response;
}

Service::Prepared Service::Models(const HttpRequest& /*request*/) const {
  const std::shared_ptr<const ServedModel> served = model();
  JsonWriter json;
  json.BeginObject().Key("object").String("list").Key("data").BeginArray();
  for (const std::string& name : served->names) {
    WriteModel(*served, name, &json);
  }
  json.EndArray().EndObject();
  return JsonResponse(&json);
}

Service::Prepared Service::OneModel(const HttpRequest& request) const {
  const std::string name = request.path.substr(std::string_view("/v1/models/").size());
  if (name.empty()) {
    return Models(request);
  }
  JsonWriter json;
  WriteModel(*ModelNamed(name), name, &json);
  return JsonResponse(&json);
}

Service::Prepared Service::Completions(const HttpRequest& request) const {
  CompletionRequest parsed = ParseCompletionRequest(request.body, Rules());
  auto served = ModelNamed(parsed.options.model);
  return PrepareCompletion(std::move(served), std::move(parsed), request.arrival);
}

Service::Prepared Service::ChatCompletions(const HttpRequest& request) const {
  const ChatCompletionRequest parsed = ParseChatRequest(request.body, Rules());
  auto served = ModelNamed(parsed.options.model);
  return PrepareChat(std::move(served), parsed, request.arrival);
}

Service::Prepared Service::Tokenize(const HttpRequest& http) const {
  const TokenizeRequest request = ParseTokenizeRequest(http.body);
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

Service::Prepared Service::Detokenize(const HttpRequest& http) const {
  const DetokenizeRequest request = ParseDetokenizeRequest(http.body, Rules());
  const auto served = ModelNamed(request.model);
  JsonWriter json;
  json.BeginObject().Key("prompt");
  json.String(CodecOf(*served, "tokens").Decode(request.tokens, false)).EndObject();
  return JsonResponse(&json);
}

Service::Prepared Service::Precision(const HttpRequest& request) const {
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

}  // namespace dualfp
