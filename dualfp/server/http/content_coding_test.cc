// Against bytes that Python's gzip and zlib modules wrote.

#include "dualfp/server/http/content_coding.h"

#include <gtest/gtest.h>

#include "dualfp/server/openai/api_error.h"

namespace dualfp {
namespace {

// gzip.compress(b"hello", mtime=0) and zlib.compress(b"hello").
const std::string_view kGzip(
    "\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcb\x48\xcd\xc9\xc9\x07\x00\x86\xa6\x10\x36\x05\x00"
    "\x00\x00",
    25);
const std::string_view kZlib("\x78\x9c\xcb\x48\xcd\xc9\xc9\x07\x00\x06\x2c\x02\x15", 13);

int StatusOf(std::string_view coding, std::string body, size_t max_bytes) {
  try {
    DecodeContent(coding, std::move(body), max_bytes);
    return 200;
  } catch (const ApiError& error) {
    return error.status();
  }
}

TEST(ContentCoding, Decodes) {
  for (const char* coding : {"gzip", "GZIP", " x-gzip"}) {
    EXPECT_EQ(DecodeContent(coding, std::string(kGzip), 5), "hello");
  }
  EXPECT_EQ(DecodeContent("deflate", std::string(kZlib), 5), "hello");
  EXPECT_EQ(DecodeContent("", "hello", 1), "hello");
  EXPECT_EQ(DecodeContent("identity", "hello", 1), "hello");
  EXPECT_EQ(DecodeContent("gzip", std::string(kGzip) + std::string(kGzip), 100), "hellohello");
}

TEST(ContentCoding, Names) {
  EXPECT_TRUE(IsKnownContentCoding("gzip"));
  EXPECT_TRUE(IsKnownContentCoding(""));
  for (const char* unknown : {"br", "zstd", "gzip, gzip", "chunked"}) {
    EXPECT_FALSE(IsKnownContentCoding(unknown)) << unknown;
  }
}

TEST(ContentCoding, Refuses) {
  EXPECT_EQ(StatusOf("gzip", std::string(kGzip), 4), 413);
  EXPECT_EQ(StatusOf("gzip", "", 100), 400);
  EXPECT_EQ(StatusOf("gzip", "hello", 100), 400);
  EXPECT_EQ(StatusOf("gzip", std::string(kZlib), 100), 400);
  EXPECT_EQ(StatusOf("gzip", std::string(kGzip) + "x", 100), 400);
  EXPECT_EQ(StatusOf("deflate", std::string(kZlib) + "x", 100), 400);
  for (size_t size = 0; size < kGzip.size(); ++size) {
    EXPECT_EQ(StatusOf("gzip", std::string(kGzip.substr(0, size)), 100), 400) << size;
  }
  std::string damaged(kGzip);
  damaged[18] ^= 1;  // of the checksum
  EXPECT_EQ(StatusOf("gzip", damaged, 100), 400);
}

}  // namespace
}  // namespace dualfp
