// dualfp bench serve: a load test of any OpenAI-compatible server.

#include <fmt/core.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <ctime>
#include <memory>
#include <optional>

#include "apps/arguments/workload_arguments.h"
#include "apps/bench/bench_commands.h"
#include "apps/bench/run_progress.h"
#include "bench/serving/load/load_test.h"
#include "bench/serving/report/serving_report.h"
#include "dualfp/base/check.h"
#include "dualfp/io/file.h"

namespace dualfp {
namespace {

struct ServeBenchArguments {
  std::string base_url;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::string model;
  std::string api_key;
  WorkloadArguments workload;
  std::optional<double> request_rate;
  double burstiness = 1;
  double trace_speedup = 1;
  int64_t max_concurrency = 0;
  int64_t random_prefix = 0;
  int64_t num_warmups = 1;
  CompletionOptions completion;
  std::vector<std::string> goodput;
  double timeout_seconds = 300;
  double sample_interval = 0.25;
  uint64_t seed = 0;
  std::string save_result;
  std::string save_report;
};

// Each stream is a descriptor: take as many as this process may have.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

std::string UtcNow() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &utc);
  return text;
}

Workload MakeWorkload(const ServeBenchArguments& a) {
  Workload workload = a.workload.Make(a.seed);
  if (a.workload.dataset == "random") {
    SpreadArrivals(&workload, a.request_rate.value_or(kAllAtOnce), a.burstiness, a.seed + 1);
    return workload;
  }
  DilateTime(&workload, a.trace_speedup);
  if (const double rate = MeanRate(workload); a.request_rate && rate > 0) {
    DilateTime(&workload, *a.request_rate / rate);
  }
  return workload;
}

std::string DescribeWorkload(const ServeBenchArguments& a, const Workload& workload) {
  const double rate = MeanRate(workload);
  const std::string arrivals =
      rate == 0 ? "all at once"
      : a.workload.dataset == "random"
          ? fmt::format("{:.4g} requests/s, burstiness {:g}", rate, a.burstiness)
          : fmt::format("{:.4g} requests/s on average", rate);
  return fmt::format(
      "{} requests: {}; {}{}", workload.size(), a.workload.Describe(), arrivals,
      a.max_concurrency > 0 ? fmt::format("; at most {} at a time", a.max_concurrency) : "");
}

std::vector<std::pair<std::string, Json>> Settings(const ServeBenchArguments& a,
                                                   const Workload& workload, const Target& target,
                                                   int64_t shortened) {
  const double rate = MeanRate(workload);
  std::vector<std::pair<std::string, Json>> settings = {
      {"dataset", a.workload.dataset},
      {"trace", a.workload.dataset == "trace" ? Json(a.workload.trace) : Json()},
      {"num_prompts", workload.size()},
      {"request_rate", rate > 0 ? Json(std::stod(fmt::format("{:.6g}", rate))) : Json("inf")},
      {"burstiness", a.workload.dataset == "random" ? Json(a.burstiness) : Json()},
      {"max_concurrency", a.max_concurrency > 0 ? Json(a.max_concurrency) : Json()},
      {"precision", a.completion.precision.empty() ? Json() : Json(a.completion.precision)},
      {"ignore_eos", a.completion.ignore_eos},
      {"seed", a.seed},
      {"exact_prompt_lengths", target.exact_lengths()},
      {"shortened_to_context", shortened}};
  for (const std::string& goal : a.goodput) {
    settings.emplace_back("goodput_" + goal.substr(0, goal.find(':')) + "_ms",
                          std::stod(goal.substr(goal.find(':') + 1)));
  }
  return settings;
}

// Requests whose measurements are thrown away. One that fails ends the run: nothing else would
// succeed.
void WarmUp(HttpClient& client, const Target& target, const LoadTestOptions& options,
            const Workload& workload, int64_t count) {
  Workload first(
      workload.begin(),
      workload.begin() + std::min<int64_t>(count, static_cast<int64_t>(workload.size())));
  for (PlannedRequest& request : first) {
    request.at = 0;
  }
  LoadTestOptions quiet = options;
  quiet.sample_seconds = 0;
  quiet.seed = options.seed + 1000003;  // other prompts, which no cache then knows
  for (const RequestRecord& record :
       LoadTest(client, target, quiet).Run(first, [](int64_t, int64_t) {}).records) {
    Check(record.ok(), ErrorCode::kIo, client.server().ToString(), options.completion.endpoint,
          ": ", record.error);
  }
}

