// Exit code 0 where examples/hint_rule.hpp judges hints as it says.
#include "../../examples/hint_rule.hpp"

using stprune_example::Hint;
using stprune_example::IsValid;
using stprune_example::Restriction;
using stprune_example::RestrictionOf;

int main()
{
  constexpr std::int64_t second = 1'000'000'000;
  Hint hint;
  if (IsValid(hint, 0)) return 1;  // a default-constructed message means UNKNOWN
  hint.header.stamp.sec = 100;
  hint.valid_for.sec = 1;
  hint.status = Hint::DEGRADED;
  hint.behavior = Hint::BEHAVIOR_STOP;
  hint.confidence = 0.9f;
  if (!IsValid(hint, 100 * second) || !IsValid(hint, 101 * second - 1)) return 2;
  if (IsValid(hint, 101 * second) || IsValid(hint, 99 * second)) return 3;
  if (RestrictionOf(hint) != Restriction::kStop || RestrictionOf(std::nullopt) != Restriction::kNone) return 4;
  hint.status = Hint::STALE;
  if (IsValid(hint, 100 * second)) return 5;
  hint.status = Hint::OK;
  hint.confidence = 0.4f;
  if (!IsValid(hint, 100 * second) || RestrictionOf(hint) != Restriction::kNone) return 6;
  hint.confidence = 0.6f;
  hint.behavior = Hint::BEHAVIOR_YIELD;
  if (RestrictionOf(hint) != Restriction::kNone) return 7;
  hint.behavior = Hint::BEHAVIOR_SLOW_DOWN;
  return RestrictionOf(hint) == Restriction::kSlowDown ? 0 : 8;
}
