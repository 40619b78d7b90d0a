"""A tree of transforms: every way is the composed truth, and every way that is missing is explained."""

import math

import numpy as np
import pytest
from helpers.calibrations import tf, transform, yaw
from hypothesis import assume, given
from hypothesis import strategies as st

from stprune_ros.core.transforms import StaticTransforms, matrix_from_quaternion
from stprune_ros.errors import StpruneError

number = st.floats(-3, 3)


@st.composite
def trees(draw):
    """Edges (parent, child, quaternion, translation) of a random tree of frames f0, f1 ..."""
    edges = []
    for child in range(1, draw(st.integers(2, 9))):
        q = np.array([draw(number) for _ in range(4)])
        assume(np.linalg.norm(q) > 0.1)
        parent = draw(st.integers(0, child - 1))
        edges.append((f'f{parent}', f'f{child}', q / np.linalg.norm(q), [draw(number) for _ in range(3)]))
    return edges


@given(trees(), st.randoms(use_true_random=False))
def test_every_way_in_a_random_tree_is_the_composed_truth(edges, rng):
    world = {'f0': np.eye(4)}  # takes a frame's vectors into f0
    for parent, child, q, t in edges:
        step = np.eye(4)
        step[:3, :3], step[:3, 3] = matrix_from_quaternion(q), t
        world[child] = world[parent] @ step
    shuffled = list(edges)
    rng.shuffle(shuffled)
    tree = StaticTransforms()
    for parent, child, q, t in shuffled:
        slash = rng.choice(['', '/'])
        tree.add(tf(transform(slash + parent, slash + child, q, t)))
    target, source = rng.choice(list(world)), rng.choice(list(world))
    found, truth = tree.lookup(target, source), np.linalg.inv(world[target]) @ world[source]
    np.testing.assert_allclose(found.rotation, truth[:3, :3], atol=1e-9)
    np.testing.assert_allclose(found.translation, truth[:3, 3], atol=1e-8)


def test_a_way_over_a_common_parent_and_back():
    tree = StaticTransforms()
    tree.add(tf(transform('mast', 'base_link', t=(0, 0, -2)), transform('mast', 'cam', yaw(90), (1, 0, 0))))
    pose = tree.lookup('base_link', '/cam')
    np.testing.assert_allclose(pose.rotation @ (1, 0, 0) + pose.translation, (1, 1, 2), atol=1e-12)
    back = tree.lookup('cam', 'base_link')
    np.testing.assert_allclose(back.rotation @ (1, 1, 2) + back.translation, (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(tree.lookup('x', 'x').rotation, np.eye(3))


def test_the_later_transform_wins_also_with_another_parent():
    tree = StaticTransforms()
    assert tree.add(tf(transform('base', 'cam', yaw(10)))) is True
    assert tree.add(tf(transform('base', 'cam', yaw(10)))) is False
    assert tree.add(tf(transform('base', 'cam', yaw(20)))) is True
    assert tree.add(tf(transform('base', 'mast', t=(0, 0, 1)), transform('mast', 'cam'))) is True
    np.testing.assert_allclose(tree.lookup('base', 'cam').translation, (0, 0, 1))
    assert len(tree) == 2


@pytest.mark.parametrize('bad', [(0, 0, 0, 0), (math.nan, 0, 0, 1), (0, 0, 0, 2.0), (math.inf, 0, 0, 1)])
def test_what_cannot_be_used_does_not_replace_what_can(bad):
    tree = StaticTransforms()
    tree.add(tf(transform('base', 'cam', yaw(90))))
    assert tree.add(tf(transform('base', 'cam', bad))) is False
    np.testing.assert_allclose(tree.lookup('base', 'cam').rotation @ (1, 0, 0), (0, 1, 0), atol=1e-12)
    other = StaticTransforms()
    other.add(tf(transform('base', 'cam', bad)))
    other.add(tf(transform('base', 'cam', yaw(90))))
    assert other.lookup('base', 'cam').rotation[1, 0] == pytest.approx(1)


def test_a_length_that_tf2_allows_is_normalised():
    tree = StaticTransforms()
    tree.add(tf(transform('base', 'cam', (0, 0, 0.708, 0.708))))
    np.testing.assert_allclose(tree.lookup('base', 'cam').rotation @ (1, 0, 0), (0, 1, 0), atol=1e-12)


@pytest.mark.parametrize(
    ('edges', 'sentence'),
    [
        ([], "no static transform leads from 'cam' to 'base'; publish it on /tf_static"),
        ([('base', 'other')], "no static transform leads from 'cam' to 'base'"),
        (
            [('ego', 'mount'), ('mount', 'cam')],
            "the tree of 'cam' ends in 'ego', and 'base' is not in it; set cameras.base_frame to .* such as 'ego'",
        ),
        ([('ego', 'cam'), ('map', 'base')], "the tree of 'cam' ends in 'ego', that of 'base' in 'map'"),
        ([('ego', 'cam'), ('base', 'lidar')], "the tree of 'cam' ends in 'ego', that of 'base' in 'base'"),
        ([('b', 'cam'), ('a', 'b'), ('b', 'a')], 'go round in a circle: b -> a -> b; one'),
        (
            [('base', 'cam', (0, 0, 0, 0))],
            r"from 'base' to 'cam' cannot be used: its quaternion \(0, 0, 0, 0\) is zero",
        ),
        (
            [('base', 'cam', (0, math.nan, 0, 1))],
            r"'cam' cannot be used: its quaternion \(0, nan, 0, 1\) is not finite",
        ),
        ([('base', 'cam', (0, 0, 1, 1))], 'has length 1.41, not 1'),
        ([('base', 'm', (0, 0, 0, 0)), ('m', 'cam')], "from 'base' to 'm' cannot be used"),
        ([('x', 'cam'), ('x', 'base', (0, 0, 0, 0))], "from 'x' to 'base' cannot be used"),
        ([('base', 'cam', (0, 0, 0, 1), (0, math.inf, 0))], r'translation \(0, inf, 0\) is not finite'),
        ([('', 'cam')], "'cam' cannot be used: it names no parent frame"),
        ([('cam', 'cam')], 'it leads from the frame to itself'),
    ],
)
def test_each_fault_has_its_sentence(edges, sentence):
    tree = StaticTransforms()
    for edge in edges:
        tree.add(tf(transform(*edge)))
    with pytest.raises(StpruneError, match=sentence):
        tree.lookup('/base', 'cam')


def test_a_way_that_moves_is_named():
    tree = StaticTransforms()
    tree.add(tf(transform('gimbal', 'cam')))
    assert tree.add_moving(tf(transform('map', 'base'), transform('base', 'gimbal'))) is True
    assert tree.add_moving(tf(transform('base', 'gimbal'))) is False
    with pytest.raises(StpruneError, match="from 'base' to 'gimbal', which the way .* comes on /tf only"):
        tree.lookup('base', 'cam')


def test_what_moves_elsewhere_is_not_blamed():
    tree = StaticTransforms()
    tree.add(tf(transform('ego', 'cam')))
    tree.add_moving(tf(transform('odom', 'base'), transform('map', 'odom')))
    with pytest.raises(StpruneError, match="ends in 'ego'"):
        tree.lookup('base', 'cam')
