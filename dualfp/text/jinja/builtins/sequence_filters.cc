// Filters that choose from, order or take apart sequences, as in jinja2/filters.py.

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/builtins/filters_internal.h"
#include "dualfp/text/jinja/strings.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

Value IgnoreCase(Heap& heap, const Value& value) {
  return value.is_string() ? heap.NewString(ToLower(value.text())) : value;
}

// Sorts `items` by the keys, stably; reversed order keeps equal items in place, like Python.
std::vector<Value> SortBy(Heap& heap, const std::vector<Value>& items,
                          const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) {
    order[i] = i;
  }
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? Less(heap, keys[b], keys[a]) : Less(heap, keys[a], keys[b]);
  });
  std::vector<Value> sorted;
  sorted.reserve(order.size());
  for (const size_t i : order) {
    sorted.push_back(items[i]);
  }
  return sorted;
}

}  // namespace

Value FollowPath(Evaluator& evaluator, Value value, const Value& path, const Value* otherwise) {
  if (path.is_none()) {
    return value;
  }
  if (!path.is_string()) {
    value = evaluator.GetItem(value, path);
    return value.is_undefined() && otherwise != nullptr ? *otherwise : value;
  }
  for (const std::string_view part : Split(path.text(), ".", -1, false)) {
    const bool is_index =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    value = evaluator.GetItem(
        value, is_index ? Value::Int(std::stoll(std::string(part))) : Value::String(part));
    if (value.is_undefined() && otherwise != nullptr) {
      value = *otherwise;
    }
  }
  return value;
}

// select, reject, selectattr and rejectattr.
Value SelectItems(FilterCall& call, bool by_attribute, bool keep) {
  if (!IsTrue(call.operand)) {
    return call.heap.NewSequence(Kind::kGenerator, {});
  }
  const std::vector<Value>& given = call.arguments.positional;
  size_t next = 0;
  Value path = Value::None();
  if (by_attribute) {
    if (given.empty()) {
      FailRuntime("Missing parameter for attribute name");
    }
    path = given[next++];
  }
  const Value* test = next < given.size() ? &given[next++] : nullptr;
  if (test != nullptr && !test->is_string()) {
    FailRuntime("expected the name of a test");
  }
  Arguments rest;
  rest.positional.assign(given.begin() + static_cast<std::ptrdiff_t>(next), given.end());
  rest.keywords = call.arguments.keywords;
  std::vector<Value> kept;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    const Value value = FollowPath(call.evaluator, item, path, nullptr);
    const bool holds =
        test != nullptr ? call.evaluator.ApplyTest(test->text(), value, rest) : IsTrue(value);
    if (holds == keep) {
      kept.push_back(item);
    }
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(kept));
}

Value Map(FilterCall& call) {
  if (!IsTrue(call.operand)) {
    return call.heap.NewSequence(Kind::kGenerator, {});
  }
  std::vector<Value> results;
  const Arguments& arguments = call.arguments;
  if (arguments.positional.empty()) {
    const Value path = call.reader.Get("attribute");
    const Value* otherwise = call.reader.Find("default");
    call.reader.Finish();
    for (const Value& item : Iterate(call.heap, call.operand)) {
      results.push_back(FollowPath(call.evaluator, item, path, otherwise));
    }
  } else {
    const Value& name = arguments.positional[0];
    if (!name.is_string()) {
      FailRuntime("map() expects the name of a filter");
    }
    Arguments rest;
    rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
    rest.keywords = arguments.keywords;
    for (const Value& item : Iterate(call.heap, call.operand)) {
      results.push_back(call.evaluator.ApplyFilter(name.text(), item, rest));
    }
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(results));
}

Value Sort(FilterCall& call) {
  const bool reverse = call.reader.GetBool("reverse", false);
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  call.reader.Finish();
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  std::vector<Value> paths = {attribute};
  if (attribute.is_string()) {
    paths.clear();
    for (const std::string_view part : Split(attribute.text(), ",", -1, false)) {
      paths.push_back(Value::String(part));
    }
  }
  std::vector<Value> keys;
  for (const Value& item : items) {
    std::vector<Value> key;
    for (const Value& path : paths) {
      const Value value = FollowPath(call.evaluator, item, path, nullptr);
      key.push_back(case_sensitive ? value : IgnoreCase(call.heap, value));
    }
    keys.push_back(call.heap.NewSequence(Kind::kList, std::move(key)));
  }
  return call.heap.NewList(SortBy(call.heap, items, keys, reverse));
}

Value DictSort(FilterCall& call) {
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  const std::string_view by = call.reader.GetString("by", "key");
  const bool reverse = call.reader.GetBool("reverse", false);
  call.reader.Finish();
  if (!call.operand.is_dict() || (by != "key" && by != "value")) {
    FailRuntime("dictsort() expects a dict, and 'key' or 'value' to sort by");
  }
  std::vector<Value> items;
  std::vector<Value> keys;
  for (const auto& [key, value] : call.operand.dict().items) {
    items.push_back(call.heap.NewSequence(Kind::kTuple, {key, value}));
    const Value& sort_key = by == "key" ? key : value;
    keys.push_back(case_sensitive ? sort_key : IgnoreCase(call.heap, sort_key));
  }
  return call.heap.NewList(SortBy(call.heap, items, keys, reverse));
}

Value Extreme(FilterCall& call, bool largest) {
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  call.reader.Finish();
  Value best = Value::Undefined("No aggregated item, sequence was empty.", "");
  Value best_key;
  bool first = true;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    Value key = FollowPath(call.evaluator, item, attribute, nullptr);
    key = case_sensitive ? key : IgnoreCase(call.heap, key);
    if (first || (largest ? Less(call.heap, best_key, key) : Less(call.heap, key, best_key))) {
      best = item;
      best_key = key;
    }
    first = false;
  }
  return best;
}

