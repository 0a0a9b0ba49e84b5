// Filters that lay text out: pprint, wordwrap, xmlattr, as in jinja2/filters.py and the modules of
// Python that it calls.

#include <algorithm>
#include <random>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/builtins/filters_internal.h"
#include "dualfp/text/jinja/strings.h"
#include "dualfp/text/regex/regex.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

int64_t Width(std::string_view text) { return static_cast<int64_t>(CountCodePoints(text)); }

// pprint.pformat(): 80 columns, dicts by their keys. What fits on the rest of a line stays on it.
class PrettyPrinter {
 public:
  explicit PrettyPrinter(Heap& heap) : heap_(heap) {}

  std::string Print(const Value& value) {
    Add(value, 0, 0, /*is_outermost=*/true);
    return std::move(out_);
  }

 private:
  static constexpr int64_t kWidth = 80;

  // `allowance`: the brackets that will follow on the same line.
  void Add(const Value& value, int64_t indent, int64_t allowance, bool is_outermost) {
    const Value sorted = Sorted(value);
    const std::string text = ToRepr(heap_, sorted);
    heap_.ChargeText(text.size());
    const bool is_long = Width(text) > kWidth - indent - allowance;
    if (is_long && value.is_string()) {
      AddString(value.text(), text, indent, allowance, is_outermost);
    } else if (is_long && value.is_dict()) {
      AddDict(sorted, indent, allowance);
    } else if (is_long && value.is_sequence()) {
      AddSequence(value, indent, allowance);
    } else {
      out_ += text;
    }
  }

  // With all dicts in the order of their keys.
  Value Sorted(const Value& value) {
    if (value.is_sequence()) {
      std::vector<Value> items = value.items();
      std::transform(items.begin(), items.end(), items.begin(),
                     [&](const Value& item) { return Sorted(item); });
      return heap_.NewSequence(value.kind(), std::move(items));
    }
    if (!value.is_dict()) {
      return value;
    }
    std::vector<std::pair<Value, Value>> items = value.dict().items;
    std::stable_sort(items.begin(), items.end(), [&](const auto& a, const auto& b) {
      const bool comparable = (a.first.is_number() && b.first.is_number()) ||
                              (a.first.is_string() && b.first.is_string());
      return comparable ? Less(heap_, a.first, b.first) : TypeName(a.first) < TypeName(b.first);
    });
    for (auto& [key, item] : items) {
      item = Sorted(item);
    }
    return heap_.NewDict(std::move(items));
  }

  void NewLine(int64_t indent) {
    heap_.ChargeText(static_cast<size_t>(indent) + 1);
    out_ += '\n';
    out_.append(static_cast<size_t>(indent), ' ');
  }

