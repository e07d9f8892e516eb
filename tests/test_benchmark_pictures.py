"""The picture benchmark's own arithmetic, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.picture_settings import PictureDetectorSettings, PictureReferenceSettings
from tests.benchmarks.pictures.drive import Driver
from tests.benchmarks.pictures.kept import Kept
from tests.benchmarks.pictures.measures import augmented, auroc, enlarged, kept_promise, lit
from tests.benchmarks.pictures.pasted import KINDS, pasted
from tests.benchmarks.pictures.sets import SIDE


def test_auroc_is_the_share_of_pairs_in_order():
    assert auroc(np.array([1.0, 2.0, 3.0]), np.array([2.5, 9.0])) == pytest.approx(5 / 6)
    assert auroc(np.array([1.0, 1.0]), np.array([1.0])) == 0.5
    assert auroc(np.array([5.0]), np.array([1.0])) == 0.0


def test_a_map_is_enlarged_between_the_centres_of_its_cells():
    large = enlarged(np.array([[0.0, 1.0], [2.0, 3.0]], np.float32), 4)
    assert large[0, 0] == 0.0
    assert large[3, 3] == 3.0
    assert large[1, 1] == pytest.approx(0.75)
    assert np.allclose(enlarged(np.ones((7, 7), np.float32), 56), 1.0)


def test_an_augmented_picture_is_another_one_of_the_same_kind():
    rng = np.random.default_rng(0)
    picture = rng.integers(60, 200, (32, 32, 3)).astype(np.uint8)
    made = augmented(picture, rng, flips=False)
    assert made.shape == picture.shape
    assert made.dtype == np.uint8
    assert (made != picture).any()
    assert made.mean() == pytest.approx(picture.mean(), rel=0.07)


def test_a_day_begins_and_ends_in_the_same_light():
    picture = np.full((4, 4, 3), 200, np.uint8)
    assert (lit(picture, 0.0) == 200).all()
    assert (lit(picture, 0.5) == 100).all()
    assert lit(picture, 0.25)[0, 0].tolist() == [165, 150, 135]


def test_a_promise_is_kept_where_as_many_normal_ones_alarm_as_were_promised():
    normal = np.concatenate([np.zeros(990), np.full(10, 2.5)])
    odd, late = np.array([3.0, 1.0, 2.2, 0.0]), np.array([0.0, 0.0, 1.0, 1.0])
    found = kept_promise(normal, odd, late, 0.01)
    assert found["alarms"] == found["promised"] == 10
    assert (found["recall"], found["cold"], found["later"]) == (0.5, 0.5, 0.5)
    assert found["ideal"] == 0.75


@pytest.mark.parametrize("kind", KINDS)
def test_a_pasted_defect_changes_what_its_mask_says(kind):
    rng = np.random.default_rng(3)
    picture, other = rng.integers(60, 200, (2, SIDE, SIDE, 3)).astype(np.uint8)
    made, mask = pasted(kind, picture, other, rng)
    assert (made.shape, made.dtype) == (picture.shape, np.uint8)
    changed = np.abs(made.astype(int) - picture).max(axis=2)
    assert 10 < mask.sum() < 0.45 * SIDE * SIDE
    assert changed[mask].mean() > 5 * changed[~mask].mean()


class Mixing:
    """An encoder of pictures 6 x 6: means of blocks, mixed by chance."""

    output_shapes = ((3, 3, 8),)
    runtime, digest = "numpy", "0123456789abcdef"
    _mix = np.random.default_rng(4).normal(0, 1, (3, 8)).astype(np.float32)

    def run(self, pictures):
        return [pictures.astype(np.float32).reshape(-1, 3, 2, 3, 2, 3).mean(axis=(2, 4)) @ self._mix]


def test_a_look_finds_what_the_detector_would_have_found():
    rng = np.random.default_rng(5)
    driver = Driver(Mixing(), PictureDetectorSettings(reference=PictureReferenceSettings(size=120, warm_up=110)))
    for picture in rng.integers(0, 256, (118, 6, 6, 3)).astype(np.uint8):
        outputs = driver.encode(picture)
        looked = driver.look(outputs) if len(driver.seconds) >= 115 else None
        found = driver.push(picture, outputs)
        if looked is not None:
            assert looked == pytest.approx((found.patch_score, found.pool_score, found.score))
    assert looked is not None


def test_maps_are_kept_for_the_next_time(tmp_path):
    made = [[np.full((3, 3, 8), value, np.float32)] for value in (1, 2)]
    first = Kept(tmp_path, "a run", Mixing(), 2)
    assert not first.known
    assert first.maps(0) is None
    for number, maps in enumerate(made):
        first.note(number, maps)
    first.save()
    again = Kept(tmp_path, "a run", Mixing(), 2)
    assert again.known
    assert np.array_equal(again.maps(1), made[1])
    nowhere = Kept(None, "a run", Mixing(), 2)
    nowhere.note(0, made[0])
    nowhere.save()
    assert nowhere.maps(0) is None
    assert len(list(tmp_path.iterdir())) == 1
