// What the files of filters share.

#pragma once

#include <string>
#include <string_view>

#include "dualfp/text/jinja/arguments.h"
#include "dualfp/text/jinja/evaluator.h"

namespace dualfp::jinja {

struct FilterCall {
  Evaluator& evaluator;
  Heap& heap;
  const Value& operand;
  const Arguments& arguments;
  ArgumentReader reader;

  // The operand as text; its markup flag goes on to the result where Python's does.
  std::string_view Text() const {
    return operand.is_string() ? operand.text() : heap.NewString(ToString(heap, operand)).text();
  }
  Value Result(std::string text) const {
    heap.ChargeText(Text().size());
    return heap.NewString(std::move(text), operand.is_string() && operand.is_markup());
  }
};

// Follows "a.b.0": names and indices. `otherwise`, unless null, takes the place of what is
// undefined on the way.
Value FollowPath(Evaluator& evaluator, Value value, const Value& path, const Value* otherwise);

// Filters on numbers (number_filters.cc).
Value ToInt(FilterCall& call);
Value ToFloat(FilterCall& call);
Value Round(FilterCall& call);
Value Absolute(FilterCall& call);

// Filters that shorten, count or encode text (text_filters.cc).
Value Truncate(FilterCall& call);
Value WordCount(FilterCall& call);
Value StripTags(FilterCall& call);
Value UrlEncode(FilterCall& call);
Value FileSize(FilterCall& call);

// Filters that lay text out (layout_filters.cc).
Value PrettyPrint(FilterCall& call);
Value WordWrap(FilterCall& call);
Value XmlAttributes(FilterCall& call);
Value Random(FilterCall& call);

// Filters on sequences (sequence_filters.cc).
Value SelectItems(FilterCall& call, bool by_attribute, bool keep);
Value Map(FilterCall& call);
Value Sort(FilterCall& call);
Value DictSort(FilterCall& call);
Value Extreme(FilterCall& call, bool largest);
Value Unique(FilterCall& call);
Value Reverse(FilterCall& call);
Value Batch(FilterCall& call);
Value Slices(FilterCall& call);
Value GroupBy(FilterCall& call);
Value First(FilterCall& call);
Value Last(FilterCall& call);
Value Items(FilterCall& call);
Value Sum(FilterCall& call);

}  // namespace dualfp::jinja
