"""Named QoS profiles, and which of them users may override through qos_overrides parameters."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions


def _profile(depth: int, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability)


# Best effort matches any camera driver; two images, so that a slow callback does not cost a frame.
SENSOR = _profile(2, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
# For what a driver sent once before the node came; matches only those that keep it.
LATCHED = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
ODOMETRY = _profile(20, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
# What tf2 uses: every broadcaster keeps its transforms for those who come later.
TF_STATIC = _profile(100, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
# /rosout keeps what was said before somebody listened.
ROSOUT = _profile(100, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)
# Volatile: a late joiner must not get an old hint.
OUTPUT = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
# Reliable: RViz asks for that unless told otherwise, and whoever asks for less gets it too.
DEBUG = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)


def overridable() -> QoSOverridingOptions:
    """Lets users change history, depth, reliability and durability of an input by parameters."""
    policies = (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH, QoSPolicyKind.RELIABILITY, QoSPolicyKind.DURABILITY)
    return QoSOverridingOptions(policies)


def copy_of(profile: QoSProfile) -> QoSProfile:
    """A profile for one subscription: rclpy writes overrides into the one that it is given."""
    return _profile(profile.depth, profile.reliability, profile.durability)
