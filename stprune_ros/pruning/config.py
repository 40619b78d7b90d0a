"""The pruning settings: which method, its keep ratio and its weights. Imports no torch, so that settings stay light."""

from __future__ import annotations

from dataclasses import dataclass

from stprune_ros.errors import SettingsError

METHOD_NAMES = (
    'st_prune',
    'st_prune_joint',
    'mtp',
    'rsp',
    'random',
    'uniform',
    'divprune',
    'tfps',
    'evs',
    'vidcom2',
    'dtd',
    'dart',
    'cdpruner',
    'none',
)


@dataclass(frozen=True)
class PruningConfig:
    """A pruning method and its hyper-parameters; which lambda belongs to which stage is our reading of the paper.

    The joint method and the switches are ours; in the method as published every switch is off.
    Raises SettingsError for a keep ratio outside (0, 1].
    """

    method: str = 'st_prune_joint'
    """One of `METHOD_NAMES`."""
    keep_ratio: float = 0.1
    """Share of the visual tokens that the language model sees, in (0, 1]."""
    lambda_temporal: float = 0.6
    """Weight of volatility and recency in the temporal stage (MTP)."""
    lambda_spatial: float = 0.8
    """Weight of the similarity to neighbouring views in the spatial stage (RSP)."""
    joint_volatility: float = 0.3
    """Weight of volatility in the joint method."""
    joint_recency: float = 0.7
    """Weight of recency in the joint method."""
    joint_common: float = 2.4
    """Weight of commonness, the similarity to all other views, in the joint method."""
    compensate_motion: bool = False
    """Measure volatility along the image motion that odometry and calibration explain."""
    calibrated_overlap: bool = False
    """Penalize similarity to a neighbour only within the overlap that calibration allows."""
    keep_one_copy: bool = False
    """Penalize only similarity to what a neighbour pruned earlier kept, so that one copy of a pair always stays."""
    skip_frozen: bool = False
    """Do not take frames that a frozen camera repeats for a static scene; select from them last."""
    multiplicative_bonus: bool = False
    """Multiply the distance to the selected tokens by exp(bonus) instead of adding the bonus to it."""
    seed: int = 0
    """Seed of the method 'random'."""

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise SettingsError(f'keep ratio is {self.keep_ratio}; allowed is more than 0 and at most 1')

    @property
    def joint_weights(self) -> tuple[float, float, float]:
        """Weights of volatility, recency and commonness in the joint method."""
        return self.joint_volatility, self.joint_recency, self.joint_common
