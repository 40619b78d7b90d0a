// NOT COMPILED by us: no machine with rclcpp was at hand. The rule in hint_rule.hpp was.
// Takes planning hints as a planner should: status and expiry first, then one restriction that ends by itself.
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "hint_rule.hpp"
#include "rclcpp/rclcpp.hpp"

using stprune_example::Hint;
using stprune_example::Restriction;

class HintConsumer : public rclcpp::Node
{
public:
  HintConsumer() : Node("hint_consumer")
  {
    const auto topic = declare_parameter<std::string>("topic", "/stprune_node/output/planning_hint");
    // Depth 1, as the publisher has it: an old hint is of no use.
    subscription_ = create_subscription<Hint>(
      topic, rclcpp::QoS(1), [this](const Hint::ConstSharedPtr hint) { Receive(*hint); });
    // A timer on the node's clock, so that the restriction ends in simulated time, too.
    timer_ = rclcpp::create_timer(this, get_clock(), std::chrono::milliseconds(50), [this] { Update(); });
  }

private:
  void Receive(const Hint & hint)
  {
    // Heartbeats and errors take nothing back: the last hint stands until it expires.
    const bool newer = !hint_ || stprune_example::StampNs(hint) > stprune_example::StampNs(*hint_);
    if (newer && stprune_example::IsValid(hint, now().nanoseconds())) {
      hint_ = hint;
    }
    Update();
  }

  void Update()
  {
    if (hint_ && !stprune_example::IsValid(*hint_, now().nanoseconds())) {
      hint_.reset();
    }
    const Restriction restriction = stprune_example::RestrictionOf(hint_);
    if (restriction != restriction_) {
      restriction_ = restriction;
      RCLCPP_INFO(get_logger(), "restriction: %d", static_cast<int>(restriction));
    }
  }

  rclcpp::Subscription<Hint>::SharedPtr subscription_;
  rclcpp::TimerBase::SharedPtr timer_;
  std::optional<Hint> hint_;
  Restriction restriction_ = Restriction::kNone;
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<HintConsumer>());
  rclcpp::shutdown();
  return 0;
}
