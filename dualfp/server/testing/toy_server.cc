// A server over the toy model, for the end-to-end tests.
//
//   toy_server [--step-us N] [--max-waiting N] [--max-connections N] [--backlog BYTES]
//              [--grace-ms N] [--load-ms N] [--port N] [--key KEY]
//
// Prints "PORT\n" when it listens; ends on SIGTERM.

#include <cstdio>
#include <cstring>
#include <string>
#include <thread>

#include "dualfp/base/error.h"
#include "dualfp/server/access_log.h"
#include "dualfp/server/http/http_server.h"
#include "dualfp/server/testing/toy_model.h"

namespace dualfp::testing {
namespace {

int Main(int argc, char** argv) {
  ServerConfig config;
  config.port = 0;
  config.access_log = [](const AccessRecord& record) {
    std::fprintf(stderr, "%s\n", FormatAccessRecord(record).c_str());
  };
  ToyOptions toy;
  std::chrono::milliseconds load{0};
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i];
    const std::string value = argv[i + 1];
    if (flag == "--key") {
      config.api_keys.push_back(value);
      continue;
    }
    const long number = std::stol(value);
    if (flag == "--step-us") {
      toy.step_time = std::chrono::microseconds(number);
    } else if (flag == "--max-waiting") {
      toy.max_waiting = static_cast<int>(number);
    } else if (flag == "--max-connections") {
      config.max_connections = static_cast<int>(number);
    } else if (flag == "--backlog") {
      config.max_stream_backlog_bytes = static_cast<size_t>(number);
    } else if (flag == "--grace-ms") {
      config.shutdown_grace = std::chrono::milliseconds(number);
    } else if (flag == "--load-ms") {
      load = std::chrono::milliseconds(number);
    } else if (flag == "--port") {
      config.port = static_cast<uint16_t>(number);
    }
  }
  ToyModel model(toy);
  HttpServer server(config);
  std::printf("%d\n", server.port());
  std::fflush(stdout);
  std::thread loader([&] {
    std::this_thread::sleep_for(load);
    server.Attach(model.Serve());
  });
  server.Run();
  loader.join();
  return 0;
}

}  // namespace
}  // namespace dualfp::testing

int main(int argc, char** argv) {
  try {
    return dualfp::testing::Main(argc, argv);
  } catch (const dualfp::Error& error) {
    std::fprintf(stderr, "toy_server: error: %s\n", error.what());
    return 1;
  }
}
