"""Questions about ringworld: true, answerable, balanced; the model's vocabulary covers what it may be asked."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from stprune_ros.core.types import Behavior
from stprune_ros.evaluation.model_card import claims
from stprune_ros.ringworld.questions import QUESTION_KINDS, describe, hint_question, questions_about
from stprune_ros.ringworld.renderer import RING, VIEW_NAMES, render_view
from stprune_ros.ringworld.scenes import GRID, make_scene, model_image
from stprune_ros.ringworld.shapes import CLASSES
from stprune_ros.ringworld.training.tokenizer import vocabulary_words
from stprune_ros.ringworld.truth import SceneTruth, scene_truth
from stprune_ros.ringworld.world import World


@pytest.fixture(scope='module')
def truths() -> list[SceneTruth]:
    found = []
    for seed in range(12):
        world = World(seed, 3.0)
        for t in (0.5, 2.9):
            snapshot = world.snapshot(t)
            found.append(scene_truth(world, snapshot, RING, [render_view(snapshot, camera) for camera in RING]))
    return found


def test_questions_cover_the_kinds_and_are_answerable(truths: list[SceneTruth]) -> None:
    rng = np.random.default_rng(0)
    asked = [question for truth in truths for question in questions_about(truth, rng, 10)]
    assert {question.kind for question in asked} == set(QUESTION_KINDS)
    assert all(question.answer in question.candidates for question in asked)
    assert all(len(set(question.candidates)) == len(question.candidates) for question in asked)


def test_no_answer_is_a_safe_guess(truths: list[SceneTruth]) -> None:
    """Guessing the most frequent answer of a question form stays far from always right."""
    rng = np.random.default_rng(1)
    answers: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for truth in truths:
        for question in questions_about(truth, rng, 20):
            answers[(question.kind, len(question.candidates))][question.answer] += 1
    often = [counter for counter in answers.values() if sum(counter.values()) >= 40]
    assert len(often) > 4
    for counter in often:
        assert max(counter.values()) / sum(counter.values()) < 0.8


def test_answers_agree_with_the_truth(truths: list[SceneTruth]) -> None:
    for truth in truths:
        for question in questions_about(truth, np.random.default_rng(2), 12):
            index = next((n for n, name in enumerate(VIEW_NAMES) if question.text.endswith(f' in {name}?')), None)
            if question.text.startswith('how many cars'):
                cars = [actor for actor in truth.views[index] if actor.kind == 'vehicle']
                assert question.answer == ('zero', 'one', 'two', 'three')[min(3, len(cars))]
            if question.text.startswith('what colour'):
                nearest = min((s for s in truth.views[index] if s.kind == 'vehicle'), key=lambda s: s.distance)
                assert question.answer == nearest.colour
            if question.text.startswith('how many pedestrians'):
                ids = {actor.id for view in truth.views for actor in view if actor.kind == 'pedestrian'}
                assert question.answer == ('zero', 'one', 'two', 'three')[min(3, len(ids))]


def test_absent_views_are_neither_asked_about_nor_described(truths: list[SceneTruth]) -> None:
    for truth in truths:
        for question in questions_about(truth, np.random.default_rng(3), 12, views=(0, 1)):
            assert not any(f' in {name}?' in question.text for name in ('back', 'left', 'right'))
        assert not any(f'{name}:' in describe(truth, (0, 1)) for name in ('back', 'front left'))


def test_descriptions_are_short_true_and_in_the_vocabulary(truths: list[SceneTruth]) -> None:
    known = set(vocabulary_words())
    lengths = []
    for truth in truths:
        text = describe(truth)
        first = {'none': 'clear ahead'}.get(
            hint_question(truth).answer, f'{hint_question(truth).answer} for {truth.reason}'
        )
        assert first in claims(text)
        asked = [
            question.text + ' ' + ' '.join(question.candidates)
            for question in questions_about(truth, np.random.default_rng(4), 6)
        ]
        split = ' '.join([text, *asked])
        for mark in ':.,?':
            split = split.replace(mark, f' {mark} ')
        assert set(split.split()) <= known
        lengths.append(len(text.replace(':', ' :').replace(',', ' ,').replace('.', ' .').split()))
    assert np.mean(lengths) < 45
    assert max(lengths) < 64


def test_scenes_repeat_and_carry_dense_truth() -> None:
    one, two = make_scene(4), make_scene(4)
    assert (one.images == two.images).all()
    assert one.truths == two.truths
    assert one.images.shape == (4, 6, 96, 160, 3)
    tokens = GRID[0] * GRID[1]
    assert one.tokens['share'].shape == (4, 6, tokens, len(CLASSES))
    assert np.abs(one.tokens['share'].sum(-1).astype(int) - 255).max() <= 5
    for index, view in enumerate(one.truths[-1].views):
        seen = set(one.tokens['actor'][-1, index].tolist())
        assert {actor.id for actor in view if actor.pixels > 400} <= seen
    behaviors = {seed: make_scene(seed).truths[-1].behavior for seed in (0, 5)}
    assert set(behaviors.values()) <= {Behavior.NONE, Behavior.SLOW_DOWN, Behavior.STOP}


def test_images_reach_the_model_in_its_size_and_colours() -> None:
    colour = np.array([200, 90, 30], np.uint8)
    image = model_image(np.broadcast_to(colour, (192, 320, 3)))
    assert image.shape == (96, 160, 3)
    assert np.abs(image.astype(int) - colour).max() <= 4
