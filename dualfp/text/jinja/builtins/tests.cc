// The tests of the template language ("x is string"), as in jinja2/tests.py.

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/arguments.h"
#include "dualfp/text/jinja/evaluator.h"
#include "dualfp/text/jinja/strings.h"

namespace dualfp::jinja {
namespace {

struct TestCall {
  Heap& heap;
  const Value& operand;
  ArgumentReader reader;

  Value Other() { return reader.Get("other"); }
  int64_t Modulo(int64_t divisor) const {
    const Value rest = Arithmetic(heap, "%", operand, Value::Int(divisor));
    return rest.is_int() ? rest.as_int() : static_cast<int64_t>(rest.as_double() != 0 ? 2 : 0);
  }
};

bool IsIterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kGenerator:
    case Kind::kDict:
      return true;
    default:
      return false;
  }
}

// Whether the text has a cased letter and no letter of the wrong case.
bool HasCase(const Value& value, bool (*right)(char32_t), bool (*wrong)(char32_t)) {
  return value.is_string() && AnyOf(value.text(), right) && !AnyOf(value.text(), wrong);
}

struct NamedTest {
  std::string_view name;
  bool (*holds)(TestCall&);
};

bool IsTestName(std::string_view name);

bool IsEqual(TestCall& c) { return Equal(c.heap, c.operand, c.Other()); }
bool IsUnequal(TestCall& c) { return !Equal(c.heap, c.operand, c.Other()); }
bool IsLess(TestCall& c) { return Less(c.heap, c.operand, c.Other()); }
bool IsGreater(TestCall& c) { return Less(c.heap, c.Other(), c.operand); }
bool IsLessOrEqual(TestCall& c) {
  const Value other = c.Other();
  return Less(c.heap, c.operand, other) || Equal(c.heap, c.operand, other);
}
bool IsGreaterOrEqual(TestCall& c) {
  const Value other = c.Other();
  return Less(c.heap, other, c.operand) || Equal(c.heap, other, c.operand);
}
bool IsSame(TestCall& c) {
  const Value other = c.Other();
  return c.operand.kind() == other.kind() && Equal(c.heap, c.operand, other);
}

constexpr NamedTest kTests[] = {
    {"!=", IsUnequal},
    {"<", IsLess},
    {"<=", IsLessOrEqual},
    {"==", IsEqual},
    {">", IsGreater},
    {">=", IsGreaterOrEqual},
    {"boolean", [](TestCall& c) { return c.operand.kind() == Kind::kBool; }},
    {"callable",
     [](TestCall& c) {
       return c.operand.kind() == Kind::kFunction || c.operand.is_undefined() ||
              (c.operand.kind() == Kind::kNamespace && c.operand.dict().call != nullptr);
     }},
    {"defined", [](TestCall& c) { return !c.operand.is_undefined(); }},
    {"divisibleby", [](TestCall& c) { return c.Modulo(c.reader.GetInt("num")) == 0; }},
    {"eq", IsEqual},
    {"equalto", IsEqual},
    {"escaped", [](TestCall& c) { return c.operand.is_string() && c.operand.is_markup(); }},
    {"even", [](TestCall& c) { return c.Modulo(2) == 0; }},
    {"false",
     [](TestCall& c) { return c.operand.kind() == Kind::kBool && c.operand.as_int() == 0; }},
    {"filter", [](TestCall& c) { return c.operand.is_string() && IsFilterName(c.operand.text()); }},
    {"float", [](TestCall& c) { return c.operand.kind() == Kind::kFloat; }},
    {"ge", IsGreaterOrEqual},
    {"greaterthan", IsGreater},
    {"gt", IsGreater},
    {"in", [](TestCall& c) { return Contains(c.heap, c.reader.Get("seq"), c.operand); }},
    {"integer",
     [](TestCall& c) { return c.operand.is_integer() && c.operand.kind() != Kind::kBool; }},
    {"iterable", [](TestCall& c) { return IsIterable(c.operand); }},
    {"le", IsLessOrEqual},
    {"lessthan", IsLess},
    {"lower", [](TestCall& c) { return HasCase(c.operand, IsLower, IsUpper); }},
    {"lt", IsLess},
    {"mapping", [](TestCall& c) { return c.operand.is_dict(); }},
    {"ne", IsUnequal},
    {"none", [](TestCall& c) { return c.operand.is_none(); }},
    {"number", [](TestCall& c) { return c.operand.is_number(); }},
    {"odd", [](TestCall& c) { return c.Modulo(2) == 1; }},
    {"sameas", IsSame},
    {"sequence",
     [](TestCall& c) {
       return c.operand.is_sequence() || c.operand.is_string() || c.operand.is_dict() ||
              c.operand.is_undefined();
     }},
    {"string", [](TestCall& c) { return c.operand.is_string(); }},
    {"test", [](TestCall& c) { return c.operand.is_string() && IsTestName(c.operand.text()); }},
    {"true",
     [](TestCall& c) { return c.operand.kind() == Kind::kBool && c.operand.as_int() == 1; }},
    {"undefined", [](TestCall& c) { return c.operand.is_undefined(); }},
    {"upper", [](TestCall& c) { return HasCase(c.operand, IsUpper, IsLower); }},
};

bool IsTestName(std::string_view name) {
  return std::any_of(std::begin(kTests), std::end(kTests),
                     [&](const NamedTest& test) { return test.name == name; });
}

}  // namespace

bool Evaluator::ApplyTest(std::string_view name, const Value& operand, const Arguments& arguments) {
  heap_.ChargeSteps(1);
  for (const NamedTest& test : kTests) {
    if (test.name == name) {
      TestCall call{heap_, operand, ArgumentReader(name, arguments)};
      const bool holds = test.holds(call);
      call.reader.Finish();
      return holds;
    }
  }
  Fail(ErrorCode::kUnsupported, "no test named '", name, "'");
}

}  // namespace dualfp::jinja
