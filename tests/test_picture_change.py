"""A live stream of pictures while its encoder is replaced: no picture is left out, nothing missed, nothing false."""

from __future__ import annotations

import errno
from contextlib import closing
from datetime import datetime

import numpy as np
import pytest

from agent.adapters.store import Store
from agent.adapters.telemetry import Telemetry
from agent.adapters.tflite import load_picture_encoder
from agent.app import with_defaults
from agent.bundle import load_bundle
from agent.carry_over import SHADOW_DECISIONS
from agent.config import load_configuration
from agent.core.bank import TooFewLeftError
from agent.core.types import StreamPhase
from agent.disk import Disk
from agent.saving import Saver, pictures_due, save, save_all, tidy_pictures
from tests.eye_versions import eye
from tests.scenes import lorry
from tests.test_picture_stream import BEGUN, TOPIC, WARM_UP, Camera, told

NAME = "efficientnet-lite0"
LEARNT, CHANGED = 80, 105
DAY_S = 86400.0
READY = CHANGED + WARM_UP + SHADOW_DECISIONS  # when the heir could take over, if all is calm
KEEP = "    keep: {pictures: 100}"
KEPT_READY = CHANGED + SHADOW_DECISIONS  # where it learns from pictures that were kept
DISTURBED = [100, 130, 180, KEPT_READY - 1, READY - 1, 300, 320]


@pytest.fixture(scope="module")
def versions():
    """Return two encoders that have nothing in common but the size of their pictures, loaded."""
    return [load_picture_encoder(load_bundle(eye(name))) for name in ("first", "second")]


@pytest.fixture
def make(tmp_path, versions):
    def make(more="", learnt=LEARNT, **options):
        camera = Camera(tmp_path, more, encoders={NAME: versions[0]}, **options)
        assert Played(camera, range(learnt)).alerts == []
        return camera

    return make


class Played:
    """What a camera saw in a span of seconds, disturbed at some of them, with `changes` at others.

    An operator confirms each alert, but not while an heir is there: that would begin its time in shadow anew.
    """

    def __init__(self, camera, span, changes=None, disturbed=()):
        self.outcomes, self.switched = [], {}
        for second in span:
            if changes and second in changes:
                changes[second]()
            self.outcomes += camera.see([second], lorry if second in disturbed else None)
            for alert in told(self.outcomes[-1:]):
                if alert["event"] == "raised" and camera.stream.heir is None:
                    camera.stream.confirm(alert["id"])
            self.switched |= dict.fromkeys(advanced(camera), second)
        self.alerts = told(self.outcomes)
        self.raised = [alert for alert in self.alerts if alert["event"] == "raised"]
        self.decided = [one.assessment.at for outcome in self.outcomes for one in outcome.decided]


def advanced(camera):
    """Do all that there is to do; return the names of the streams that were switched."""
    names, busy = [], True
    while busy:
        switched, busy = camera.pipeline.advance()
        names += [stream.name for stream in switched]
    return names


def second_of(alert):
    """Return the picture that an alert began with, counted from the first one."""
    return round(datetime.fromisoformat(alert["started_at"]).timestamp() - BEGUN) - 1


@pytest.mark.parametrize(("more", "ready"), [("", READY), (KEEP, KEPT_READY)])
def test_no_disturbance_is_missed_no_alarm_is_false_and_no_picture_is_left_out(make, versions, more, ready):
    camera = make(more)
    change = {CHANGED: lambda: camera.pipeline.change_encoder(NAME, versions[1])}
    played = Played(camera, range(LEARNT, 340), change, DISTURBED)
    assert [second_of(alert) for alert in played.raised] == DISTURBED
    assert played.decided == [BEGUN + 1 + second for second in range(LEARNT, 340)]
    switched = played.switched["gate/yard"]
    assert ready < switched < ready + 50  # not while it was not calm
    for alert in played.alerts:
        version = versions[0] if second_of(alert) < switched else versions[1]
        assert alert["encoder"]["digest"] == version.digest[:12]
    ids = [alert["id"] for alert in played.alerts]
    assert all(ids.count(one) == 2 for one in ids)  # each is raised, and cleared under the same id
    assert (camera.stream.encoder, camera.stream.heir, camera.pipeline.carry_over.left) == (versions[1], None, 0)
    assert camera.pipeline.room.twice == 0
    assert camera.stream.budget.decisions == 340 - WARM_UP
    assert camera.stream.sight.heat() is not None


