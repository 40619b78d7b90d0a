// Whether a planning hint says anything, and what it asks for. Needs the generated message only, no rclcpp.
#pragma once

#include <cstdint>
#include <optional>

#include "stprune_ros/msg/planning_hint.hpp"

namespace stprune_example
{
using Hint = stprune_ros::msg::PlanningHint;

constexpr double kLeastConfidence = 0.5;           // the model's own probability: calibrate it before it means anything
constexpr std::int64_t kMaxAheadNs = 100'000'000;  // clocks differ a little; what is farther in the future is not believed

enum class Restriction { kNone, kSlowDown, kStop };

/// Acquisition time of the images that the hint is about.
inline std::int64_t StampNs(const Hint & hint)
{
  return std::int64_t{hint.header.stamp.sec} * 1'000'000'000 + hint.header.stamp.nanosec;
}

/// When the hint ends; it is counted from the images, so that a slow model does not lengthen it.
inline std::int64_t ExpiresNs(const Hint & hint)
{
  return StampNs(hint) + std::int64_t{hint.valid_for.sec} * 1'000'000'000 + hint.valid_for.nanosec;
}

/// Whether a hint says anything at now_ns; all other fields of one that does not are to be left alone.
inline bool IsValid(const Hint & hint, std::int64_t now_ns)
{
  if (hint.status != Hint::OK && hint.status != Hint::DEGRADED) {
    return false;
  }
  return StampNs(hint) - kMaxAheadNs <= now_ns && now_ns < ExpiresNs(hint);
}

/// What this planner can do about a hint; of everything else it knows nothing, and so does nothing about it.
inline Restriction RestrictionOf(const std::optional<Hint> & hint)
{
  if (!hint || hint->confidence < kLeastConfidence) {
    return Restriction::kNone;
  }
  switch (hint->behavior) {
    case Hint::BEHAVIOR_STOP:
      return Restriction::kStop;
    case Hint::BEHAVIOR_SLOW_DOWN:
      return Restriction::kSlowDown;
    default:
      return Restriction::kNone;
  }
}
}  // namespace stprune_example
