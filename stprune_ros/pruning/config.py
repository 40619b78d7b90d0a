"""The method of a selection and its hyper-parameters. Imports no torch, so that settings can hold it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stprune_ros.errors import SettingsError
from stprune_ros.parameter import parameter

LEFT_TO_MODEL = -1.0  # of joint_common: the model folder says it, else `SILENT_WEIGHT` holds
SILENT_WEIGHT = 0.0
METHOD_NAMES = (
    'st_prune',
    'st_prune_staged',
    'st_prune_joint',
    'mtp',
    'rsp',
    'random',
    'uniform',
    'divprune',
    'tfps',
    'tfps_view',
    'evs',
    'dtd',
    'vidcom2_ring',
    'vidcom2_view',
    'dart',
    'dart_image',
    'cdpruner',
    'cdpruner_view',
    'mvpruner',
    'mvpruner_view',
    'flashvid',
    'coreset',
    'newest_random',
    'newest_uniform',
    'newest_divprune',
    'newest_vidcom2',
    'none',
)


@dataclass(frozen=True)
class PruningConfig:
    """The settings group ``pruning``. The lambdas are the paper's; which belongs to which stage is our reading.

    The paper's method is st_prune with the budget 'view'. The switches are not in the paper, and neither are
    st_prune_staged and st_prune_joint.
    Raises SettingsError for a keep ratio that is not in (0, 1].
    """

    method: str = parameter('st_prune_joint', 'how tokens are selected', choices=METHOD_NAMES, dynamic=True)
    keep_ratio: float = parameter(0.1, 'share of visual tokens that the model sees', 0.001, 1.0, dynamic=True)
    lambda_temporal: float = parameter(
        0.6, 'weight of volatility and recency in temporal pruning', 0.0, 10.0, dynamic=True
    )
    lambda_spatial: float = parameter(
        0.8, 'weight of neighbour similarity in ring-view pruning', 0.0, 10.0, dynamic=True
    )
    joint_recency: float = parameter(
        1.0, 'weight of recency in st_prune_staged and st_prune_joint', 0.0, 10.0, dynamic=True
    )
    joint_common: float = parameter(
        LEFT_TO_MODEL,
        'weight of likeness to other views in st_prune_staged and st_prune_joint; -1: what stprune.json in the model'
        ' folder says, else 0',
        LEFT_TO_MODEL,
        10.0,
        dynamic=True,
    )
    joint_volatility_share: float = parameter(
        0.125,
        'weight of volatility in st_prune_staged and st_prune_joint, as a share of that of likeness to other views',
        0.0,
        10.0,
        dynamic=True,
    )
    joint_lattice: float = parameter(
        0.7,
        'weight of an even lattice on the newest frame, where gauge_commonness asks for it; where joint_common is below'
        ' 1, that share of it',
        0.0,
        10.0,
        dynamic=True,
    )
    even_share: float = parameter(
        0.0,
        'share of the budget that goes to an even lattice over all frames of a view first, as context for what stands'
        ' out (st_prune_staged, st_prune_joint)',
        0.0,
        1.0,
        dynamic=True,
    )
    budget: str = parameter(
        'ring',
        'view: every view keeps its ratio; ring: all views compete for the same total, and each keeps half its ratio at'
        ' least (baselines have the scope of their authors)',
        choices=('ring', 'view'),
        dynamic=True,
    )
    compensate_motion: bool = parameter(
        False,
        'measure volatility along the motion that odometry and calibration explain, so that turning is not motion',
        dynamic=True,
    )
    calibrated_overlap: bool = parameter(
        False,
        'let only tokens within the overlap of two views, as calibrated, count as copies of one another',
        dynamic=True,
    )
    keep_one_copy: bool = parameter(
        False,
        'let only one view of a pair pay for a copy, so that an object in the overlap cannot vanish from both',
        dynamic=True,
    )
    skip_frozen: bool = parameter(
        False,
        'take frames that a frozen camera repeats for what they are, not for a scene that stands still',
        dynamic=True,
    )
    multiplicative_bonus: bool = parameter(
        False,
        'let volatility, recency and likeness scale the distance to kept tokens instead of being added to it',
        dynamic=True,
    )
    gauge_commonness: bool = parameter(
        True,
        'where likeness to other views singles nothing out, let its weight go to an even lattice on the newest frame'
        ' (st_prune_staged, st_prune_joint)',
        dynamic=True,
    )
    seed: int = parameter(0, 'seed of the methods random and newest_random', 0, 2**31 - 1, dynamic=True)

    def __post_init__(self) -> None:
        if not 0 < self.keep_ratio <= 1:
            raise SettingsError(f'keep ratio is {self.keep_ratio}; allowed is more than 0 and at most 1')

    def for_model(self, joint_common: float | None) -> PruningConfig:
        """With a number where it is left to the model: what the model folder says, None where it says nothing."""
        if self.joint_common != LEFT_TO_MODEL:
            return self
        return replace(self, joint_common=SILENT_WEIGHT if joint_common is None else joint_common)

    @property
    def ring_budget(self) -> bool:
        """Whether the views compete for one budget."""
        return self.budget == 'ring'

    @property
    def joint_weights(self) -> tuple[float, float, float]:
        """Weights of volatility, recency and commonness in st_prune_joint."""
        common = self.for_model(None).joint_common
        return self.joint_volatility_share * common, self.joint_recency, common

    @property
    def lattice_weight(self) -> float:
        """Weight of the lattice, for which the gauge gives up commonness: no more of it than there is of that."""
        return self.joint_lattice * min(self.for_model(None).joint_common, 1.0)
