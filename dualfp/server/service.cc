#include "dualfp/server/service.h"

#include <algorithm>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/server/http/content_coding.h"

namespace dualfp {
namespace {

constexpr size_t kOutputsAtATime = 64;
constexpr std::string_view kAnyRest = "{model}";

bool Matches(std::string_view pattern, std::string_view path) {
  return pattern.ends_with(kAnyRest)
             ? path.starts_with(pattern.substr(0, pattern.size() - kAnyRest.size()))
             : path == pattern;
}

const Service::Route* FindRoute(std::string_view path) {
  for (const Service::Route& route : Service::Routes()) {
    if (Matches(route.path, path)) {
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

bool IsJsonType(std::string_view content_type) {
  const std::string_view type = content_type.substr(0, content_type.find(';'));
  std::string lower;
  for (const char c : type) {
    if (c != ' ') {
      lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    }
  }
  return lower == "application/json";
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
    : config_(std::move(config)),
      access_(&config_),
      mailbox_(std::make_shared<OutputMailbox>(std::move(wake))) {
  CheckMetricsPrefix(config_.metrics_prefix);
}

void Service::Attach(ServedModel model) {
  Check(!model.names.empty() && model.engine != nullptr, ErrorCode::kInvalidArgument,
        "a served model needs a name and an engine");
  CheckSamplingDefaults(model.defaults);
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

std::span<const Service::Route> Service::Routes() {
  static constexpr std::string_view kRead = "GET, HEAD";
  static constexpr std::string_view kPost = "POST";
  static constexpr Route kRoutes[] = {
      {"/", kRead, "", false, &Service::Page},
      {"/docs", kRead, "", false, &Service::Docs},
      {"/openapi.json", kRead, "", false, &Service::OpenApi},
      {"/health", kRead, "", false, &Service::Health},
      {"/version", kRead, "", false, &Service::Version},
      {"/metrics", kRead, "", false, &Service::Metrics},
      {"/v1/models", kRead, "api", true, &Service::Models},
      {"/v1/models/{model}", kRead, "api", true, &Service::OneModel},
      {"/v1/completions", kPost, "api", true, &Service::Completions},
      {"/v1/chat/completions", kPost, "api", true, &Service::ChatCompletions},
      {"/v1/precision", "GET, HEAD, PUT", "admin", true, &Service::Precision},
      {"/tokenize", kPost, "api", true, &Service::Tokenize},
      {"/detokenize", kPost, "api", true, &Service::Detokenize},
  };
  return kRoutes;
}

std::optional<HttpResponse> Service::RefuseCaller(const Route* route,
                                                  const HttpRequest& head) const {
  // An unknown path is told from a known one only to those who have the key.
  const bool administers = route != nullptr && route->key == "admin" && head.method == "PUT";
  if (administers && !access_.HasAdministrator()) {
    return ErrorResponse({403,
                          "this server is reachable from other machines: changing what others get "
                          "needs a key, and it was started without --admin-key and --api-key",
                          "", "no_admin_key"});
  }
  if (administers
          ? access_.MayAdminister(head.authorization)
          : (route != nullptr && route->key.empty()) || access_.MayGenerate(head.authorization)) {
    return std::nullopt;
  }
  return ErrorResponse(
      {401, StrCat("send the ", administers ? "admin" : "API", " key as Authorization: Bearer KEY"),
       "", "invalid_api_key"});
}

HttpResponse Service::AnswerOptions(const Route* route, const HttpRequest& head) const {
  const std::string methods =
      StrCat(route != nullptr ? route->methods : "GET, HEAD, POST, PUT", ", OPTIONS");
  HttpResponse response;
  response.content_type.clear();
  response.headers = access_.PreflightHeaders(head, methods);
  response.headers.emplace_back("Allow", methods);
  return response;
}

std::optional<HttpResponse> Service::RefuseByHead(const HttpRequest& head) const {
  if (!access_.AnswersTo(head)) {
    return ErrorResponse({403,
                          StrCat("this server does not answer to the host ",
                                 QuoteForMessage(head.host), "; see --allowed-hosts"),
                          "", "unknown_host"});
  }
  const Route* route = FindRoute(head.path);
  if (head.method == "OPTIONS" && (route != nullptr || head.path == "*")) {
    return AnswerOptions(route, head);
  }
  if (std::optional<HttpResponse> refusal = RefuseCaller(route, head)) {
    return refusal;
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
    response.headers.emplace_back("Allow", StrCat(route->methods, ", OPTIONS"));
    return response;
  }
  if (head.method == "POST" || head.method == "PUT") {
    if (!IsJsonType(head.content_type)) {
      return ErrorResponse({415, "send Content-Type: application/json", "", "unsupported_type"});
    }
    if (!IsKnownContentCoding(head.content_encoding)) {
      HttpResponse response =
          ErrorResponse({415,
                         StrCat("Content-Encoding ", QuoteForMessage(head.content_encoding),
                                " is not one of ", kContentCodings),
                         "", "unsupported_encoding"});
      response.headers.emplace_back("Accept-Encoding", kContentCodings);
      return response;
    }
  }
  if (route->needs_model && model() == nullptr) {
    return ErrorResponse({503, "the model is still being loaded", "", "loading"});
  }
  if (!accepting_ && head.method == "POST") {
    return ErrorResponse({503, "the server is shutting down", "", "shutting_down"});
  }
  return std::nullopt;
}

Service::Prepared Service::Prepare(HttpRequest request) const {
  try {
    if (std::optional<HttpResponse> refusal = RefuseByHead(request)) {
      return *std::move(refusal);
    }
    request.body =
        DecodeContent(request.content_encoding, std::move(request.body), config_.max_body_bytes);
    return (this->*FindRoute(request.path)->answer)(request);
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