def test_what_the_stream_refused_is_not_learnt_by_its_heir(make, versions):
    camera = make()
    camera.pipeline.change_encoder(NAME, versions[1])
    odd = range(90, 98)
    Played(camera, range(LEARNT, LEARNT + WARM_UP + 20), disturbed=odd)
    (detector,) = camera.stream.heir.sight.detectors
    assert detector.phase is StreamPhase.ACTIVE
    assert not np.isin([BEGUN + 1 + second for second in odd], detector.memory.ring.times).any()


def test_what_has_seen_nothing_is_switched_at_once_and_what_learns_goes_on_learning(make, versions):
    camera = make(learnt=30)
    left = camera.stream.sight.learning_left
    camera.pipeline.change_encoder(NAME, versions[1])
    played = Played(camera, range(30, 60))
    assert (played.switched, len(played.decided)) == ({}, 30 - left)
    camera.stream.relearn()
    assert advanced(camera) == ["gate/yard"]
    assert (camera.stream.encoder, camera.stream.heir) == (versions[1], None)


def test_a_frozen_stream_keeps_its_version_unless_it_still_learns(make, versions, caplog):
    camera = make("    mode: frozen")
    camera.pipeline.change_encoder(NAME, versions[1])
    assert advanced(camera) == []
    assert (camera.stream.encoder, camera.stream.heir, camera.pipeline.carry_over.left) == (versions[0], None, 0)
    assert "too few of the pictures that it learnt from are at hand" in caplog.text
    camera = make("    mode: frozen", learnt=20)
    camera.pipeline.change_encoder(NAME, versions[1])
    assert advanced(camera) == ["gate/yard"]
    assert camera.stream.sight.learning_left == WARM_UP


@pytest.fixture
def shadowed(make, versions):
    """Return a camera whose stream has an heir that has learnt."""
    camera = make()
    camera.pipeline.change_encoder(NAME, versions[1])
    Played(camera, range(LEARNT, LEARNT + WARM_UP + 20))
    assert camera.stream.heir.sight.learnt
    return camera


def raised_by(camera, second, more=5):
    """Disturb a picture; return the alert."""
    (alert,) = Played(camera, range(second, second + more), disturbed=[second]).raised
    return alert["id"]


def accepted(sight):
    """Return how many pictures are among the references because an operator accepted them."""
    return np.count_nonzero(sight.detectors[0].memory.ring.marks[: sight.reference_fill])


def test_an_alert_that_was_raised_before_the_switch_is_accepted_and_forgotten_after_it(shadowed, versions):
    alert = raised_by(shadowed, 150)
    assert "gate/yard" in Played(shadowed, range(155, 300)).switched
    stream = shadowed.stream
    assert (stream.encoder, stream.holds(alert)) == (versions[1], True)
    assert (stream.accept(alert), accepted(stream.sight)) == (1, 1)
    assert (stream.forget_alert(alert), accepted(stream.sight)) == (1, 0)


def test_what_an_operator_commands_meanwhile_holds_for_the_heir_too(shadowed):
    alert = raised_by(shadowed, 150)
    stream, heir = shadowed.stream, shadowed.stream.heir
    assert heir.decisions > 20
    assert stream.accept(alert) == 1
    assert (heir.sight.has_accepted(alert), accepted(heir.sight), heir.decisions) == (True, 1, 0)
    assert "gate/yard" in Played(shadowed, range(155, 300)).switched
    assert stream.sight is heir.sight


