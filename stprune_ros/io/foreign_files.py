"""Files and topics that cannot be read as they are: what they are, and the command that converts them."""

from __future__ import annotations

from pathlib import Path

from stprune_ros.errors import BagError

# Command that unpacks a file, by the ending of its name; {packed} and {plain} are the names.
UNPACK = {
    '.zstd': "zstd -d '{packed}' -o '{plain}'",
    '.zst': "zstd -d '{packed}' -o '{plain}'",
    '.lz4': "lz4 -d '{packed}' '{plain}'",
    '.gz': "gunzip '{packed}'",
    '.bz2': "bunzip2 '{packed}'",
    '.xz': "unxz '{packed}'",
    '.zip': "unzip '{packed}'",
    '.tar': "tar -xf '{packed}'",
    '.tgz': "tar -xf '{packed}'",
}
# Transport of image_transport that decodes a type.
TRANSPORTS = {
    'foxglove_msgs/msg/CompressedVideo': 'foxglove',
    'ffmpeg_image_transport_msgs/msg/FFMPEGPacket': 'ffmpeg',
    'theora_image_transport/msg/Packet': 'theora',
}
FORMS = {'ros1': 'ROS 1', 'protobuf': 'protobuf', 'json': 'JSON', 'flatbuffer': 'FlatBuffers', 'cbor': 'CBOR'}
READERS = {'protobuf': 'mcap-protobuf-support'}
IMAGE_WORDS = ('image', 'video', 'packet')


def no_bag(path: Path, why: str = '') -> BagError:
    """The error for a file or folder that is no bag, with the command that makes one of it."""
    names = sorted(file for file in path.iterdir()) if path.is_dir() else [path]
    for file in names:
        if file.suffix == '.bag':
            plain = file.with_suffix('')
            return BagError(
                f"'{file}' is a ROS 1 bag; convert it first: rosbags-convert --src '{file}' --dst '{plain}'"
            )
        if file.suffix in UNPACK:
            command = UNPACK[file.suffix].format(packed=file, plain=file.with_suffix(''))
            return BagError(f"'{file}' is compressed; unpack it first: {command}")
    if path.is_dir():
        return BagError(f"'{path}' is not a rosbag2 bag: it holds no .mcap or .db3 file{why}")
    return BagError(f"'{path}' is not a rosbag2 bag: neither a bag folder nor a .mcap or .db3 file")


def unreadable_camera(topic: str, msgtype: str, form: str) -> str:
    """What a topic is that looks like a camera but cannot be read, and how to convert it; '' for any other topic."""
    kind = msgtype.rpartition('/')[2].rpartition('.')[2].lower()
    if not any(word in kind for word in IMAGE_WORDS):
        return ''
    if form == 'ros1':
        return (
            f"'{topic}' is {msgtype} of ROS 1; convert the original .bag file with"
            ' rosbags-convert --src FILE.bag --dst FOLDER'
        )
    if form in FORMS:
        return (
            f"'{topic}' is {msgtype} in {FORMS[form]} and not in CDR of ROS 2; read it with the Python package"
            f' {READERS.get(form, "mcap")} and write sensor_msgs/msg/CompressedImage with rosbags'
        )
    transport = TRANSPORTS.get(msgtype)
    if transport:
        return (
            f"'{topic}' is a video stream ({msgtype}), whose images need their predecessors; play the bag, record what"
            f' ros2 run image_transport republish --ros-args -p in_transport:={transport} -p out_transport:=compressed'
            f' -r in/{transport}:={topic} -r out/compressed:={topic}/compressed publishes, and replay that'
        )
    if msgtype.startswith(('sensor_msgs/', 'stereo_msgs/')):
        return ''
    return f"'{topic}' is {msgtype}; republish it as sensor_msgs/msg/CompressedImage and record that"
