// Times our tokenizer for bench_tokenizer.py, which compares it with Hugging Face's.
//
//   bench_tokenizer DIRECTORY DOCUMENTS
//
// DOCUMENTS holds texts separated by NUL bytes. For every line "go" on standard input, encodes and
// decodes them all once and prints seconds and counts as JSON.

#include <chrono>
#include <iostream>
#include <string>
#include <vector>

#include "dualfp/io/file.h"
#include "dualfp/io/json.h"
#include "dualfp/text/tokenizer.h"

namespace {

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: bench_tokenizer DIRECTORY DOCUMENTS\n";
    return 2;
  }
  try {
    const auto load_start = std::chrono::steady_clock::now();
    const auto tokenizer = dualfp::Tokenizer::FromDirectory(argv[1]);
    const double load_seconds = SecondsSince(load_start);

    std::vector<std::string> documents(1);
    for (const char c : dualfp::ReadFile(argv[2], int64_t{1} << 30)) {
      if (c == '\0') {
        documents.emplace_back();
      } else {
        documents.back() += c;
      }
    }
    for (std::string line; std::getline(std::cin, line);) {
      std::vector<std::vector<int32_t>> ids;
      ids.reserve(documents.size());
      const auto encode_start = std::chrono::steady_clock::now();
      for (const std::string& document : documents) {
        ids.push_back(tokenizer.Encode(document));
      }
      const double encode_seconds = SecondsSince(encode_start);
      size_t tokens = 0;
      size_t bytes = 0;
      const auto decode_start = std::chrono::steady_clock::now();
      for (const std::vector<int32_t>& document : ids) {
        tokens += document.size();
        bytes += tokenizer.Decode(document).size();
      }
      const dualfp::Json result = {{"load", load_seconds},
                                   {"encode", encode_seconds},
                                   {"decode", SecondsSince(decode_start)},
                                   {"tokens", tokens},
                                   {"bytes", bytes}};
      std::cout << result.dump() << std::endl;
    }
  } catch (const std::exception& error) {
    std::cerr << "bench_tokenizer: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
