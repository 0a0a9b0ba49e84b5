// A set of strings, searched for those that a text starts with.

#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace dualfp {

class TokenTrie {
 public:
  TokenTrie();
  // A token that is already there gets the new value, which must not be negative.
  void Add(std::string_view token, int32_t value);
  bool empty() const { return nodes_.size() == 1; }

  // The value of the longest token that `text` starts with; *size is its length.
  std::optional<int32_t> LongestPrefix(std::string_view text, size_t* size) const {
    std::optional<int32_t> found;
    ForEachPrefix(text, [&](size_t length, int32_t value) {
      found = value;
      *size = length;
    });
    return found;
  }

  // Calls visit(size, value) for every token that `text` starts with, the shortest first.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, Visit visit) const {
    int32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = FindChild(node, text[i]);
      if (node < 0) {
        return;
      }
      if (nodes_[static_cast<size_t>(node)].value >= 0) {
        visit(i + 1, nodes_[static_cast<size_t>(node)].value);
      }
    }
  }

  bool MayStartWith(char byte) const { return starts_[static_cast<uint8_t>(byte)]; }

 private:
  struct Node {
    uint8_t byte;
    int32_t value;         // -1: no token ends here
    int32_t first_child;   // -1: none
    int32_t next_sibling;  // -1: none
  };

  int32_t FindChild(int32_t node, char byte) const {
    int32_t child = nodes_[static_cast<size_t>(node)].first_child;
    while (child >= 0 && nodes_[static_cast<size_t>(child)].byte != static_cast<uint8_t>(byte)) {
      child = nodes_[static_cast<size_t>(child)].next_sibling;
    }
    return child;
  }

  std::vector<Node> nodes_;
  std::vector<bool> starts_;
};

}  // namespace dualfp
