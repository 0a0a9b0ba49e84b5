// dualfp serve: an OpenAI-compatible server over one model.
//
// The port is taken before the model is loaded, so that a second server on it fails at once, and
// /health answers meanwhile. Logs go to stderr, asynchronously: a terminal that is not read must
// not stop the server.

#include <fmt/core.h>
#include <spdlog/async.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>
#include <thread>

#include "apps/arguments/engine_arguments.h"
#include "apps/commands.h"
#include "apps/help_formatter.h"
#include "dualfp/base/check.h"
#include "dualfp/base/heap.h"
#include "dualfp/base/log.h"
#include "dualfp/io/json.h"
#include "dualfp/server/access_log.h"
#include "dualfp/server/http/http_server.h"

namespace dualfp {
namespace {

struct ServeArguments {
  LlmOptions llm;
  ServerConfig server;
  std::vector<std::string> names;
  std::vector<std::string> allowed_origins;
  double shutdown_seconds = 30;
  double max_body_megabytes = 16;
  bool access_log = true;
  std::string log_level = "info";
};

constexpr size_t kLogQueue = 8192;
constexpr const char* kApiKeyVariable = "DUALFP_API_KEY";

// vLLM's form is a JSON list: ["https://a.example"].
std::vector<std::string> Origins(const std::vector<std::string>& given) {
  std::vector<std::string> origins;
  for (const std::string& text : given) {
    if (!text.starts_with('[')) {
      origins.push_back(text);
      continue;
    }
    const Json list = ParseJson(text, "--allowed-origins");
    for (const Json& origin : list) {
      Check(origin.is_string(), ErrorCode::kInvalidArgument,
            "--allowed-origins: expected strings, got ", DescribeJson(origin));
      origins.push_back(origin.get<std::string>());
    }
  }
  return origins;
}

// A variable that is set to nothing is a mistake in somebody's deployment, not an open server.
void CheckKeyVariable() {
  const char* key = std::getenv(kApiKeyVariable);
  Check(key == nullptr || *key != '\0', ErrorCode::kInvalidArgument, kApiKeyVariable,
        " is set to nothing: unset it, or give it a key");
}

std::string WhereItListens(const ServerConfig& config, uint16_t port) {
  if (!config.uds.empty()) {
    return "unix:" + config.uds;
  }
  const bool bare_v6 = config.host.find(':') != std::string::npos;
  return fmt::format("{}://{}{}{}:{}{}", config.ssl_certfile.empty() ? "http" : "https",
                     bare_v6 ? "[" : "", config.host, bare_v6 ? "]" : "", port, config.root_path);
}

void StartLogging(const std::string& level) {
  spdlog::init_thread_pool(kLogQueue, 1);
  auto logger = std::make_shared<spdlog::async_logger>(
      "dualfp", std::make_shared<spdlog::sinks::stderr_color_sink_mt>(), spdlog::thread_pool(),
      spdlog::async_overflow_policy::overrun_oldest);
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e%z %^%l%$ %v");
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
  SetLogSink([](LogLevel log_level, std::string_view line) {
    spdlog::log(log_level == LogLevel::kWarning ? spdlog::level::warn
                : log_level == LogLevel::kInfo  ? spdlog::level::info
                                                : spdlog::level::debug,
                "{}", EscapeForLog(line));
  });
}

// Until the end of the scope logs are ours; then what is queued is written.
struct LoggingScope {
  explicit LoggingScope(const std::string& level) { StartLogging(level); }
  ~LoggingScope() {
    SetLogSink(nullptr);
    spdlog::shutdown();
  }
};

ServedModel Serve(Llm& loaded, const ServeArguments& arguments) {
  ServedModel served;
  served.names = arguments.names;
  if (served.names.empty()) {
    served.names = {arguments.llm.model.model};
  }
  served.root = arguments.llm.model.model;
  served.created = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  served.engine = MakeEngineClient(loaded.engine.get());
  served.text = loaded.text;
  const auto as_float = [](const std::optional<double>& value) {
    return value ? std::optional(static_cast<float>(*value)) : std::nullopt;
  };
  const GenerationConfig& generation = loaded.generation;
  if (generation.do_sample != false) {
    served.defaults.temperature = as_float(generation.temperature);
  } else {
    served.defaults.temperature = 0.0f;
  }
  served.defaults.top_p = as_float(generation.top_p);
  served.defaults.top_k = generation.top_k;
  served.defaults.min_p = as_float(generation.min_p);
  served.defaults.repetition_penalty = as_float(generation.repetition_penalty);
  return served;
}

// "--served-model-name A B MODEL": the command line cannot tell where the names end.
void TakeModelFromNames(ServeArguments& arguments) {
  std::string& model = arguments.llm.model.model;
  if (model.empty() && arguments.names.size() > 1) {
    model = arguments.names.back();
    arguments.names.pop_back();
  }
  if (model.empty()) {
    throw CLI::RequiredError("MODEL");
  }
}

void RunServe(ServeArguments& arguments) {
  TakeModelFromNames(arguments);
  ReturnLargeBlocksToSystem();
  const LoggingScope logging(arguments.log_level);
  CheckSupported(arguments.llm);
  // Whoever reads our logs, or an answer, may go away at any time.
  std::signal(SIGPIPE, SIG_IGN);
  CheckKeyVariable();
  ServerConfig& config = arguments.server;
  config.allowed_origins = Origins(arguments.allowed_origins);
  Check(config.root_path.empty() ||
            (config.root_path.starts_with('/') && !config.root_path.ends_with('/')),
        ErrorCode::kInvalidArgument, "--root-path ", config.root_path,
        ": expected a path that begins with a slash and does not end with one");
  config.shutdown_grace =
      std::chrono::milliseconds(static_cast<int64_t>(arguments.shutdown_seconds * 1e3));
  config.max_body_bytes = static_cast<size_t>(arguments.max_body_megabytes * 1e6);
  if (arguments.access_log) {
    config.access_log = [](const AccessRecord& record) {
      spdlog::info("request {}", FormatAccessRecord(record));
    };
  }
  HttpServer server(config);

  std::unique_ptr<Llm> loaded;
  std::exception_ptr failure;
  std::atomic<bool> done{false};
  std::thread loader([&] {
    try {
      loaded = LoadLlmWithProgress(arguments.llm);
      server.Attach(Serve(*loaded, arguments));
      LogInfo(loaded->Describe());
      LogInfo("Serving on " + WhereItListens(config, server.port()));
    } catch (...) {
      failure = std::current_exception();
    }
    done = true;
    if (failure) {
      server.Stop();
    }
  });
  server.Run();
  if (!done) {
    // Stopped while loading, which nothing can interrupt and nobody needs any more.
    LogInfo("stopped before the model was loaded");
    spdlog::shutdown();
    std::_Exit(0);
  }
  loader.join();
  if (failure) {
    std::rethrow_exception(failure);
  }
  loaded->engine->Shutdown(Clock::now());
  LogInfo("stopped");
}

}  // namespace

void AddServeCommand(CLI::App& app) {
  auto arguments = std::make_shared<ServeArguments>();
  ServeArguments& a = *arguments;
  CLI::App* command = app.add_subcommand("serve", "Serve a model over OpenAI's HTTP API");
  command->footer("Example: dualfp serve models/reference --port 8000 --precision auto");
  AddEngineOptions(*command, a.llm);

  const std::string server = "Server";
  const std::string more_of_server = server + HelpFormatter::kMore;
  command->add_option("--host", a.server.host, "Address to listen on (default 127.0.0.1)")
      ->option_text("ADDRESS")
      ->group(server);
  command->add_option("--port", a.server.port, "Port (default 8000; 0: any)")
      ->option_text("N")
      ->group(server);
  command->add_option("--served-model-name", a.names, "What requests call the model; several")
      ->option_text("NAME")
      ->group(server);
  // The last of several names may be MODEL.
  command->get_option("MODEL")->required(false);
  command->add_option("--api-key", a.server.api_keys, "Asked of requests; repeatable")
      ->allow_extra_args(false)
      ->option_text("KEY")
      ->envname(kApiKeyVariable)
      ->group(server);
  command->add_option("--admin-key", a.server.admin_keys, "To set the precision (--api-key)")
      ->allow_extra_args(false)
      ->option_text("KEY")
      ->group(more_of_server);
  command->add_option("--allowed-hosts", a.server.allowed_hosts, "Of Host; repeatable (local ones)")
      ->allow_extra_args(false)
      ->delimiter(',')
      ->option_text("NAME")
      ->group(server);
  command->add_option("--allowed-origins", a.allowed_origins, "Of web pages, or '*'; repeatable")
      ->allow_extra_args(false)
      ->option_text("URL")
      ->group(server);
  command->add_flag("--enable-priorities", a.server.enable_priorities, "Of requests (off)")
      ->group(more_of_server);
  command->add_option("--metrics-prefix", a.server.metrics_prefix, "dualfp (default) or vllm")
      ->option_text("NAME")
      ->group(more_of_server);
  command->add_option("--root-path", a.server.root_path, "That a proxy puts before every path")
      ->option_text("PATH")
      ->group(more_of_server);
  command->add_option("--uds", a.server.uds, "A Unix socket, instead of host and port")
      ->option_text("FILE")
      ->group(more_of_server);
  command->add_option("--ssl-certfile", a.server.ssl_certfile, "PEM; the server then speaks HTTPS")
      ->option_text("FILE")
      ->group(more_of_server);
  command->add_option("--ssl-keyfile", a.server.ssl_keyfile, "Its key, PEM")
      ->option_text("FILE")
      ->group(more_of_server);
  command->add_option("--max-connections", a.server.max_connections, "At a time (default 4096)")
      ->check(CLI::Range(1, 1 << 20))
      ->option_text("N")
      ->group(more_of_server);
  command->add_option("--max-body-size", a.max_body_megabytes, "Of a request, in MB (default 16)")
      ->check(CLI::Range(0.001, 4096.0))
      ->option_text("MB")
      ->group(more_of_server);
  command->add_option("--shutdown-timeout", a.shutdown_seconds, "For running requests (default 30)")
      ->check(CLI::Range(0.0, 86400.0))
      ->option_text("S")
      ->group(more_of_server);
  command->add_flag("--access-log,!--no-access-log", a.access_log, "A line a request (on)")
      ->group(more_of_server);
  command->add_option("--log-level,--uvicorn-log-level", a.log_level, "Of what to log (info)")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error", "critical"}))
      ->option_text("LEVEL")
      ->group(more_of_server);
  command->callback([arguments] { RunServe(*arguments); });
}

}  // namespace dualfp
