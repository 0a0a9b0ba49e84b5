#include "dualfp/text/models/token_trie.h"

namespace dualfp {

TokenTrie::TokenTrie() : nodes_(1, Node{0, -1, -1, -1}), starts_(256, false) {}

void TokenTrie::Add(std::string_view token, int32_t value) {
  if (token.empty()) {
    return;
  }
  starts_[static_cast<uint8_t>(token[0])] = true;
  int32_t node = 0;
  for (const char byte : token) {
    int32_t child = FindChild(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      nodes_.push_back(
          {static_cast<uint8_t>(byte), -1, -1, nodes_[static_cast<size_t>(node)].first_child});
      nodes_[static_cast<size_t>(node)].first_child = child;
    }
    node = child;
  }
  nodes_[static_cast<size_t>(node)].value = value;
}

}  // namespace dualfp
