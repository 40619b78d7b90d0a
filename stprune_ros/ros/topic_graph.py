"""Who publishes and who subscribes to what, and what to say where nobody does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from rclpy.exceptions import InvalidTopicNameException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.validate_full_topic_name import validate_full_topic_name

from stprune_ros.errors import SettingsError, listed, plain

IMAGE, COMPRESSED = 'sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage'
TRANSPORTS = {IMAGE: 'raw', COMPRESSED: 'compressed'}
NEAR = 3  # topics that a sentence offers
MAX_NAME = 255  # characters of a topic


def type_name(kind: Any) -> str:
    """'package/msg/Name' of a message class."""
    return f'{kind.__module__.partition(".")[0]}/msg/{kind.__name__}'


def require_node_name(name: str) -> None:
    """Raise SettingsError where no node can have the full name ``name``."""
    try:
        validate_full_topic_name(name)
    except (InvalidTopicNameException, TypeError):  # the second one where it is no UTF-8
        raise SettingsError(
            f"no node can be called '{plain(name)}': a full name is of letters, digits, _ and /, as in"
            ' /car/stprune_node'
        ) from None


def published(node: Node) -> dict[str, set[str]]:
    """Types by topic that others publish; the node's own outputs are left out."""
    own = f'{node.get_fully_qualified_name()}/'
    outputs = (f'{own}output/', f'{own}debug/')
    names = [name for name, _ in node.get_topic_names_and_types() if not name.startswith(outputs)]
    types = {name: {info.topic_type for info in node.get_publishers_info_by_topic(name)} for name in names}
    return {plain(name, MAX_NAME): set(map(plain, found)) for name, found in types.items() if found}


def nodes_called(node: Node, name: str) -> int:
    """How many nodes in the graph have this fully qualified name."""
    names = [f'{space.rstrip("/")}/{base}' for base, space in node.get_node_names_and_namespaces()]
    return names.count(name)


def subscribed(node: Node) -> dict[str, set[str]]:
    """Types by topic that anybody subscribes to."""
    names = [name for name, _ in node.get_topic_names_and_types()]
    types = {name: {info.topic_type for info in node.get_subscriptions_info_by_topic(name)} for name in names}
    return {name: found for name, found in types.items() if found}


def nearest(topic: str, names: Iterable[str]) -> list[str]:
    """The names most like ``topic``, best first."""
    return difflib.get_close_matches(topic, list(names), n=NEAR, cutoff=0.0)


def nobody_publishes(
    topic: str, kind: str, parameter: str, graph: Mapping[str, set[str]], taken: Iterable[str]
) -> str | None:
    """Why nothing of type ``kind`` comes on ``topic``, None where somebody publishes it.

    ``graph`` is what is published, ``parameter`` the one that names the topic, ``taken`` what the node listens on.
    """
    if kind in graph.get(topic, ()):
        return None
    return f"nobody publishes '{topic}' as {kind}{_instead(topic, kind, parameter, graph, set(taken))}"


def _instead(topic: str, kind: str, parameter: str, graph: Mapping[str, set[str]], taken: set[str]) -> str:
    """What to do about it, with the colon before it."""
    others = sorted(graph.get(topic, ()))
    if others:
        remedy = f': set cameras.transport to {TRANSPORTS[others[0]]}' if {kind, others[0]} <= {*TRANSPORTS} else ''
        return f'; it is published as {others[0]}{remedy}'
    sibling = topic.removesuffix('/compressed') if kind == COMPRESSED else f'{topic}/compressed'
    other = IMAGE if kind == COMPRESSED else COMPRESSED
    if kind in TRANSPORTS and other in graph.get(sibling, ()):
        template = '' if '/input/' in topic else f' and {parameter} to match'
        return f"; '{sibling}' is published as {other}: set cameras.transport to {TRANSPORTS[other]}{template}"
    near = nearest(topic, (name for name, types in graph.items() if kind in types and name not in taken))
    if near:
        return f'; of that type there are {", ".join(near)}: set {parameter}, or remap'
    return ', nor any other topic of that type'


def unfit_qos(topic: str, wanted: QoSProfile, node: Node, kind: str) -> str | None:
    """Which policy keeps every publisher of a topic from matching, None where one matches or there is none."""
    offers = [info.qos_profile for info in node.get_publishers_info_by_topic(topic) if info.topic_type == kind]
    policies = [unfit_policy(offer, wanted) for offer in offers]
    return unfit_sentence(topic, policies[0]) if policies and policies[0] and all(policies) else None


def several_publish(topic: str, node: Node, kind: str) -> str | None:
    """Who publish a topic where nothing tells their messages apart, None where it is one or nobody."""
    infos = [info for info in node.get_publishers_info_by_topic(topic) if info.topic_type == kind]
    if len(infos) < 2:
        return None
    names = sorted(plain(f'{info.node_namespace.rstrip("/")}/{info.node_name}', MAX_NAME) for info in infos)
    return (
        f"'{topic}' has {len(infos)} publishers ({listed(names)}), and this rclpy does not tell whose a message is:"
        ' stop all but one, or remap'
    )


def unfit_policy(offered: QoSProfile, wanted: QoSProfile) -> str | None:
    """The policy of a publisher that does not suffice for a subscription."""
    if offered.reliability == ReliabilityPolicy.BEST_EFFORT and wanted.reliability == ReliabilityPolicy.RELIABLE:
        return 'reliability'
    keeps = wanted.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return 'durability' if keeps and offered.durability == DurabilityPolicy.VOLATILE else None


def unfit_sentence(topic: str, policy: str) -> str:
    """What to say about such a publisher."""
    offered = {'reliability': 'best_effort', 'durability': 'volatile'}.get(policy, 'what the publisher offers')
    return (
        f"'{topic}' is published with {policy} {offered}, which does not suffice for this subscription: set"
        f' qos_overrides.{topic}.subscription.{policy} to {offered}'
    )