  void AddDict(const Value& dict, int64_t indent, int64_t allowance) {
    const auto& items = dict.dict().items;
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) {
        out_ += ',';
        NewLine(indent + 1);
      }
      const std::string key = ToRepr(heap_, items[i].first);
      out_ += key + ": ";
      Add(items[i].second, indent + 1 + Width(key) + 2, i + 1 == items.size() ? allowance + 1 : 1,
          /*is_outermost=*/false);
    }
    out_ += '}';
  }

  void AddSequence(const Value& sequence, int64_t indent, int64_t allowance) {
    const bool is_list = sequence.kind() == Kind::kList;
    const std::vector<Value>& items = sequence.items();
    const std::string_view end = is_list ? "]" : items.size() == 1 ? ",)" : ")";
    out_ += is_list ? '[' : '(';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) {
        out_ += ',';
        NewLine(indent + 1);
      }
      Add(items[i], indent + 1, i + 1 == items.size() ? allowance + Width(end) : 1,
          /*is_outermost=*/false);
    }
    out_ += end;
  }

  // Words with the whitespace after them.
  static std::vector<std::string_view> Words(std::string_view line) {
    std::vector<std::string_view> words;
    size_t begin = 0;
    bool in_space = false;
    for (size_t i = 0; i < line.size();) {
      const size_t at = i;
      const bool is_space = IsPythonWhitespace(DecodeUtf8(line, &i));
      if (in_space && !is_space) {
        words.push_back(line.substr(begin, at - begin));
        begin = at;
      }
      in_space = is_space;
    }
    words.push_back(line.substr(begin));
    return words;
  }

  void AddString(std::string_view text, const std::string& whole, int64_t indent, int64_t allowance,
                 bool is_outermost) {
    if (is_outermost) {
      ++indent;
      ++allowance;
    }
    const int64_t room = kWidth - indent;
    const auto repr = [&](std::string_view part) { return ToRepr(heap_, Value::String(part)); };
    std::vector<std::string> chunks;
    const std::vector<std::string_view> lines = SplitLines(text, /*keep_ends=*/true);
    for (size_t i = 0; i < lines.size(); ++i) {
      const int64_t end = i + 1 == lines.size() ? allowance : 0;
      if (Width(repr(lines[i])) <= room - end) {
        chunks.push_back(repr(lines[i]));
        continue;
      }
      // `current` is what has been taken of the line for the next chunk.
      size_t begin = 0;
      size_t taken = 0;
      const std::vector<std::string_view> words = Words(lines[i]);
      for (size_t j = 0; j < words.size(); ++j) {
        const std::string_view current = lines[i].substr(begin, taken - begin);
        const std::string_view longer = lines[i].substr(begin, taken - begin + words[j].size());
        heap_.ChargeText(longer.size() * 4);
        if (Width(repr(longer)) > room - (j + 1 == words.size() ? end : 0) && !current.empty()) {
          chunks.push_back(repr(current));
          begin = taken;
        }
        taken += words[j].size();
      }
      chunks.push_back(repr(lines[i].substr(begin)));
    }
    if (chunks.size() <= 1) {
      out_ += whole;
      return;
    }
    out_ += is_outermost ? "(" : "";
    for (size_t i = 0; i < chunks.size(); ++i) {
      if (i > 0) {
        NewLine(indent);
      }
      out_ += chunks[i];
    }
    out_ += is_outermost ? ")" : "";
  }

  Heap& heap_;
  std::string out_;
};

bool IsWrapSpace(char c) {
  return std::string_view(" \t\n\v\f\r").find(c) != std::string_view::npos;
}

// Where textwrap may break a line: around whitespace, after hyphens within words, around dashes.
std::vector<std::string_view> Chunks(std::string_view line, bool break_on_hyphens) {
  static const Regex simple(R"([\t\n\x0b\x0c\r ]+|[^\t\n\x0b\x0c\r ]+)", "wordwrap");
  static const Regex hyphens(
      R"([\t\n\x0b\x0c\r ]+|(?<=[\w!"'&.,?])-{2,}(?=\w)|[^\t\n\x0b\x0c\r ]+?(?:)"
      R"(-(?:(?<=[^\d\W]{2}-)|(?<=[^\d\W]-[\w!"'&.,?]-))(?=[^\d\W]-?[^\d\W])|)"
      R"((?=[\t\n\x0b\x0c\r ]|\z)|(?<=[\w!"'&.,?])(?=-{2,}\w)))",
      "wordwrap");
  RegexScratch scratch;
  std::vector<std::string_view> chunks;
  size_t end = 0;
  const auto add = [&](size_t begin, size_t match_end) {
    if (begin > end) {
      chunks.push_back(line.substr(end, begin - end));
    }
    chunks.push_back(line.substr(begin, match_end - begin));
    end = match_end;
  };
  (break_on_hyphens ? hyphens : simple).ForEachMatch(line, &scratch, add);
  if (end < line.size()) {
    chunks.push_back(line.substr(end));
  }
  std::erase(chunks, std::string_view());
  return chunks;
}

bool IsBlank(std::string_view chunk) {
  return std::all_of(chunk.begin(), chunk.end(), IsWrapSpace);
}

