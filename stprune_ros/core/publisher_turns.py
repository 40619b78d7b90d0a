"""Messages of one input that come from several publishers in turn: nobody knows which of them is meant."""

from __future__ import annotations

from dataclasses import dataclass, field

RECENT = 100  # messages within which a publisher comes back after another; a driver that was started anew never does
REST = 30  # messages in a row from one publisher that end it
MOST = 8  # publishers of an input that are remembered


@dataclass(slots=True)
class _Input:
    count: int = 0
    current: bytes = b''
    seen: dict[bytes, int] = field(default_factory=dict)  # by publisher: the count at its last message
    mixed_until: int = 0


class PublisherTurns:
    """Feed it the publisher of every message, of each input by its name, in their order of arrival."""

    def __init__(self) -> None:
        self._inputs: dict[str, _Input] = {}

    def saw(self, name: str, publisher: bytes) -> bool:
        """Whether the input is mixed, with a message from ``publisher``: any id, always one where it is unknown."""
        found = self._inputs.setdefault(name, _Input())
        found.count += 1
        if publisher != found.current:
            if found.count - found.seen.get(publisher, -RECENT) <= RECENT:
                found.mixed_until = found.count + REST
            found.current = publisher
        found.seen.pop(publisher, None)
        found.seen[publisher] = found.count
        if len(found.seen) > MOST:
            del found.seen[next(iter(found.seen))]
        return found.count < found.mixed_until

    @property
    def mixed(self) -> frozenset[str]:
        """The inputs that were mixed at their last message."""
        return frozenset(name for name, found in self._inputs.items() if found.count < found.mixed_until)


def several_publishers(what: str) -> str:
    """What to say about a mixed input."""
    return (
        f'{what} come from several publishers in turn, and nobody knows which of them is meant: they are left out; stop'
        ' all but one (ros2 topic info --verbose names them), or remap'
    )
