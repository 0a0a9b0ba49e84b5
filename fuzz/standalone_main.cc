// Runs a fuzz target without libFuzzer, so that every compiler builds it and every test run uses
// it: first each file of the corpus, then a fixed sequence of mutations of them. The sequence is
// the same on every machine; libFuzzer itself (`make soak`) does the searching.
//
//   NAME CORPUS_DIRECTORY MUTATIONS     or, to repeat one input:     NAME FILE

#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "fuzz/fuzz.h"

namespace {

const std::string* g_input = nullptr;  // for the report of a crash

std::string Read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void Run(const std::string& input) {
  g_input = &input;
  // A copy of exactly this size, so that sanitizers see the first byte beyond it.
  const std::vector<uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

// Keeps the input that ended the process. Only async-signal-safe calls.
void SaveInput(int signal) {
  constexpr char kMessage[] = "crash; the input is on standard output\n";
  if (write(STDERR_FILENO, kMessage, sizeof(kMessage) - 1) < 0 ||
      (g_input != nullptr && write(STDOUT_FILENO, g_input->data(), g_input->size()) < 0)) {
    _exit(1);
  }
  std::signal(signal, SIG_DFL);
  std::raise(signal);
}

class Mutator {
 public:
  explicit Mutator(const std::vector<std::string>& corpus) : corpus_(corpus) {}

  std::string Next() {
    std::string input = corpus_[Below(corpus_.size())];
    for (uint64_t i = 0, count = 1 + Below(4); i < count; ++i) {
      Mutate(input);
    }
    return input;
  }

 private:
  uint64_t Below(uint64_t bound) { return random_() % bound; }

  void Mutate(std::string& input) {
    static const std::vector<std::string> kTokens = {"0",
                                                     "-1",
                                                     "1e309",
                                                     "18446744073709551615",
                                                     "9223372036854775808",
                                                     "0.5",
                                                     "null",
                                                     "true",
                                                     "{}",
                                                     "[]",
                                                     "[[[[[",
                                                     "{\"a\":",
                                                     "\"",
                                                     "\\u0000",
                                                     "\xff",
                                                     ","};
    const size_t at = Below(input.size() + 1);
    const size_t length = std::min<size_t>(1 + Below(16), input.size() - at);
    switch (Below(7)) {
      case 0:
        if (at < input.size()) {
          input[at] = static_cast<char>(input[at] ^ (1 << Below(8)));
        }
        break;
      case 1:
        if (at < input.size()) {
          input[at] = static_cast<char>(Below(256));
        }
        break;
      case 2:
        input.erase(at, length);
        break;
      case 3:
        input.insert(at, kTokens[Below(kTokens.size())]);
        break;
      case 4:
        input.replace(at, length, kTokens[Below(kTokens.size())]);
        break;
      case 5:
        input.insert(at, input.substr(Below(input.size() + 1), 1 + Below(64)));
        break;
      default: {
        const std::string& other = corpus_[Below(corpus_.size())];
        input = input.substr(0, at) + other.substr(Below(other.size() + 1));
      }
    }
  }

  const std::vector<std::string>& corpus_;
  std::mt19937_64 random_{20240917};
};

}  // namespace

int main(int argc, char** argv) {
  for (const int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS}) {
    std::signal(signal, SaveInput);
  }
  if (argc == 2) {
    Run(Read(argv[1]));
    return 0;
  }
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s CORPUS_DIRECTORY MUTATIONS | FILE\n", argv[0]);
    return 2;
  }
  std::vector<std::filesystem::path> paths;
  for (const auto& file : std::filesystem::directory_iterator(argv[1])) {
    paths.push_back(file.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> corpus;
  for (const std::filesystem::path& path : paths) {
    corpus.push_back(Read(path));
    Run(corpus.back());
  }
  if (corpus.empty()) {
    std::fprintf(stderr, "%s: no corpus\n", argv[1]);
    return 1;
  }
  Mutator mutator(corpus);
  const uint64_t mutations = std::strtoull(argv[2], nullptr, 10);
  for (uint64_t i = 0; i < mutations; ++i) {
    const std::string input = mutator.Next();
    Run(input);
  }
  std::printf("%zu files and %" PRIu64 " mutations\n", corpus.size(), mutations);
  return 0;
}