bool EndsWith(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

void Write(std::optional<AtomicFile>* file, const std::string& text) {
  if (*file) {
    (*file)->WriteAt(0, text.data(), text.size());
    (*file)->Commit();
  }
}

void FailIfRequestsDid(const ServingReport& report) {
  if (report.metrics.failed == 0) {
    return;
  }
  const auto& records = report.load.records;
  const auto first = std::find_if(records.begin(), records.end(),
                                  [](const RequestRecord& record) { return !record.ok(); });
  Fail(ErrorCode::kIo, report.metrics.failed + report.load.not_sent, " of ",
       records.size() + static_cast<size_t>(report.load.not_sent),
       " requests failed; the first: ", first->error);
}

void RunServeBench(const ServeBenchArguments& a) {
  RaiseDescriptorLimit();
  // Claimed before the run, whose results must not be lost to a mistyped path.
  std::optional<AtomicFile> result_file;
  std::optional<AtomicFile> report_file;
  if (!a.save_result.empty()) {
    result_file.emplace(a.save_result);
  }
  if (!a.save_report.empty()) {
    report_file.emplace(a.save_report);
  }
  Workload workload = MakeWorkload(a);

  HttpClientOptions client_options;
  client_options.silence_timeout =
      std::chrono::milliseconds(static_cast<int64_t>(a.timeout_seconds * 1e3));
  const HttpUrl url = a.base_url.empty() ? HttpUrl{a.host, static_cast<uint16_t>(a.port), ""}
                                         : ParseHttpUrl(a.base_url);
  HttpClient client(url, client_options);
  LoadTestOptions options;
  options.headers = AuthorizationHeaders(a.api_key);
  options.completion = a.completion;
  options.max_concurrency = a.max_concurrency;
  options.seed = a.seed;
  options.shared_prefix = a.random_prefix;
  options.sample_seconds = a.sample_interval;
  const Target target = Explore(client, options.headers, a.model, options.completion);
  options.completion.model = target.model;

  const int64_t shortened =
      target.max_model_len > 0 ? FitContext(&workload, target.max_model_len) : 0;
  if (shortened > 0) {
    fmt::print(stderr, "{} of {} requests shortened to the model's context of {} tokens\n",
               shortened, workload.size(), target.max_model_len);
  }
  if (!target.exact_lengths()) {
    fmt::print(stderr, "Prompts are words, each about a token\n");
  }
  if (a.num_warmups > 0) {
    WarmUp(client, target, options, workload, a.num_warmups);
  }

  ServingReport report;
  report.date = UtcNow();
  report.server = url.ToString();
  report.model = target.model;
  report.endpoint = options.completion.endpoint;
  report.workload = DescribeWorkload(a, workload);
  report.settings = Settings(a, workload, target, shortened);
  report.goodput = ParseGoodput(a.goodput);
  {
    RunProgress progress("bench serve", static_cast<int64_t>(workload.size()));
    report.load = LoadTest(client, target, options)
                      .Run(workload, [&progress](int64_t done, int64_t in_flight) {
                        progress.Update(done, in_flight);
                      });
  }
  report.metrics = Measure(report.load.records, report.load.duration, report.goodput);
  fmt::print("{}", ToText(report));
  if (report.metrics.failed == 0 || report.metrics.completed > 0) {
    Write(&report_file, EndsWith(a.save_report, ".svg") ? ToSvg(report) : ToHtml(report));
  }
  Write(&result_file, ToJson(report).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  FailIfRequestsDid(report);
}

std::string CheckGoodput(const std::string& limit) {
  try {
    ParseGoodput({limit});
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

std::string CheckUrl(const std::string& url) {
  try {
    ParseHttpUrl(url);
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

void AddServerFlags(CLI::App& app, ServeBenchArguments& a) {
  constexpr const char* kServer = "Server";
  CLI::Option* url = app.add_option("--base-url", a.base_url, "Default http://127.0.0.1:8000");
  url->check(CheckUrl)->option_text("URL")->group(kServer);
  app.add_option("--host", a.host, "Instead of --base-url")
      ->excludes(url)
      ->option_text("ADDRESS")
      ->group(kServer);
  app.add_option("--port", a.port, "Instead of --base-url")
      ->excludes(url)
      ->check(CLI::Range(1, 65535))
      ->option_text("N")
      ->group(kServer);
  app.add_option("--endpoint", a.completion.endpoint, "Or /v1/chat/completions")
      ->check(CLI::IsMember({"/v1/completions", "/v1/chat/completions"}))
      ->option_text("/v1/completions")
      ->group(kServer);
  app.add_option("--model", a.model, "Default: the server's first")
      ->option_text("NAME")
      ->group(kServer);
  app.add_option("--api-key", a.api_key, "Sent with each request")
      ->envname("DUALFP_API_KEY")
      ->option_text("KEY")
      ->group(kServer);
  app.add_option("--precision", a.completion.precision, "Pin each request (dualfp servers)")
      ->check(CLI::IsMember({"exact", "fp16", "fp8", "auto"}))
      ->option_text("{exact,fp8,auto}")
      ->group(kServer);
  app.add_option("--temperature", a.completion.temperature, "Of sampling (default 0)")
      ->check(CLI::Range(0.0, 100.0))
      ->option_text("F")
      ->group(kServer);
  app.add_flag("--ignore-eos,!--no-ignore-eos", a.completion.ignore_eos,
               "Generate the lengths asked for (on)")
      ->group(kServer);
  app.add_option("--timeout", a.timeout_seconds, "Without a byte, in s (default 300)")
      ->check(CLI::Range(0.001, 1e6))
      ->option_text("S")
      ->group(kServer);
}

void AddLoadFlags(CLI::App& app, ServeBenchArguments& a) {
  constexpr const char* kLoad = "Load";
  CLI::Option* rate =
      app.add_option("--request-rate", a.request_rate, "Requests/s (inf, or the trace's own)");
  rate->check(PositiveOrInfinite())->option_text("F")->group(kLoad);
  app.add_option("--burstiness", a.burstiness, "Gamma's shape; 1 (default): Poisson")
      ->check(CLI::Range(1e-3, 1e6))
      ->option_text("F")
      ->group(kLoad);
  app.add_option("--trace-speedup", a.trace_speedup, "Time of a trace runs as fast")
      ->check(CLI::Range(1e-6, 1e6))
      ->excludes(rate)
      ->option_text("F")
      ->group(kLoad);
  app.add_option("--max-concurrency", a.max_concurrency, "Requests at a time (no bound)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->option_text("N")
      ->group(kLoad);
  app.add_option("--random-prefix-len", a.random_prefix, "Tokens that all prompts share (0)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 24))
      ->option_text("N")
      ->group(kLoad);
  app.add_option("--num-warmups", a.num_warmups, "Requests before the clock starts (1)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 20))
      ->option_text("N")
      ->group(kLoad);
  app.add_option("--seed", a.seed, "Of lengths, prompts and arrivals (0)")
      ->option_text("N")
      ->group(kLoad);
}

void AddResultFlags(CLI::App& app, ServeBenchArguments& a) {
  constexpr const char* kResult = "Result";
  app.add_option("--goodput", a.goodput, "Goals in ms: ttft:200 tpot:50 e2el:5000")
      ->check(CheckGoodput)
      ->option_text("GOAL ...")
      ->group(kResult);
  app.add_option("--save-result", a.save_result, "JSON, with every request")
      ->option_text("FILE")
      ->group(kResult);
  app.add_option("--save-report", a.save_report, "A page (.html), or its timeline (.svg)")
      ->option_text("FILE")
      ->group(kResult);
  app.add_option("--sample-interval", a.sample_interval, "Of /metrics, in s; 0: never (0.25)")
      ->check(CLI::Range(0.0, 3600.0))
      ->option_text("S")
      ->group(kResult);
}

}  // namespace

void AddBenchServe(CLI::App& bench) {
  auto arguments = std::make_shared<ServeBenchArguments>();
  CLI::App* command = bench.add_subcommand("serve", "Load-test an OpenAI-compatible server");
  command->footer(
      "Example: dualfp bench serve --trace azure-conv-2024 --trace-lengths 0.2 --request-rate 4\n"
      "           --goodput ttft:500 tpot:50 --save-report report.html");
  AddServerFlags(*command, *arguments);
  arguments->workload.AddTo(*command);
  AddLoadFlags(*command, *arguments);
  AddResultFlags(*command, *arguments);
  command->callback([arguments] { RunServeBench(*arguments); });
}

}  // namespace dualfp
