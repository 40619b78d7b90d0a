"""Why a token stayed or went, as one number. Imports no torch, so that pictures and reports can name them."""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """What carried a kept token, or what stands in for a dropped one; see `explain.explain`."""

    NONE = 0  # nothing was weighed: every token stays, or the method is a baseline
    MOTION = 1
    RECENCY = 2
    DIVERSITY = 3
    OTHER_VIEWS = 4
    COPY_IN_TIME = 5
    COPY_IN_VIEW = 6
    LIKE_KEPT = 7
    EVEN = 8

    @property
    def words(self) -> str:
        """The reason as people read it."""
        return WORDS[self]


WORDS = {
    Reason.NONE: 'no reason known',
    Reason.MOTION: 'it moves',
    Reason.RECENCY: 'it is new',
    Reason.DIVERSITY: 'it is unlike what else was kept',
    Reason.OTHER_VIEWS: 'other views show nothing like it',
    Reason.COPY_IN_TIME: 'another frame has a copy that stays',
    Reason.COPY_IN_VIEW: 'another view has a copy that stays',
    Reason.LIKE_KEPT: 'too like what is kept for what else speaks for it',
    Reason.EVEN: 'it lies on the even lattice',
}
TERM_REASONS = (Reason.MOTION, Reason.RECENCY, Reason.DIVERSITY, Reason.OTHER_VIEWS)
KEPT_REASONS = (*TERM_REASONS, Reason.EVEN)
DROPPED_REASONS = (Reason.COPY_IN_TIME, Reason.COPY_IN_VIEW, Reason.LIKE_KEPT)
