"""What tells one recording from another, wherever it lies and whatever it is called."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from itertools import islice

from stprune_ros.io.bag_reader import Bag

LETTERS = 16  # of the digest


def bag_identity(bag: Bag, topics: Collection[str]) -> str:
    """A digest of all topics with their types and numbers of messages, and of the first message on ``topics``.

    Copies of a bag have the same; it holds the time of recording and the first image, so that other drives of the same
    vehicle have another.
    """
    digest = hashlib.sha256()
    for name, topic in sorted(bag.topics.items()):
        digest.update(f'{name} {topic.msgtype} {topic.count}\n'.encode())
    for record in islice(bag.messages(topics), 1):
        digest.update(f'{record.topic} {record.receive_ns}\n'.encode() + record.data)
    return digest.hexdigest()[:LETTERS]
