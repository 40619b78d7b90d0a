"""Transitions of the managed node by their names, for its log and diagnostics."""

from __future__ import annotations

from typing import Any

from lifecycle_msgs.msg import Transition

from stprune_ros.errors import listed, plain

CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE, SHUTDOWN = 'configure', 'cleanup', 'activate', 'deactivate', 'shutdown'
GOALS = {
    CONFIGURE: 'inactive',
    CLEANUP: 'unconfigured',
    ACTIVATE: 'active',
    DEACTIVATE: 'inactive',
    SHUTDOWN: 'finalized',
}
_NAMES = {
    Transition.TRANSITION_CREATE: 'create',
    Transition.TRANSITION_CONFIGURE: CONFIGURE,
    Transition.TRANSITION_CLEANUP: CLEANUP,
    Transition.TRANSITION_ACTIVATE: ACTIVATE,
    Transition.TRANSITION_DEACTIVATE: DEACTIVATE,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN: f'unconfigured {SHUTDOWN}',
    Transition.TRANSITION_INACTIVE_SHUTDOWN: f'inactive {SHUTDOWN}',
    Transition.TRANSITION_ACTIVE_SHUTDOWN: f'active {SHUTDOWN}',
    Transition.TRANSITION_DESTROY: 'destroy',
}


def name_of(asked: Any) -> str:
    """What a duck-typed Transition asks for: its label, which counts where it has one, or the name of its number."""
    return plain(asked.label) or _NAMES.get(asked.id, f'number {asked.id}')


def refusal(asked: Any, machine: Any) -> str:
    """Why the state machine of a node cannot do what is ``asked``; '' where it can."""
    possible = machine.available_transitions  # number, label, state and goal of each
    if any(asked.label == one[1] if asked.label else asked.id == one[0] for one in possible):
        return ''
    return (
        f"transition '{name_of(asked)}' is not possible in state '{machine.current_state[1]}': possible are"
        f' {listed(dict.fromkeys(one[1] for one in possible))}'
    )