Value Unique(FilterCall& call) {
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  call.reader.Finish();
  std::vector<Value> unique;
  std::vector<Value> keys;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    Value key = FollowPath(call.evaluator, item, attribute, nullptr);
    key = case_sensitive ? key : IgnoreCase(call.heap, key);
    if (std::none_of(keys.begin(), keys.end(),
                     [&](const Value& known) { return Equal(call.heap, known, key); })) {
      keys.push_back(key);
      unique.push_back(item);
    }
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(unique));
}

Value Reverse(FilterCall& call) {
  std::vector<Value> items = Iterate(call.heap, call.operand);
  std::reverse(items.begin(), items.end());
  if (!call.operand.is_string()) {
    return call.heap.NewSequence(Kind::kGenerator, std::move(items));
  }
  std::string text;
  for (const Value& character : items) {
    text += character.text();
  }
  return call.Result(std::move(text));
}

Value Batch(FilterCall& call) {
  const int64_t count = call.reader.GetInt("linecount");
  const Value fill = call.reader.GetOr("fill_with", Value::None());
  call.reader.Finish();
  if (count < 1) {
    FailRuntime("batch() expects a positive count");
  }
  std::vector<Value> batches;
  std::vector<Value> batch;
  for (const Value& item : Iterate(call.heap, call.operand)) {
    if (static_cast<int64_t>(batch.size()) == count) {
      batches.push_back(call.heap.NewList(std::move(batch)));
      batch.clear();
    }
    batch.push_back(item);
  }
  if (!batch.empty()) {
    while (!fill.is_none() && static_cast<int64_t>(batch.size()) < count) {
      call.heap.ChargeBytes(sizeof(Value));
      batch.push_back(fill);
    }
    batches.push_back(call.heap.NewList(std::move(batch)));
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(batches));
}

// A fixed number of lists, the first of them one item longer where it does not come out even.
Value Slices(FilterCall& call) {
  const int64_t count = call.reader.GetInt("slices");
  const Value fill = call.reader.GetOr("fill_with", Value::None());
  call.reader.Finish();
  if (count < 1) {
    FailRuntime("slice() expects a positive count");
  }
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  const auto slices = static_cast<size_t>(count);
  const size_t longer = items.size() % slices;
  std::vector<Value> result;
  size_t begin = 0;
  for (size_t i = 0; i < slices; ++i) {
    const size_t end = begin + items.size() / slices + (i < longer ? 1 : 0);
    std::vector<Value> slice(items.begin() + static_cast<std::ptrdiff_t>(begin),
                             items.begin() + static_cast<std::ptrdiff_t>(end));
    if (!fill.is_none() && i >= longer) {
      slice.push_back(fill);
    }
    result.push_back(call.heap.NewList(std::move(slice)));
    begin = end;
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(result));
}

Value GroupBy(FilterCall& call) {
  const Value attribute = call.reader.Get("attribute");
  const Value* otherwise = call.reader.Find("default");
  const bool case_sensitive = call.reader.GetBool("case_sensitive", false);
  call.reader.Finish();
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  std::vector<Value> keys;
  for (const Value& item : items) {
    const Value key = FollowPath(call.evaluator, item, attribute, otherwise);
    keys.push_back(case_sensitive ? key : IgnoreCase(call.heap, key));
  }
  std::vector<Value> groups;
  Value key;
  for (const Value& item : SortBy(call.heap, items, keys, false)) {
    const Value name = FollowPath(call.evaluator, item, attribute, otherwise);
    const Value item_key = case_sensitive ? name : IgnoreCase(call.heap, name);
    if (groups.empty() || !Equal(call.heap, key, item_key)) {
      groups.push_back(call.heap.NewSequence(Kind::kTuple, {name, call.heap.NewList({})}));
      groups.back().sequence().is_group = true;
      key = item_key;
    }
    call.heap.ChargeBytes(sizeof(Value));
    groups.back().items()[1].items().push_back(item);
  }
  return call.heap.NewList(std::move(groups));
}

Value First(FilterCall& call) {
  if (call.operand.kind() == Kind::kGenerator && !call.operand.items().empty()) {
    const Value first = call.operand.items().front();
    call.operand.items().erase(call.operand.items().begin());
    return first;
  }
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  return items.empty() ? Value::Undefined("No first item, sequence was empty.", "") : items.front();
}

Value Last(FilterCall& call) {
  if (call.operand.kind() == Kind::kGenerator) {
    FailRuntime("'generator' object is not reversible");
  }
  const std::vector<Value> items = Iterate(call.heap, call.operand);
  return items.empty() ? Value::Undefined("No last item, sequence was empty.", "") : items.back();
}

Value Items(FilterCall& call) {
  std::vector<Value> items;
  if (!call.operand.is_undefined()) {
    if (!call.operand.is_dict()) {
      FailRuntime("Can only get item pairs from a mapping.");
    }
    for (const auto& [key, value] : call.operand.dict().items) {
      items.push_back(call.heap.NewSequence(Kind::kTuple, {key, value}));
    }
  }
  return call.heap.NewSequence(Kind::kGenerator, std::move(items));
}

Value Sum(FilterCall& call) {
  const Value attribute = call.reader.GetOr("attribute", Value::None());
  Value sum = call.reader.GetOr("start", Value::Int(0));
  call.reader.Finish();
  for (const Value& item : Iterate(call.heap, call.operand)) {
    sum = Add(call.heap, sum, FollowPath(call.evaluator, item, attribute, nullptr));
  }
  return sum;
}

}  // namespace dualfp::jinja
