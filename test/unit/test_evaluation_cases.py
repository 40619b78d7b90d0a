"""Cases from any data set: scenes with gaps, exams that encode once, and the two sources that ringworld yields."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers.bright_scenes import RIG, BrightnessModel, BrightnessPrompt, Prefilled, case, ego, image, scene

from stprune_ros.core.motion import static_flow
from stprune_ros.core.types import Behavior, EgoState
from stprune_ros.errors import StpruneError
from stprune_ros.evaluation import fidelity, ringworld_cases
from stprune_ros.evaluation.case import FROZEN_CAMERAS, Case, by_scene
from stprune_ros.evaluation.exam import EncodedScene, choose_answers
from stprune_ros.evaluation.fidelity import EvaluationPlan, SceneEvaluator
from stprune_ros.evaluation.hits import BLIND_TRIAL, FULL_TRIAL, Asked, Trial
from stprune_ros.evaluation.model_card import Score, by_kind_only, claims, evaluate_model, pruning_configs
from stprune_ros.evaluation.ringworld_cases import (
    DESCRIPTION,
    ModelCardCases,
    RingworldCases,
    case_scene,
    question_form,
    ringworld_rig,
)
from stprune_ros.evaluation.variants import Encoding, Variant
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.ringworld.questions import HINT_QUESTION, describe, questions_about
from stprune_ros.ringworld.renderer import RING
from stprune_ros.ringworld.scenes import HELD_OUT, make_scene
from stprune_ros.settings.settings import Settings
from stprune_ros.vlm.backend import Context

GREY = (128, 128, 128)
UNTOUCHED = HELD_OUT + 21_000


def test_scenes_must_fit_their_rig() -> None:
    with pytest.raises(StpruneError, match='scene 7: images of front; the rig has front, right, left'):
        scene(images={'front': [image(0)] * 3})
    with pytest.raises(StpruneError, match="scene 7: camera 'front' has 3 images, ego 2"):
        scene(egos=[ego()] * 2)
    with pytest.raises(StpruneError, match="the answer 'blue' to 'what colour\\?' is not one of its candidates"):
        Case(scene(), 'what colour?', ('red', 'green'), 'blue', 'perception')
    assert Case(scene(), 'describe.', (), 'a car.', 'description').candidates == ()


@pytest.mark.parametrize(
    ('state', 'motion'),
    [
        (ego(5.0), 'ego driving'),
        (ego(0.31), 'ego driving'),
        (ego(0.29), 'ego standing'),
        (ego(5.0, 0.06), 'ego turning'),
        (ego(5.0, -0.06), 'ego turning'),
        (ego(5.0, 0.04), 'ego driving'),
        (None, 'ego unknown'),
    ],
)
def test_motion_is_that_of_the_current_instant(state: EgoState | None, motion: str) -> None:
    assert scene(egos=[ego(0.0, 1.0), ego(0.0, 1.0), state]).ego_motion == motion


def test_impaired_scenes() -> None:
    gap = scene()
    gap.images['left'][1] = None  # type: ignore[index]
    grey = gap.with_grey_images()
    assert grey.images['left'][1] is None
    assert all((picture == GREY).all() for row in grey.images.values() for picture in row if picture is not None)
    assert (grey.id, grey.condition) == (7, '')
    frozen = scene().with_frozen_cameras()
    assert [int(picture[0, 0, 0]) for picture in frozen.images['right']] == [10, 10, 12]
    assert (frozen.id, frozen.condition, frozen.ego_motion) == (7, FROZEN_CAMERAS, 'ego driving')
    assert [int(picture[0, 0, 0]) for picture in scene().images['right']] == [10, 11, 12]


def test_a_scene_is_encoded_oldest_first_and_shown_by_view() -> None:
    backend = BrightnessModel()
    encoded = EncodedScene.encode(scene(), backend)
    assert backend.encoded == [[0, 10, 20, 1, 11, 21, 2, 12, 22]]
    assert [view.name for view in encoded.views] == ['front', 'right', 'left']
    context = encoded.prefill(PruningConfig('none', 1.0), backend, BrightnessPrompt())
    assert context.state.images == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    assert context.state.kept == [8] * 9
    masks = encoded.keep_masks(PruningConfig('uniform', 0.25))
    assert [tuple(mask.shape) for mask in masks] == [(3, 2, 4)] * 3
    pruned = encoded.prefill(PruningConfig('uniform', 0.25), backend, BrightnessPrompt())
    assert pruned.state.kept == [int(frame.sum()) for mask in masks for frame in mask]
    assert sum(pruned.state.kept) == 18
    assert len(backend.encoded) == 1  # however often it is prefilled


def test_images_that_are_missing_leave_their_slots_empty() -> None:
    backend = BrightnessModel()
    gaps = {'front': [None, image(1), image(2)], 'right': [None] * 3, 'left': [image(20), None, image(22)]}
    encoded = EncodedScene.encode(scene(images=gaps), backend)
    assert backend.encoded == [[20, 1, 2, 22]]
    assert [view.slots for view in encoded.views] == [(1, 2), (), (0, 2)]
    assert encoded.history == 3
    context = encoded.prefill(PruningConfig('st_prune', 0.5), backend, BrightnessPrompt())
    assert context.state.images == [1, 2, 20, 22]


def test_views_know_calibration_and_the_motion_between_their_frames() -> None:
    states = [EgoState(n * 10**9, None, None, (0.3 * (n + 1), 0.0, 0.0), (0.0, 0.0, 0.1 * n)) for n in range(3)]
    gaps = {'front': [image(0), None, image(2)], 'right': [image(10)] * 3, 'left': [image(20)] * 3}
    encoded = EncodedScene.encode(scene(images=gaps, egos=states), BrightnessModel())
    front, right, _ = encoded.views
    for view, egos in ((front, [states[0], states[2]]), (right, states)):
        expected = static_flow(RIG.cameras[view.name], 2, 4, egos).astype(np.float32)
        assert np.array_equal(view.flow, expected, equal_nan=True)
    assert encoded.ego == states[2]
    assert front.shared is not None
    assert [part.tolist() for part in front.shared] == [
        RIG.shared('front', name, 4).tolist() for name in ('left', 'right')
    ]


def seconds() -> list[EgoState | None]:
    """Ego states one second apart; side cameras that take turns within two have them at seconds 0, 1, 0, 1."""
    return [EgoState(n * 10**9, None, None, (5.0, 0.0, 0.0), (0.0, 0.0, 0.0)) for n in range(4, 7)]


def test_side_cameras_that_take_turns_show_what_the_node_would_show() -> None:
    backend = BrightnessModel()
    encoded = EncodedScene.encode(scene(egos=seconds()), backend, Encoding(refresh_ns=2 * 10**9))
    assert backend.encoded == [[0, 10, 20, 1, 21, 2, 12]]
    assert [view.slots for view in encoded.views] == [(0, 1, 2), (0, 2), (0, 1)]
    with pytest.raises(StpruneError, match='scene 7: views cannot take turns where no time of the images is known'):
        EncodedScene.encode(scene(egos=[None, *seconds()[1:]]), backend, Encoding(refresh_ns=2 * 10**9))


def test_side_cameras_have_fewer_pixels_where_that_is_asked() -> None:
    backend = BrightnessModel()
    encoded = EncodedScene.encode(scene(egos=seconds()), backend, Encoding(few_pixels=True))
    assert backend.encoded == [[0, 1, 2], [10, 20, 11, 21, 12, 22]]
    assert [view.tokens.shape for view in encoded.views] == [(3, 2, 4, 4), (3, 1, 4, 4), (3, 1, 4, 4)]
    context = encoded.prefill(PruningConfig('none', 1.0), backend, BrightnessPrompt())
    assert context.state.images == [0, 1, 2, 10, 11, 12, 20, 21, 22]
    both = EncodedScene.encode(scene(egos=seconds()), backend, Encoding(2 * 10**9, True))
    assert [len(view.tokens) for view in both.views] == [3, 2, 2]


def test_trials_that_encode_less_are_graded_beside_the_others() -> None:
    class Timed(TwoScenes):
        def cases(self, scene_id: int) -> list[Case]:
            shown = scene(id=scene_id, egos=seconds())
            return [Case(shown, 'how bright?', ('21', '22'), '22', 'perception', 'how bright?')]

    values = {'cameras.refresh_ms': 2000.0, 'cameras.stale_after_ms': 2000.0, 'model.side_image_pixels': 512}
    graded = evaluator(EvaluationPlan(('uniform', 'uniform+refresh', 'uniform+side'), (0.5,), seeds=1))
    graded.source, graded.settings = Timed(), Settings.from_values(values)
    [result] = graded.evaluate(7)
    # The brightest image, 22, is that of the left camera, whose turn it is not.
    assert result.correct[Trial('uniform', 0.5, 0)] == result.correct[Trial('uniform+side', 0.5, 0)] == [True]
    assert result.correct[Trial('uniform+refresh', 0.5, 0)] == [False]
    assert result.tokens == 72  # of the whole scene


def test_the_most_likely_candidate_is_the_answer() -> None:
    backend = BrightnessModel()
    context = Context(0, 0, Prefilled([3, 128], [8, 8]))
    cases = [case(scene()), Case(scene(), '?', ('128', '3'), '3', 'motion')]
    assert choose_answers(backend, context, cases) == ['128', '128']


def test_cases_are_grouped_by_the_scene_they_share() -> None:
    one, two = scene(), scene()
    cases = [case(one), case(one), case(two)]
    assert [(shown is one, len(group)) for shown, group in by_scene(cases)] == [(True, 2), (False, 1)]


@dataclass(frozen=True)
class TwoScenes:
    """A data set that is not ringworld: three questions and a text about a scene, one more with frozen cameras."""

    scene_ids: tuple[int, ...] = (7, 8)
    world: str = 'bright'

    def cases(self, scene_id: int) -> list[Case]:
        shown = scene(id=scene_id)
        frozen = shown.with_frozen_cameras()
        text = Case(shown, 'describe.', (), 'clear ahead.', DESCRIPTION)
        return [case(shown), case(shown, '0', 'motion'), text, case(shown, '128'), case(frozen)]


def evaluator(plan: EvaluationPlan) -> SceneEvaluator:
    made = SceneEvaluator.__new__(SceneEvaluator)
    made.source, made.plan, made.settings = TwoScenes(), plan, Settings()
    made.backend, made.prompt = BrightnessModel(), BrightnessPrompt()  # type: ignore[assignment]
    return made


def test_every_trial_of_a_scene_is_graded() -> None:
    plan = EvaluationPlan(('uniform', 'random'), (1.0, 0.5, 0.1), seeds=2)
    whole, frozen = evaluator(plan).evaluate(7)
    assert whole.questions == [
        Asked(7, 'perception', 'how bright?', 'ego driving'),
        Asked(7, 'motion', 'how bright?', 'ego driving'),
        Asked(7, 'perception', 'how bright?', 'ego driving'),
    ]
    assert whole.questions[1].labels == ('all', 'motion', 'ego driving')
    assert whole.tokens == frozen.tokens == 72
    right = [True, False, False]
    expected = dict.fromkeys(plan.trials(), right)
    assert whole.correct == {**expected, BLIND_TRIAL: [False, False, True]}  # grey is 128
    assert len(expected) == 1 + 2 + 4
    assert [question.labels for question in frozen.questions] == [(FROZEN_CAMERAS,)]
    tenths = [Trial('uniform', 0.1, 0), Trial('random', 0.1, 0), Trial('random', 0.1, 1)]
    assert list(frozen.correct) == [FULL_TRIAL, *tenths]
    assert (whole.scene_id, frozen.scene_id) == (7, 7)


def test_what_was_asked_before_is_not_asked_again() -> None:
    """Neither is anything encoded for it: grey images are there for guessing alone."""
    plan = EvaluationPlan(('uniform', 'random'), (0.5, 0.1), seeds=1)
    first, more = evaluator(plan), [Trial('random', 0.5, 0), Trial('random', 0.1, 0)]
    first.evaluate(7)
    again = evaluator(replace(plan, ran=frozenset({FULL_TRIAL, BLIND_TRIAL, *plan.trials()} - {*more})))
    whole, frozen = again.evaluate(7)
    assert (list(whole.correct), list(frozen.correct)) == (more, more[1:])
    assert len(again.backend.encoded) == len(first.backend.encoded) - 1 == 2  # type: ignore[attr-defined]


def test_what_keeps_a_whole_frame_is_not_asked_below_that() -> None:
    """Of three frames a third holds one: EVS and DTD are undefined for less."""
    plan = EvaluationPlan(('evs', 'dtd', 'uniform'), (0.34, 0.33, 0.1), seeds=1)
    whole, frozen = evaluator(plan).evaluate(7)
    ran = {(trial.method, trial.keep) for trial, values in whole.correct.items() if not np.isnan(values).any()}
    assert ran == {
        ('none', 1.0),
        ('blind', 1.0),
        ('evs', 0.34),
        ('dtd', 0.34),
        *(('uniform', k) for k in (0.34, 0.33, 0.1)),
    }
    assert np.isnan(whole.correct[Trial('evs', 0.33, 0)]).all()
    asked = [trial.method for trial, values in frozen.correct.items() if not np.isnan(values).any()]
    assert asked == ['none', 'uniform']


def test_lots_are_drawn_anew_per_scene_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []
    variant_of = fidelity.variant_of

    def spy(method: str, keep: float, seed: int, settings: Settings) -> Variant:
        seeds.append((method, seed))
        return variant_of(method, keep, seed, settings)

    monkeypatch.setattr(fidelity, 'variant_of', spy)
    evaluator(EvaluationPlan(('random',), (0.5,), seeds=2)).evaluate(8)
    assert {seed for method, seed in seeds if method == 'random'} == {8, 1_000_003 + 8}


def test_a_model_is_scored_by_kind_and_form() -> None:
    backend = BrightnessModel()

    class Source(TwoScenes):
        def cases(self, scene_id: int) -> list[Case]:
            shown = scene(id=scene_id)
            text = Case(shown, 'describe.', (), 'clear ahead. front: 22, 3. left: 4.', DESCRIPTION, 'describe.')
            return [case(shown), case(shown, '0'), case(shown, '22', 'motion'), text]

    configs = {'all': PruningConfig('none', 1.0), 'half': PruningConfig('uniform', 0.5)}
    table = evaluate_model(backend, BrightnessPrompt(), Source(), configs, blind=True)  # type: ignore[arg-type]
    assert set(table) == {'all', 'half', 'blind'}
    assert table['all'] == table['half']
    assert table['all']['perception'] == {'accuracy': 0.5, 'n': 4}
    assert table['all']['motion'] == {'accuracy': 1.0, 'n': 2}
    assert table['all']['how bright?'] == {'accuracy': 0.667, 'n': 6, 'majority': 0.667}
    assert table['all']['description'] == {'precision': 1.0, 'recall': 0.5, 'n': 8}
    assert table['blind']['perception']['accuracy'] == 0.0
    assert 'description' not in table['blind']
    assert len(backend.encoded) == 4  # two scenes, once as they are and once grey
    silent = evaluate_model(backend, BrightnessPrompt(), Source(), configs, max_new_tokens=0)  # type: ignore[arg-type]
    assert set(silent) == {'all', 'half'}
    assert 'description' not in silent['all']


def test_precision_counts_what_was_said_and_recall_what_should_be() -> None:
    score = Score()
    text = Case(scene(), 'describe.', (), 'stop for car. front: red car.', DESCRIPTION)
    score.add_description(text, 'stop for car. front: red car, pedestrian. left: blue car.')
    assert score.summary() == {'description': {'precision': 0.5, 'recall': 1.0, 'n': 2}}


def test_claims_of_a_description() -> None:
    text = 'stop for red light. front: red light, blue car. front left: pedestrian.'
    assert claims(text) == {'stop for red light', 'front: red light', 'front: blue car', 'front left: pedestrian'}
    assert claims('') == set()


def test_figures_by_kind_only() -> None:
    figures = {'accuracy': 1.0}
    table = {HINT_QUESTION: figures, 'motion': figures, 'how many cars are?': figures, 'description': {'n': 2}}
    assert by_kind_only({'scenes': 5, 'keep 1': table}) == {
        'scenes': 5,
        'keep 1': {'hint': figures, 'motion': figures, 'description': {'n': 2}},
    }


@pytest.mark.parametrize(
    ('text', 'form'),
    [
        ('what colour is the nearest car in front left?', 'what colour is the nearest car?'),
        ('how many cars are in back?', 'how many cars are?'),
        ('which view shows a yellow car?', 'which view shows the car?'),
        ('is it one car between left and front left?', 'is it one car'),
        ('what is the reason to slow down or stop?', 'what is the reason to slow down or stop?'),
    ],
)
def test_a_form_leaves_out_views_and_colours(text: str, form: str) -> None:
    assert question_form(text) == form


def test_ringworld_yields_questions_and_frozen_cameras() -> None:
    source = pickle.loads(pickle.dumps(RingworldCases(2, UNTOUCHED)))
    assert list(source.scene_ids) == [UNTOUCHED, UNTOUCHED + 1]
    cases = source.cases(UNTOUCHED)
    (whole, asked), (frozen, still) = by_scene(cases)
    assert (whole.condition, frozen.condition) == ('', FROZEN_CAMERAS)
    assert len(asked) == len(still) == 10
    assert not any(item.kind == 'motion' for item in still)
    made = make_scene(UNTOUCHED)
    rng = np.random.default_rng([UNTOUCHED, 5])
    drawn = [questions_about(made.truths[-1], rng, 10), questions_about(made.truths[-1], rng, 10, motion=False)]
    assert [[(c.question, c.answer, c.candidates, c.kind) for c in group] for group in (asked, still)] == [
        [(q.text, q.answer, q.candidates, q.kind) for q in group] for group in drawn
    ]


def test_ringworld_scenes_as_case_scenes() -> None:
    made = make_scene(HELD_OUT + 1)
    shown = case_scene(made)
    assert shown.id == made.seed
    assert shown.rig.ring == tuple(camera.name for camera in RING)
    for view, name in enumerate(shown.rig.ring):
        assert all((shown.images[name][t] == made.images[t, view]).all() for t in range(4))
    for state, truth in zip(shown.egos, made.truths, strict=True):
        assert state is not None
        assert (state.speed, state.angular[2]) == (truth.speed, truth.yaw_rate)
        assert state.stamp_ns == round(truth.t * 1e9)
    for name in shown.rig.ring:
        found, drawn = ringworld_rig().cameras[name], next(camera for camera in RING if camera.name == name)
        assert (found.k == drawn.k).all() and (found.rotation == drawn.rotation).all()


def test_methods_of_the_model_card() -> None:
    """All tokens come once; every method gets the smaller shares."""
    configs = pruning_configs(['st_prune', 'random'], [1.0, 0.25, 0.1])
    assert {name: (config.method, config.keep_ratio) for name, config in configs.items()} == {
        'keep 1': ('st_prune', 1.0),
        'keep 0.25': ('st_prune', 0.25),
        'keep 0.1': ('st_prune', 0.1),
        'random, keep 0.25': ('random', 0.25),
        'random, keep 0.1': ('random', 0.1),
    }


def test_cases_of_the_model_card() -> None:
    cases = ModelCardCases(1).cases(HELD_OUT + 2)
    truth = make_scene(HELD_OUT + 2).truths[-1]
    assert list(ModelCardCases(1).scene_ids) == [HELD_OUT]
    assert len({id(item.scene) for item in cases}) == 1
    assert (cases[0].question, cases[0].kind) == (HINT_QUESTION, 'planning')
    names = {Behavior.NONE: 'none', Behavior.SLOW_DOWN: 'slow down', Behavior.STOP: 'stop'}
    assert cases[0].answer == names[truth.behavior]
    assert (cases[-1].candidates, cases[-1].answer, cases[-1].kind) == ((), describe(truth), DESCRIPTION)
    drawn = questions_about(truth, np.random.default_rng([HELD_OUT + 2, 6]), ringworld_cases.CARD_QUESTIONS_PER_SCENE)
    assert [item.question for item in cases[1:-1]] == [question.text for question in drawn]
