#include "dualfp/engine/sampling/text_output.h"

#include <algorithm>
#include <utility>

namespace dualfp {

TextOutput::TextOutput(std::unique_ptr<TextStream> stream, const std::vector<std::string>* stop,
                       bool include_stop_str)
    : stream_(std::move(stream)), include_stop_str_(include_stop_str) {
  for (const std::string& pattern : *stop) {
    Automaton automaton;
    automaton.pattern = pattern;
    automaton.failure.assign(pattern.size() + 1, 0);
    int32_t border = 0;
    for (size_t i = 1; i < pattern.size(); ++i) {
      while (border > 0 && pattern[i] != pattern[border]) {
        border = automaton.failure[border];
      }
      border += pattern[i] == pattern[border];
      automaton.failure[i + 1] = border;
    }
    stops_.push_back(std::move(automaton));
  }
}

int TextOutput::Append(int32_t token, bool may_stop) {
  stream_->Append(token, &text_);
  return Scan(may_stop);
}

int TextOutput::Scan(bool may_stop) {
  for (; scanned_ < text_.size(); ++scanned_) {
    const char byte = text_[scanned_];
    for (size_t index = 0; index < stops_.size(); ++index) {
      Automaton& stop = stops_[index];
      if (stop.matched == static_cast<int32_t>(stop.pattern.size())) {
        stop.matched = stop.failure[stop.matched];
      }
      while (stop.matched > 0 && stop.pattern[stop.matched] != byte) {
        stop.matched = stop.failure[stop.matched];
      }
      stop.matched += stop.pattern[stop.matched] == byte;
      if (stop.matched == static_cast<int32_t>(stop.pattern.size()) && may_stop) {
        const size_t end = scanned_ + 1;
        text_.resize(include_stop_str_ ? end : end - stop.pattern.size());
        ended_ = true;
        return static_cast<int>(index);
      }
    }
  }
  return -1;
}

void TextOutput::Finish() {
  if (!ended_) {
    stream_->Finish(&text_);
    ended_ = true;
  }
}

void TextOutput::Take(std::string* out) {
  size_t held = 0;
  if (!ended_ && !include_stop_str_) {
    for (const Automaton& stop : stops_) {
      // A whole match is one that min_tokens let pass; what it may still begin is its border.
      const bool whole = stop.matched == static_cast<int32_t>(stop.pattern.size());
      held = std::max<size_t>(held, whole ? stop.failure[stop.matched] : stop.matched);
    }
  }
  const size_t ready = text_.size() - std::min(held, text_.size());
  out->append(text_, 0, ready);
  text_.erase(0, ready);
  scanned_ = text_.size();
}

}  // namespace dualfp