def test_what_is_forgotten_meanwhile_is_forgotten_by_the_heir_too(shadowed):
    alert = raised_by(shadowed, 150)
    stream, heir = shadowed.stream, shadowed.stream.heir
    stream.accept(alert)
    stream.confirm(alert)
    assert stream.forget_alert(alert) == 1
    assert not heir.sight.has_accepted(alert)
    assert stream.forget_span(BEGUN + 140, BEGUN + 150) > 0
    times = heir.sight.detectors[0].memory.ring.times[: heir.sight.reference_fill]
    assert not ((times >= BEGUN + 140) & (times <= BEGUN + 150)).any()
    assert stream.heir is heir
    assert stream.forget_span(BEGUN + 90, BEGUN + 140) > 0  # too few would be left of what the heir knows
    assert stream.heir is None


def test_an_heir_that_learns_begins_anew_where_something_is_forgotten(make, versions):
    camera = make()
    alert = raised_by(camera, LEARNT)
    camera.pipeline.change_encoder(NAME, versions[1])
    Played(camera, range(90, 100))
    heir = camera.stream.heir
    camera.stream.accept(alert)
    assert camera.stream.heir is heir
    camera.stream.forget_alert(alert)
    assert camera.stream.heir is None
    Played(camera, [100])
    assert camera.stream.heir is not heir