// textwrap.wrap() of one line without tabs expanded or whitespace replaced.
std::vector<std::string> Wrap(std::string_view line, int64_t width, bool break_long_words,
                              bool break_on_hyphens) {
  std::vector<std::string_view> chunks = Chunks(line, break_on_hyphens);
  std::reverse(chunks.begin(), chunks.end());
  std::vector<std::string> lines;
  while (!chunks.empty()) {
    std::vector<std::string_view> taken;
    int64_t length = 0;
    if (IsBlank(chunks.back()) && !lines.empty()) {
      chunks.pop_back();
    }
    while (!chunks.empty() && length + Width(chunks.back()) <= width) {
      length += Width(chunks.back());
      taken.push_back(chunks.back());
      chunks.pop_back();
    }
    if (!chunks.empty() && Width(chunks.back()) > width) {
      if (break_long_words) {
        std::string_view& word = chunks.back();
        int64_t room = width - length;
        // A long word is rather broken after a hyphen that is not its first character.
        const size_t most = CodePointOffset(word, static_cast<size_t>(room));
        const size_t hyphen = most == 0 ? std::string_view::npos : word.rfind('-', most - 1);
        const bool breaks_at_hyphen =
            break_on_hyphens && hyphen != std::string_view::npos && hyphen > 0 &&
            word.substr(0, hyphen).find_first_not_of('-') != std::string_view::npos;
        const size_t cut = breaks_at_hyphen ? hyphen + 1 : most;
        taken.push_back(word.substr(0, cut));
        word.remove_prefix(cut);
      } else if (taken.empty()) {
        taken.push_back(chunks.back());
        chunks.pop_back();
      }
    }
    if (!taken.empty() && IsBlank(taken.back())) {
      taken.pop_back();
    }
    if (!taken.empty()) {
      std::string& out = lines.emplace_back();
      for (const std::string_view chunk : taken) {
        out += chunk;
      }
    }
  }
  return lines;
}

}  // namespace

Value PrettyPrint(FilterCall& call) {
  call.reader.GetBool("verbose", false);
  call.reader.Finish();
  return call.heap.NewString(PrettyPrinter(call.heap).Print(call.operand));
}

Value WordWrap(FilterCall& call) {
  const int64_t width = call.reader.GetInt("width", 79);
  const bool break_long_words = call.reader.GetBool("break_long_words", true);
  const Value between = call.reader.GetOr("wrapstring", Value::String("\n"));
  const bool break_on_hyphens = call.reader.GetBool("break_on_hyphens", true);
  call.reader.Finish();
  if (width <= 0) {
    FailRuntime(StrCat("invalid width ", width, " (must be > 0)"));
  }
  const std::string separator =
      between.is_none() ? std::string("\n") : ToString(call.heap, between);
  std::string out;
  bool is_first = true;
  for (const std::string_view line : SplitLines(call.Text(), /*keep_ends=*/false)) {
    call.heap.ChargeText(line.size() * 8);
    out += is_first ? "" : separator;
    is_first = false;
    const std::vector<std::string> wrapped = Wrap(line, width, break_long_words, break_on_hyphens);
    for (size_t i = 0; i < wrapped.size(); ++i) {
      call.heap.ChargeText(separator.size());
      out += (i > 0 ? separator : "") + wrapped[i];
    }
  }
  return call.heap.NewString(std::move(out));
}

Value XmlAttributes(FilterCall& call) {
  const bool autospace = call.reader.GetBool("autospace", true);
  call.reader.Finish();
  if (!call.operand.is_dict()) {
    FailRuntime("xmlattr() expects a mapping");
  }
  std::string out;
  for (const auto& [key, value] : call.operand.dict().items) {
    if (value.is_none() || value.is_undefined()) {
      continue;
    }
    const std::string name = ToString(call.heap, key);
    if (name.find_first_of(" \t\n\v\f\r/>=") != std::string::npos) {
      FailRuntime(StrCat("Invalid character in attribute name: ", QuoteForMessage(name)));
    }
    const auto escaped = [](const Value& each, std::string text) {
      return each.is_string() && each.is_markup() ? std::move(text) : EscapeHtml(text);
    };
    out += StrCat(out.empty() ? "" : " ", escaped(key, name), "=\"",
                  escaped(value, ToString(call.heap, value)), "\"");
  }
  call.heap.ChargeText(out.size());
  if (autospace && !out.empty()) {
    out.insert(0, " ");
  }
  return call.heap.NewString(std::move(out));
}

// Any of the items, another at each call.
Value Random(FilterCall& call) {
  call.reader.Finish();
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  if (items.empty()) {
    return Value::Undefined("No random item, sequence was empty.", "");
  }
  std::random_device device;
  return items[std::uniform_int_distribution<size_t>(0, items.size() - 1)(device)];
}

}  // namespace dualfp::jinja
