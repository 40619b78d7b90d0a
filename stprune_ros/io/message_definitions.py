"""The message definitions that go into a bag, as viewers read them."""

from __future__ import annotations

from rosbags.typesys.store import Typestore

from stprune_ros.resources import NAME, resource_path

SEPARATOR = f'{"=" * 80}\nMSG: '


def message_definition(store: Typestore, msgtype: str) -> str:
    """The text of ``msgtype`` ('pkg/msg/Name') and behind it that of every type in it, as MCAP's ros2msg has them.

    Messages of this package stand there as in their files. rosbags would write the constants of a message before its
    first field, where viewers such as Foxglove no longer know which field they name: STOP would be shown as 3.
    """
    generated, _ = store.generate_msgdef(msgtype, ros_version=2)
    first, *others = generated.split(SEPARATOR)
    texts = [_own_text(msgtype) or first]
    for other in others:
        name, _, text = other.partition('\n')
        texts.append(f'{name}\n{_own_text(name) or text}')
    return SEPARATOR.join(text if text.endswith('\n') else f'{text}\n' for text in texts)


def _own_text(msgtype: str) -> str:
    """What the .msg file of a message of this package holds, '' for any other."""
    package, *_, name = msgtype.split('/')
    return resource_path(f'msg/{name}.msg').read_text(encoding='utf-8') if package == NAME else ''