def test_a_restart_in_the_middle_goes_on_with_the_heir(make, versions, tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        first = make()
        first.pipeline.change_encoder(NAME, versions[1])
        Played(first, range(LEARNT, 180))
        save_all(store, first.pipeline)
        found = store.load("gate/yard")
        second = Camera(tmp_path, encoders={NAME: versions[1]})
        second.now = first.now

        def restore(stream):
            second.pipeline.use(stream, versions[0])
            stream.restore(found["detector"], [])

        second.pipeline.restore = restore
        second.pipeline.stream_of(TOPIC)
        assert second.stream.snapshot()["heir"] is not None  # also before it is made
        advanced(second)
        played = [Played(camera, range(180, 300)) for camera in (first, second)]
        assert played[0].switched == played[1].switched != {}
        scores = [[one.assessment.score for o in each.outcomes for one in o.decided] for each in played]
        assert scores[0] == scores[1]


@pytest.mark.parametrize("killed", [125, 180])  # while the heir learns, and while it decides
def test_after_a_kill_in_the_middle_the_heir_goes_on_from_the_journal(make, versions, tmp_path, killed):
    with closing(Store(tmp_path / "state")) as store:
        first = make()
        first.pipeline.change_encoder(NAME, versions[1])
        Played(first, range(LEARNT, killed - 20))
        save_all(store, first.pipeline, whole=False)
        for begin in (killed - 20, killed - 10):
            Played(first, range(begin, begin + 10))
            save_all(store, first.pipeline, whole=False)
        found, added = store.load("gate/yard"), list(store.additions("gate/yard"))
        assert len(added) == 2
        second = Camera(tmp_path, encoders={NAME: versions[1]})
        second.now = first.now

        def restore(stream):
            second.pipeline.use(stream, versions[0])
            stream.restore(found["detector"], added)

        second.pipeline.restore = restore
        second.pipeline.stream_of(TOPIC)
        advanced(second)
        played = [Played(camera, range(killed, 290)) for camera in (first, second)]
        assert played[0].switched == played[1].switched != {}
        scores = [[one.assessment.score for o in each.outcomes for one in o.decided] for each in played]
        assert scores[0] == scores[1]


def test_an_heir_that_waits_for_its_encoder_stays_until_an_addition_says_that_it_went(make, versions, tmp_path):
    first = make()
    first.pipeline.change_encoder(NAME, versions[1])
    Played(first, range(LEARNT, 90))
    saved = first.stream.snapshot()

    def resumed(additions):
        camera = Camera(tmp_path, encoders={NAME: versions[0]})
        camera.pipeline.restore = lambda stream: stream.restore(saved, additions)
        camera.pipeline.stream_of(TOPIC)
        return camera.stream

    stream = resumed([])
    stream.saved()
    additions = [stream.addition()]
    assert resumed(additions).snapshot()["heir"] == stream.snapshot()["heir"] is not None
    stream.disown()
    additions.append(stream.addition())
    assert resumed(additions).snapshot()["heir"] is None


def test_an_heir_that_cannot_be_taken_up_again_begins_anew(make, versions, tmp_path, caplog):
    stream = make().stream
    saved = {**stream.snapshot(), "heir": {"signature": stream.signature_with(versions[1]), "tiles": [{}]}}
    camera = Camera(tmp_path, encoders={NAME: versions[0]})
    camera.pipeline.restore = lambda new: new.restore(saved, [])
    camera.pipeline.stream_of(TOPIC)
    camera.pipeline.change_encoder(NAME, versions[1])
    advanced(camera)
    assert camera.stream.heir.sight.learning_left == WARM_UP
    assert "stream gate/yard: what another version of its encoder has learnt so far is lost" in caplog.text


def test_a_reload_in_the_middle_keeps_what_was_learnt_and_the_heir(shadowed, versions, tmp_path):
    path = tmp_path / "redshank.yaml"
    path.write_text(path.read_text().replace("cooldown: 0s", "cooldown: 1s"))
    decisions = shadowed.stream.heir.decisions
    after = with_defaults(load_configuration(path))
    done = shadowed.pipeline.reconfigure(after, shadowed.pipeline.encoders, shadowed.now)
    assert list(done.fates.values()) == ["changed"]
    advanced(shadowed)
    assert shadowed.stream.encoder is versions[0]
    assert shadowed.stream.heir.decisions == decisions
    assert "gate/yard" in Played(shadowed, range(150, 300)).switched


def test_back_to_the_version_before_lets_the_heir_go(shadowed, versions):
    shadowed.pipeline.change_encoder(NAME, versions[0])
    assert (shadowed.stream.heir, shadowed.pipeline.carry_over.left) == (None, 0)


class Coarse:
    """An encoder of half as many rows and columns."""

    shape, digest = (32, 32, 3), "coarse"

    def __init__(self, encoder):
        self._encoder = encoder

    def __getattr__(self, name):
        return getattr(self._encoder, name)

    def run(self, inputs):
        assert inputs.shape[1:] == self.shape
        return self._encoder.run(inputs.repeat(2, axis=1).repeat(2, axis=2))


def test_pictures_of_another_size_are_cut_anew_for_the_heir(make, versions):
    camera = make()
    camera.pipeline.change_encoder(NAME, Coarse(versions[1]))
    played = Played(camera, range(LEARNT, 280), disturbed=[140, 260])
    assert "gate/yard" in played.switched
    assert [second_of(alert) for alert in played.raised] == [140, 260]
    assert camera.stream.sight.seen.frames[0].pixels.shape == Coarse.shape
    assert camera.stream.sight.health[0].frozen_at > 0


class Broken(Coarse):
    shape, digest = (64, 64, 3), "broken"

    def run(self, inputs):
        raise RuntimeError(f"no such operator for {len(inputs)} pictures")


def test_an_encoder_that_fails_at_work_leaves_the_stream_as_it_is(make, versions, caplog):
    camera = make()
    camera.pipeline.change_encoder(NAME, Broken(versions[1]))
    assert len(Played(camera, range(LEARNT, 90)).decided) == 10
    assert (camera.stream.encoder, camera.stream.heir, camera.pipeline.carry_over.left) == (versions[0], None, 0)
    assert "no such operator" in caplog.text
    save = camera.stream.snapshot()
    assert save["heir"] is None


def test_pictures_that_the_heir_has_no_time_for_are_left_out(make, versions):
    camera = make()
    camera.pipeline.change_encoder(NAME, versions[1])
    advanced(camera)
    camera.see(range(LEARNT, LEARNT + 10))
    assert len(camera.stream.heir.waiting) == 4
    advanced(camera)
    assert camera.stream.heir.sight.reference_fill == 4


@pytest.mark.parametrize("tiles", ["", "\n    tiles: [2, 1]"])
def test_what_was_kept_is_learnt_again_with_its_marks_and_nothing_else(make, versions, tiles):
    camera = make(KEEP + tiles)
    accepted_one = raised_by(camera, 80)
    raised_by(camera, 85)
    refused = raised_by(camera, 90)
    stream = camera.stream
    entered = stream.accept(accepted_one)
    left_out = stream.forget_span(BEGUN + 60, BEGUN + 62)
    assert left_out == 3
    camera.pipeline.change_encoder(NAME, versions[1])
    steps = 0
    while camera.pipeline.advance()[1]:
        steps += 1
    assert steps > stream.reference_fill  # a little at a time
    heir = stream.heir
    assert heir.sight.learnt
    for mine, old in zip(heir.sight.detectors, stream.sight.detectors, strict=True):
        held, known = (set(one.memory.held()) for one in (mine, old))
        assert held <= known
        assert len(held) > 0.9 * len(known)
        assert {one for one in held if one[1]} == {one for one in known if one[1]}
        assert mine.quarantine.pictures().keys() == old.quarantine.pictures().keys()
    assert stream.forget_alert(accepted_one) == entered
    assert not heir.sight.has_accepted(accepted_one)
    assert heir.sight.holds(refused)
    assert stream.accept(refused) > 0
    assert heir.sight.has_accepted(refused)
    assert "gate/yard" in Played(camera, range(95, 230)).switched
    assert len(Played(camera, range(230, 240), disturbed=[235]).raised) == 1


def test_a_frozen_stream_is_carried_over_by_what_was_kept(make, versions):
    camera = make(KEEP + "\n    mode: frozen")
    camera.pipeline.change_encoder(NAME, versions[1])
    assert "gate/yard" in Played(camera, range(LEARNT, 200)).switched
    assert [second_of(one) for one in Played(camera, range(200, 220), disturbed=[210]).raised] == [210]


def test_what_an_operator_changes_while_the_heir_learns_begins_the_lessons_anew(make, versions):
    camera = make(KEEP)
    camera.pipeline.change_encoder(NAME, versions[1])
    for _ in range(20):
        camera.pipeline.advance()
    assert camera.stream.forget_span(BEGUN + 60, BEGUN + 62) == 3
    advanced(camera)
    times = {at for at, _ in camera.stream.heir.sight.detectors[0].memory.held()}
    assert not times & {BEGUN + 60.0, BEGUN + 61.0, BEGUN + 62.0}


def test_what_is_given_up_while_the_heir_learns_does_not_come_back_with_it(make, versions):
    camera = make(KEEP)
    camera.pipeline.change_encoder(NAME, versions[1])
    for _ in range(60):
        camera.pipeline.advance()
    camera.stream.relearn()
    camera.see([LEARNT])
    advanced(camera)
    assert [at for at, _ in camera.stream.heir.sight.detectors[0].memory.held()] == [BEGUN + 1 + LEARNT]


def test_what_comes_while_the_heir_learns_is_not_left_out(make, versions):
    camera = make(KEEP)
    camera.pipeline.change_encoder(NAME, versions[1])
    for second in range(LEARNT, LEARNT + 20):
        camera.see([second])
        for _ in range(3):
            camera.pipeline.advance()
    advanced(camera)
    assert BEGUN + 1 + LEARNT in dict(camera.stream.heir.sight.detectors[0].memory.held())


def test_a_picture_that_cannot_be_read_again_leaves_the_stream_as_it_is(make, versions, caplog):
    camera = make(KEEP)
    camera.stream.kept.restore([(BEGUN + 70, [b"no picture"])])
    camera.pipeline.change_encoder(NAME, versions[1])
    advanced(camera)
    assert (camera.stream.encoder, camera.stream.heir, camera.pipeline.carry_over.left) == (versions[0], None, 0)
    assert "keeps stream gate/yard with the version that it has" in caplog.text


def test_pictures_of_another_size_are_not_learnt_from_and_let_go_with_the_switch(make, versions):
    camera = make(KEEP)
    camera.pipeline.change_encoder(NAME, Coarse(versions[1]))
    advanced(camera)
    assert camera.stream.heir.sight.reference_fill == 0
    played = Played(camera, range(LEARNT, 240))
    ((_, switched),) = played.switched.items()
    assert len(camera.stream.kept) == 239 - switched


def pictures_in(state):
    return list((state / "streams").glob("*.pictures*"))


def test_kept_pictures_are_there_after_a_restart(make, versions, tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        camera = make(KEEP, store=store)
        save_all(store, camera.pipeline)
        (file,) = pictures_in(store.directory)
        kept = camera.stream.kept.snapshot()
        assert sum(len(one) for _, (one,) in kept) < file.stat().st_size < 1.1 * camera.stream.kept.bytes
        again = Camera(tmp_path, KEEP, store=store, encoders={NAME: versions[0]})
        again.pipeline.stream_of(TOPIC)
        assert again.stream.kept.snapshot() == kept
        again.pipeline.change_encoder(NAME, versions[1])
        advanced(again)
        assert again.stream.heir.sight.learnt


def test_kept_pictures_are_written_beside_a_journal_and_are_there_after_a_kill(make, versions, tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        camera = make(KEEP, store=store)
        newest = []
        for now in (0.0, 600.0, DAY_S):
            save_all(store, camera.pipeline, whole=False, now=now)
            newest.append(store.load_pictures("gate/yard")[-1][0])
            Played(camera, range(int(camera.now - BEGUN), int(camera.now - BEGUN) + 5))
        assert newest == [BEGUN + LEARNT, BEGUN + LEARNT, BEGUN + LEARNT + 10]  # seldom, for they are large
        assert len(list(store.additions("gate/yard"))) == 2
        again = Camera(tmp_path, KEEP, store=store, encoders={NAME: versions[0]})
        again.pipeline.stream_of(TOPIC)
        assert again.stream.kept.snapshot() == store.load_pictures("gate/yard")


def test_what_is_forgotten_is_gone_from_the_disk_with_the_next_snapshot(make, tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        camera = make(KEEP, store=store)
        save_all(store, camera.pipeline)
        assert camera.stream.forget_span(BEGUN + 60, BEGUN + 62) == 3
        save(store, camera.stream)
        times = [at for at, _ in store.load_pictures("gate/yard")]
        assert BEGUN + 63 in times
        assert not {BEGUN + 60, BEGUN + 61, BEGUN + 62} & set(times)
        camera.stream.relearn()
        save(store, camera.stream)
        assert store.load_pictures("gate/yard") == []


def test_commands_do_not_write_all_pictures_each_time(make, tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        camera = make(KEEP, store=store)
        save(store, camera.stream, 0.0)
        assert pictures_in(store.directory) == []
        save_all(store, camera.pipeline, whole=False, now=DAY_S)
        assert len(store.load_pictures("gate/yard")) == len(camera.stream.kept)


def test_pictures_are_written_a_little_at_a_time_and_not_if_some_are_to_be_gone_meanwhile(make, tmp_path, monkeypatch):
    monkeypatch.setattr("agent.adapters.store._PART_BYTES", 50_000)
    with closing(Store(tmp_path / "state")) as store:
        camera = make(KEEP, store=store)
        work = pictures_due(store, camera.stream, 0.0)
        steps = sum(1 for _ in work)
        assert steps >= camera.stream.kept.bytes // 60_000
        assert not camera.stream.kept.due(1.0)
        camera.see(range(LEARNT, LEARNT + 5))
        before = store.load_pictures("gate/yard")
        work = pictures_due(store, camera.stream, DAY_S, at_once=True)
        next(work)
        assert camera.stream.forget_span(BEGUN + 60, BEGUN + 62) == 3
        assert sum(1 for _ in work) == 0
        assert store.load_pictures("gate/yard") == before
        tidy_pictures(store, camera.pipeline)
        assert len(pictures_in(store.directory)) == 1
        save(store, camera.stream, 2.0)
        assert len(store.load_pictures("gate/yard")) == len(camera.stream.kept)
        assert pictures_in(store.directory)[0].suffix == ".pictures"


@pytest.fixture
def writing(make, tmp_path, monkeypatch):
    """Return a camera, its store, and a saver that is writing its pictures."""
    monkeypatch.setattr("agent.adapters.store._PART_BYTES", 50_000)
    monkeypatch.setattr("agent.saving.SLICE_S", 0.0)
    with closing(Store(tmp_path / "state")) as store:
        camera = make(KEEP, learnt=20, store=store)
        telemetry = Telemetry(1, 256_000_000)
        saver = Saver(store, Disk(store, telemetry), camera.pipeline, telemetry)
        saver.begin()
        while not pictures_in(store.directory):
            assert saver.advance()
        saver.advance()
        yield camera, store, saver


def finish(saver):
    while saver.advance():
        pass


def test_pictures_that_are_written_in_one_go_meanwhile_stay_whole(writing):
    camera, store, saver = writing
    camera.see(range(20, 25))
    save_all(store, camera.pipeline)
    finish(saver)
    assert store.load_pictures("gate/yard") == camera.stream.kept.snapshot()
    assert not saver._disk.troubled
    assert [one.suffix for one in pictures_in(store.directory)] == [".pictures"]


def test_nothing_is_left_of_pictures_whose_stream_is_let_go_meanwhile(writing):
    camera, store, saver = writing
    del camera.pipeline.streams["gate/yard"]
    finish(saver)
    assert pictures_in(store.directory) == []


def test_a_disk_that_is_full_in_the_middle_of_pictures_gets_its_room_back(writing, monkeypatch):
    _, store, saver = writing

    def full(_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("agent.adapters.store.os.fdatasync", full)
    finish(saver)
    assert (saver._disk.troubled, pictures_in(store.directory)) == (True, [])


def test_a_saver_writes_pictures_behind_the_snapshot(make, tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        camera = make(KEEP, store=store)
        telemetry = Telemetry(1, 256_000_000)
        saver = Saver(store, Disk(store, telemetry), camera.pipeline, telemetry)
        saver.begin()
        while saver.advance():
            pass
        assert len(store.load_pictures("gate/yard")) == len(camera.stream.kept)


@pytest.mark.parametrize(("damage", "left"), [(b"", 0), (b"redshank pictures 1\n\0\0\0", 0), (None, 7)])
def test_of_a_damaged_file_the_pictures_before_the_damage_are_taken(tmp_path, caplog, damage, left):
    with closing(Store(tmp_path / "state")) as store:
        pictures = [(float(at), [bytes([at]) * 100, b"b"]) for at in range(8)]
        for _ in store.write_pictures("gate", pictures):
            pass
        assert store.load_pictures("gate") == pictures
        (file,) = pictures_in(store.directory)
        file.write_bytes(file.read_bytes()[:-50] if damage is None else damage)
        assert store.load_pictures("gate") == pictures[:left]
        assert f"{left} are left" in caplog.text
        assert store.load_pictures("another") == []


def test_pictures_that_may_no_longer_be_kept_are_removed(make, versions, tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        camera = make(KEEP, store=store)
        save_all(store, camera.pipeline)
        tidy_pictures(store, camera.pipeline)
        assert len(pictures_in(store.directory)) == 1
        again = Camera(tmp_path, store=store, encoders={NAME: versions[0]})
        again.pipeline.stream_of(TOPIC)
        assert (again.stream.learnt, len(again.stream.kept)) == (True, 0)
        tidy_pictures(store, again.pipeline)
        assert pictures_in(store.directory) == []


def test_nothing_is_forgotten_where_one_tile_would_have_too_few_left(make):
    stream = make("    tiles: [2, 1]").stream
    first, second = stream.sight.detectors
    while second.reference_size > 36:
        assert second.forget_span(BEGUN, second.memory.held()[0][0]) == 1
    count, latest = first.reference_size, second.memory.held()[-8][0]
    with pytest.raises(TooFewLeftError):
        stream.forget_span(latest, BEGUN + 1000)
    assert (first.reference_size, second.reference_size) == (count, 36)


def test_a_reload_takes_kept_pictures_along(make, tmp_path):
    camera = make(KEEP)
    path = tmp_path / "redshank.yaml"
    path.write_text(path.read_text().replace("cooldown: 0s", "cooldown: 1s"))
    kept = camera.stream.kept.snapshot()
    camera.pipeline.reconfigure(with_defaults(load_configuration(path)), camera.pipeline.encoders, camera.now)
    assert camera.stream.kept.snapshot() == kept
