"""How long after its images a hint is out: not at all, or the times of a named profile, which are computed.

Nobody has measured a profile. Its times are lower bounds, everything at the published peak rates of the computer, as
docs/profiles.md has them: encoding the new images, prefill of what is kept, one pass over the weights for the hint.
Decoding and pruning are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stprune_ros.bench.architectures import QWEN3_2B, QWEN3_4B, Architecture
from stprune_ros.bench.bounds import DEVICES, DeviceSpec, token_bytes
from stprune_ros.errors import SettingsError
from stprune_ros.pruning.pruner import final_budget
from stprune_ros.resources import resource_path
from stprune_ros.settings.parameter_file import ParameterFile, settings_of

NONE = 'none'  # hints are there as soon as their images are
VIEWS = 6
TEXT_TOKENS = 411  # of the prompt of these models around the images
WEIGHTS = 'Q4_K_M'


@dataclass(frozen=True, slots=True)
class Computer:
    """What a profile runs on: the model's shape, the device, and the tokens of one image of 1920x1080."""

    architecture: Architecture
    device: DeviceSpec
    image_tokens: int


COMPUTERS: Mapping[str, Computer] = {
    'orin_agx': Computer(QWEN3_4B, DEVICES[0], 264),
    'orin_nx': Computer(QWEN3_2B, DEVICES[1], 180),
}
PROFILES = (NONE, *COMPUTERS)


@dataclass(frozen=True, slots=True)
class Latency:
    """Time from images to hint, and how long a hint is valid, both in ms.

    ``encode_ms`` is for one new set of images, ``prefill_ms`` by keep ratio.
    """

    profile: str
    valid_for_ms: float
    encode_ms: float = 0.0
    hint_ms: float = 0.0
    computer: Computer | None = None
    frames: int = 0

    def up_to_hint_ms(self, keep: float) -> float:
        """What a tick takes up to its hint, and so up to the next tick: no description is written."""
        return self.encode_ms + self.prefill_ms(keep) + self.hint_ms

    def prefill_ms(self, keep: float) -> float:
        """What the prefill of all text and the share ``keep`` of the visual tokens takes."""
        if self.computer is None:
            return 0.0
        tokens = VIEWS * final_budget(keep, self.frames * self.computer.image_tokens) + TEXT_TOKENS
        flops_ms = self.computer.architecture.language.prefill_flops(tokens) / self.computer.device.tflops / 1e9
        return max(flops_ms, self.hint_ms)


def latency_of(profile: str, valid_for_ms: float) -> Latency:
    """The times of a profile; ``valid_for_ms`` holds where there is none. Raises SettingsError for an unknown one."""
    if profile == NONE:
        return Latency(NONE, valid_for_ms)
    if profile not in COMPUTERS:
        raise SettingsError(
            f"there are no computed times of a profile '{profile}'; choose one of {', '.join(PROFILES)}"
        )
    computer = COMPUTERS[profile]
    settings = settings_of(ParameterFile.read(resource_path(f'config/profiles/{profile}.param.yaml')))
    architecture, device = computer.architecture, computer.device
    tower_flops = VIEWS * architecture.vision_flops(computer.image_tokens, architecture.vision_layers)
    return Latency(
        profile,
        settings.output.valid_for_ms,
        encode_ms=tower_flops / device.tflops / 1e9,
        hint_ms=token_bytes(architecture.language, WEIGHTS) / device.gb_s / 1e6,
        computer=computer,
        frames=settings.history.frames,
    )
