#include "dualfp/server/http/content_coding.h"

#include <zlib.h>

#include <algorithm>
#include <memory>

#include "dualfp/base/check.h"
#include "dualfp/server/openai/api_error.h"

namespace dualfp {
namespace {

enum class Coding { kIdentity, kGzip, kDeflate, kUnknown };

constexpr size_t kPiece = 64 << 10;

// zlib's window, and what it looks for at the beginning.
constexpr int kZlibWindow = 15;
constexpr int kGzipWindow = 16 + 15;

Coding CodingOf(std::string_view content_encoding) {
  std::string name;
  for (const char c : content_encoding) {
    if (c != ' ' && c != '\t') {
      name += c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    }
  }
  if (name.empty() || name == "identity") {
    return Coding::kIdentity;
  }
  if (name == "gzip" || name == "x-gzip") {
    return Coding::kGzip;
  }
  return name == "deflate" ? Coding::kDeflate : Coding::kUnknown;
}

}  // namespace

bool IsKnownContentCoding(std::string_view content_encoding) {
  return CodingOf(content_encoding) != Coding::kUnknown;
}

std::string DecodeContent(std::string_view content_encoding, std::string body, size_t max_bytes) {
  const Coding coding = CodingOf(content_encoding);
  if (coding == Coding::kIdentity) {
    return body;
  }
  z_stream state{};
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&state, inflateEnd);
  CheckInternal(inflateInit2(&state, coding == Coding::kGzip ? kGzipWindow : kZlibWindow) == Z_OK,
                "zlib does not start");
  const auto broken = [](std::string_view why) {
    return ApiError(400, StrCat("request body: not what Content-Encoding says: ", why), "",
                    "invalid_encoding");
  };
  std::string decoded;
  std::string piece(kPiece, '\0');
  state.next_in = reinterpret_cast<Bytef*>(body.data());
  state.avail_in = static_cast<uInt>(body.size());
  int status = Z_OK;
  while (status != Z_STREAM_END || state.avail_in > 0) {
    if (status == Z_STREAM_END) {
      // RFC 1952, 2.2: a gzip file may have several members.
      if (coding != Coding::kGzip || inflateReset(&state) != Z_OK) {
        throw broken("there is more after its end");
      }
    }
    state.next_out = reinterpret_cast<Bytef*>(piece.data());
    state.avail_out = static_cast<uInt>(piece.size());
    status = inflate(&state, Z_NO_FLUSH);
    decoded.append(piece.data(), piece.size() - state.avail_out);
    if (status == Z_BUF_ERROR) {
      throw broken("it ends too early");
    }
    if (status != Z_OK && status != Z_STREAM_END) {
      throw broken(state.msg != nullptr ? state.msg : "no such data");
    }
    if (decoded.size() > max_bytes) {
      throw ApiError(413, StrCat("the body of a request may have ", max_bytes, " bytes unpacked"),
                     "", "body_too_large");
    }
  }
  return decoded;
}

}  // namespace dualfp
