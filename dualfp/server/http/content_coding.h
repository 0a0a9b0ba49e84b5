// Content codings (RFC 9110, 8.4.1): what a request's body may be packed in.

#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace dualfp {

// The codings that DecodeContent() knows, as an Accept-Encoding header lists them.
inline constexpr std::string_view kContentCodings = "gzip, deflate";

// Whether `content_encoding`, a header's value, is one of them in any case, or none at all.
bool IsKnownContentCoding(std::string_view content_encoding);

// `body` unpacked. Throws ApiError: 413 where it would have more than `max_bytes`, 400 where it is
// not what `content_encoding` says, or ends too early.
std::string DecodeContent(std::string_view content_encoding, std::string body, size_t max_bytes);

}  // namespace dualfp
