"""How well methods tell things from background: areas under curves, and the truth that they are held against."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from helpers.bright_scenes import RIG, BrightnessModel, case, scene
from hypothesis import given
from hypothesis import strategies as st

from stprune_ros.arguments import with_host
from stprune_ros.errors import SettingsError
from stprune_ros.evaluation import things
from stprune_ros.evaluation.case import Case
from stprune_ros.evaluation.exam import EncodedScene
from stprune_ros.evaluation.ringworld_cases import HARD, RINGWORLD, RingworldCases
from stprune_ros.evaluation.things import BACKGROUND, LADDER, THING, UNSEEN, detector_area, keep_area, measure_things
from stprune_ros.pruning.config import PruningConfig
from stprune_ros.resources import resource_path
from stprune_ros.settings.settings import Settings

TRUTH = {  # of cells of 1 x 2: a thing on the left of the front view, one that is hidden on the right of the left view
    'front': np.array([[THING, BACKGROUND]], np.int8),
    'right': np.array([[BACKGROUND, BACKGROUND]], np.int8),
    'left': np.array([[BACKGROUND, UNSEEN]], np.int8),
}


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.lists(st.integers(0, 4), min_size=1, max_size=9),
    st.integers(0, 3),
)
def test_the_area_is_the_chance_that_a_thing_is_above(here: list[int], there: list[int], hidden: int) -> None:
    wins = np.mean([(a > b) + (a == b) / 2 for a in here for b in there])
    truth = np.array([THING] * len(here) + [BACKGROUND] * len(there) + [UNSEEN] * hidden)
    assert detector_area(np.array([*here, *there, *[9] * hidden], float), truth) == pytest.approx(wins)


def test_without_things_there_is_no_area() -> None:
    assert np.isnan(detector_area(np.arange(3.0), np.zeros(3)))
    assert np.isnan(detector_area(np.arange(3.0), np.ones(3)))


def test_truth_is_brought_onto_the_grid_of_the_tokens() -> None:
    """Tokens are 2 x 4 in each view, the truth 1 x 2."""
    shown = scene(things=TRUTH)
    found = things.things_of(shown, EncodedScene.encode(shown, BrightnessModel()).views)
    front, right, left = found.reshape(3, 2, 4).tolist()
    assert front == [[1, 1, 0, 0]] * 2
    assert right == [[0, 0, 0, 0]] * 2
    assert left == [[0, 0, -1, -1]] * 2


def keeping(monkeypatch: pytest.MonkeyPatch, order: np.ndarray) -> None:
    """Every method keeps tokens of the newest frame by ``order`` (24,), of three views; none of older frames."""

    def masks(self: EncodedScene, config: PruningConfig, options: dict) -> list:  # type: ignore[type-arg]
        import torch

        newest = torch.zeros(24, dtype=torch.bool)
        newest[order[: round(24 * config.keep_ratio)].tolist()] = True
        older = torch.zeros((2, 2, 4), dtype=torch.bool)
        return [torch.cat([older, part.reshape(1, 2, 4)]) for part in newest.reshape(3, 8)]

    monkeypatch.setattr(EncodedScene, 'keep_masks', masks)


def test_the_curve_of_a_method_goes_through_its_keep_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = scene(things=TRUTH)
    encoded = EncodedScene.encode(shown, BrightnessModel())
    truth = things.things_of(shown, encoded.views)
    first = np.argsort(-truth, kind='stable')  # things, background, hidden ones
    keeping(monkeypatch, first)
    assert keep_area('uniform', encoded, truth, shown, Settings()) > 0.96
    keeping(monkeypatch, first[::-1])
    assert keep_area('uniform', encoded, truth, shown, Settings()) < 0.5
    keeping(monkeypatch, np.array([0, 8, 9, 10, 11, 1, *range(12, 24), *range(2, 8)]))
    # Kept are 0, 1, 2, 6, 12 of 24: of 4 things 0, 1, 1, 2, 2, of 16 of background 0, 0, 1, 4, 10.
    hits, alarms = (np.array(x) for x in ([0, 0, 0.25, 0.25, 0.5, 0.5, 1], [0, 0, 0, 1 / 16, 0.25, 10 / 16, 1]))
    truth = np.where(np.isin(np.arange(24), [0, 1, 4, 5]), 1, np.where(np.isin(np.arange(24), [18, 19, 22, 23]), -1, 0))
    expected = float(np.sum(np.diff(alarms) * (hits[1:] + hits[:-1]) / 2))
    assert keep_area('uniform', encoded, truth, shown, Settings()) == pytest.approx(expected)


def test_ratios_at_which_a_method_is_undefined_are_no_point_of_its_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, asked = scene(things=TRUTH), []
    encoded = EncodedScene.encode(shown, BrightnessModel())
    truth = things.things_of(shown, encoded.views)
    whole = EncodedScene.keep_masks

    def spy(self: EncodedScene, config: PruningConfig, options: dict) -> list:  # type: ignore[type-arg]
        asked.append((config.method, config.keep_ratio, config.seed))
        return whole(self, config, options)

    monkeypatch.setattr(EncodedScene, 'keep_masks', spy)
    for method in ('evs', 'random'):
        keep_area(method, encoded, truth, shown, Settings())
    assert [keep for method, keep, _ in asked if method == 'evs'] == [0.5]  # of three frames
    assert [(keep, seed) for method, keep, seed in asked if method == 'random'] == [(keep, 7) for keep in LADDER]


@dataclass(frozen=True)
class Source:
    """Scene 7 has known things, scene 8 has not, scene 9 has none."""

    world: str = 'bright'
    scene_ids: tuple[int, ...] = (7, 8, 9)

    def cases(self, scene_id: int) -> list[Case]:
        nothing = {name: np.zeros((1, 2), np.int8) for name in RIG.ring}
        known = {7: TRUTH, 8: None, 9: nothing}[scene_id]
        return [case(replace(scene(), id=scene_id, things=known))]


def test_areas_are_means_over_scenes_where_they_are_defined() -> None:
    found = measure_things(Source(), (7, 8, 9), ('uniform', 'dtd'), BrightnessModel(), Settings())  # type: ignore[arg-type]
    assert found['scenes'] == 2
    assert list(found['auc']) == ['commonness', 'uniform', 'dtd']
    alone = measure_things(Source(), (7,), ('uniform', 'dtd'), BrightnessModel(), Settings())  # type: ignore[arg-type]
    assert found['auc'] == alone['auc']
    assert 0.0 <= found['auc']['uniform'] <= 1.0
    nobody = measure_things(Source(), (8,), ('uniform',), BrightnessModel(), Settings())  # type: ignore[arg-type]
    assert nobody == {'scenes': 0, 'separability': None, 'auc': {'commonness': None, 'uniform': None}}


def test_scenes_of_ringworld_know_their_things() -> None:
    for world in (RINGWORLD, HARD):
        source = RingworldCases(1, 1_010_002, world)
        [shown] = {id(c.scene): c.scene for c in source.cases(1_010_002) if not c.scene.condition}.values()
        assert shown.things is not None
        marks = np.stack([shown.things[name] for name in shown.rig.ring])
        assert marks.shape == (6, 6, 10)
        assert set(np.unique(marks)) <= {-1, 0, 1}
        assert 0.01 < (marks == 1).mean() < 0.5
    easy, hard = (RingworldCases(1, 1_010_002, world).cases(1_010_002)[0].scene for world in (RINGWORLD, HARD))
    assert (easy.images['CAM_FRONT'][-1] != hard.images['CAM_FRONT'][-1]).any()


def test_a_host_is_a_folder_or_a_bundled_model(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert with_host(Settings(), None).model.path == ''
    assert with_host(Settings(), 'ringworld').model.path == str(resource_path('models/ringworld'))
    assert with_host(Settings(), str(tmp_path)).model.path == str(tmp_path)
    assert with_host(Settings(), 'some/model').model.path == 'some/model'  # loading says whether the hub's is here
    for wrong in ('nosuch', '/no/such/model', '', 'a/b/c'):
        with pytest.raises(SettingsError) as error:
            with_host(Settings(), wrong)
        assert str(error.value) == (
            f"--host '{wrong}' is neither a folder nor a bundled model; choose one of ringworld, ringworld_internvl,"
            ' ringworld_neutral'
        )
    (tmp_path / 'ringworld').mkdir()
    monkeypatch.chdir(tmp_path)
    assert with_host(Settings(), 'ringworld').model.path == 'ringworld'  # a folder here comes first
