"""Streams of pictures through the whole pipeline, with the encoder that ships."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from contextlib import closing

import msgspec
import numpy as np
import pytest
from PIL import Image

from agent.adapters.mqtt import Command
from agent.adapters.mqtt.topics import Topics
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders, make_restore, with_defaults
from agent.cli import main
from agent.commands import Commander
from agent.config import CommandSettings, load_configuration
from agent.core.alerting import AlertKind, AlertState
from agent.core.types import StreamPhase
from agent.errors import BundleError, ConfigurationError
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.reconfiguration import Fate
from agent.replay import replay
from agent.saving import save_all
from tests.scenes import encoded, encoder, lorry, scene

BEGUN = 1_700_000_000.0
TOPIC = "cameras/yard"
WARM_UP = 45
LEARNT = 60  # pictures after which it is active for certain
YAML = """
agent: {{id: pi}}
streams:
  - name: gate
    topic: cameras/+
    kind: image
    reference: {{size: 100, warm_up: 45}}
    alert: {{false_alarms: {budget}, cooldown: 0s{alert}}}
{more}
"""


class Counted(SilentObserver):
    def __init__(self):
        self.reasons, self.drops = [], 0

    def rejected(self, topic, reason):
        del topic
        self.reasons.append(reason)

    def dropped(self):
        self.drops += 1


class Camera:
    """A pipeline with one camera, driven in virtual time: a picture a second."""

    def __init__(self, folder, more="", store=None, alert="", encoders=None, budget="1 per 100000 decisions"):
        path = folder / "redshank.yaml"
        path.write_text(YAML.format(more=more, alert=alert, budget=budget))
        self.configuration = with_defaults(load_configuration(path))
        self.observer, self.now = Counted(), BEGUN
        restore = make_restore(store) if store is not None else None
        encoders = encoders or {"efficientnet-lite0": encoder()}
        topics = Topics("redshank", "pi")
        self.pipeline = Pipeline(self.configuration, encoders, topics, self.observer, restore=restore)
        self.commander = Commander(self.pipeline, topics, CommandSettings(enabled=True), self.observer)

    @property
    def stream(self):
        return self.pipeline.streams["gate/yard"]

    def send(self, payload, at=None, **more):
        """Return what a payload led to."""
        self.now = self.now + 1.0 if at is None else at
        return self.pipeline.process([InboundMessage(TOPIC, payload, self.now, self.now, **more)])

    def see(self, seeds, change=None, **more):
        """Return what pictures of the scene led to, one outcome each."""
        return [self.send(encoded(scene(seed, change, **more))) for seed in seeds]

    def ask(self, **order):
        message = InboundMessage("redshank/pi/command", json.dumps(order).encode(), self.now, self.now, qos=1)
        done = self.commander.obey(Command(message))
        return json.loads(self.commander.finish(done, stored=True)), done.outcome


def told(outcomes):
    return [json.loads(row.payload) for outcome in outcomes for row in outcome.outbox]


@pytest.fixture
def camera(tmp_path):
    made = Camera(tmp_path)
    assert told(made.see(range(LEARNT))) == []
    assert made.stream.phase is StreamPhase.ACTIVE
    return made


def test_what_does_not_belong_there_is_told_with_where_it_is(camera, schema):
    outcomes = camera.see([500], lorry)
    (alert,) = told(outcomes)
    schema.validate(alert)
    assert (alert["kind"], alert["event"], alert["stream"]) == ("anomaly", "raised", "gate/yard")
    assert re.fullmatch(
        r"gate/yard looks unlike any picture since \d\d:\d\d UTC, most of all at the .+", alert["message"]
    )
    parts = alert["evidence"]["parts"]
    row, column = map(int, re.fullmatch(r"row (\d), column (\d)", parts[0]["name"]).groups())
    assert (
        2 <= row <= 6
    )  # the ellipse goes from a quarter to four fifths of the height, from half to the width's four fifths
    assert 3 <= column <= 6
    assert sum(one["share"] for one in parts) + alert["evidence"]["others"]["share"] == pytest.approx(1.0, abs=1e-3)
    times = [one["at"] for one in alert["evidence"]["nearest"]]
    assert len(times) == 3
    assert all("2023-11-14T22:13:20" < one < alert["started_at"] for one in times)
    assert alert["encoder"]["name"] == "efficientnet-lite0"
    (drawn,) = outcomes[0].heatmaps
    heatmap = np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"), np.float32)
    plain = np.asarray(Image.fromarray(scene(500, lorry)).resize((224, 224)), np.float32)
    hot = np.abs(heatmap - plain.mean(axis=2, keepdims=True)).sum(axis=2)
    assert hot[60:170, 100:185].mean() > 1.5 * hot[:, :60].mean()
    cleared = told(camera.see(range(600, 606)))
    assert [one["event"] for one in cleared] == ["cleared"]
    schema.validate(cleared[0])
    assert cleared[0]["id"] == alert["id"]
    assert camera.stream.heatmap == drawn.png


def test_usual_pictures_have_usual_scores_and_no_heatmap_is_drawn(camera):
    outcomes = camera.see(range(700, 730))
    scores = [one.assessment.score for outcome in outcomes for one in outcome.decided]
    assert len(scores) == 30
    assert np.mean(scores) < 1.2
    assert all(outcome.heatmaps == [] for outcome in outcomes)
    assert camera.stream.state()["reference_fill"] > LEARNT


def test_other_light_is_not_another_scene(camera):
    scores = [o.decided[0].assessment.score for o in camera.see(range(800, 812), light=0.7)]
    odd = [o.decided[0].assessment.score for o in camera.see([820], lorry)]
    assert max(scores) < min(odd)


def test_a_day_of_changing_light_is_no_news(camera):
    outcomes = [camera.see([900 + i], light=1.0 - 0.4 * np.sin(np.pi * i / 120))[0] for i in range(120)]
    assert told(outcomes) == []


@pytest.mark.parametrize(("more", "events"), [("", ["raised", "cleared"]), ("    adapt_after: 1h", ["raised"])])
def test_a_lorry_that_stays_alarms_once_and_is_learnt_when_it_may_be(tmp_path, more, events):
    camera = Camera(tmp_path, more)
    camera.see(range(LEARNT))
    assert [one["event"] for one in told(camera.see(range(1000, 1060), lorry))] == events


def black(_):
    return np.zeros((240, 320, 3), np.uint8)


def white(_):
    return np.full((240, 320, 3), 255, np.uint8)


def covered(seed):
    noise = np.random.default_rng(seed).normal(0, 1, (240, 320, 3))
    return np.clip(120 + noise, 0, 255).astype(np.uint8)


def blurred(seed):
    picture = Image.fromarray(scene(seed)).resize((16, 12)).resize((320, 240), Image.Resampling.BICUBIC)
    return np.asarray(picture)


@pytest.mark.parametrize("spoiled", [black, white, covered, blurred])
def test_pictures_that_show_nothing_are_alerts_of_their_own_and_are_not_learnt(camera, schema, spoiled):
    kind = AlertKind(spoiled.__name__)
    held = camera.stream.reference_fill
    outcomes = [camera.send(encoded(spoiled(seed))) for seed in range(5)]
    alerts = told(outcomes)
    assert [(one["kind"], one["event"]) for one in alerts] == [(kind, "raised")]
    schema.validate(alerts[0])
    assert all(outcome.decided == [] for outcome in outcomes)
    assert camera.stream.reference_fill == held
    (cleared,) = told(camera.see([900, 901]))
    assert (cleared["kind"], cleared["event"]) == (kind, "cleared")
    schema.validate(cleared)
    assert camera.stream.budget.events == 0


@pytest.mark.parametrize(("policy", "expected"), [("", ["frozen"]), (", frozen: ignore", [])])
def test_a_camera_that_stands_still_is_told_unless_that_is_usual(tmp_path, policy, expected):
    camera = Camera(tmp_path, alert=policy)
    camera.see(range(LEARNT))
    same = encoded(scene(1000))
    alerts = [one for one in told(camera.send(same) for _ in range(40)) if one["kind"] == "frozen"]
    assert [one["kind"] for one in alerts] == expected


def test_a_tile_that_is_odd_is_named(tmp_path, schema):
    camera = Camera(tmp_path, "    tiles: [2, 1]\n    ignore: [[[0, 0], [0.1, 0], [0.1, 0.1]]]")
    camera.see(range(LEARNT))
    outcomes = camera.see([500], lambda pen: pen.rectangle((200, 60, 300, 200), fill=(255, 0, 255)))
    (alert,) = told(outcomes)
    schema.validate(alert)
    assert alert["evidence"]["parts"][0]["name"].startswith("tile 2,1: row ")
    assert alert["message"].endswith(" of tile 2,1")
    picture = Image.open(io.BytesIO(outcomes[0].heatmaps[0].png))
    assert picture.size == (448, 224)
    assert camera.stream.state()["tiles"] == ["tile 1,1", "tile 2,1"]


def test_memory_bounds_the_number_of_cameras(tmp_path):
    camera = Camera(tmp_path)
    camera.see([0])
    assert 10 <= camera.pipeline.streams_max <= 30  # of the 256 MB that are the default
    tiled = Camera(tmp_path, "    tiles: [2, 2]")
    tiled.see([0])
    assert tiled.stream.bytes == 4 * camera.stream.bytes
    assert tiled.pipeline.streams_max < camera.pipeline.streams_max / 2


def test_pictures_that_come_too_soon_are_dropped_and_counted(tmp_path):
    camera = Camera(tmp_path, "    every: 2s")
    camera.see(range(10))
    assert camera.observer.drops == 5
    assert camera.stream.state()["interval_s"] == pytest.approx(2.0)


def test_pictures_with_a_time_of_their_own_come_too_soon_as_well(tmp_path):
    more = "    every: 2s\n    format: json\n    path: image\n    time: {path: ts, max_ahead: 10d}"
    camera = Camera(tmp_path, more)
    for number in range(10):
        text = base64.b64encode(encoded(scene(number))).decode()
        camera.send(json.dumps({"ts": BEGUN + number, "image": text}).encode())
    assert camera.observer.drops == 5
    assert camera.observer.reasons == []


def test_a_picture_that_was_superseded_only_counts_as_heard(tmp_path):
    camera = Camera(tmp_path)
    camera.see([0])
    camera.send(b"", superseded=True)
    assert camera.observer.reasons == []
    assert camera.stream.heard_at == camera.now
    assert camera.stream.state()["interval_s"] is None


def test_rubbish_is_rejected_and_older_pictures_are_until_the_clock_was_set_back(tmp_path):
    camera = Camera(tmp_path, "    format: json\n    path: image.data\n    time: {path: ts, max_ahead: 10d}")

    def sent(seed, ts):
        text = "data:image/jpeg;base64," + base64.b64encode(encoded(scene(seed))).decode()
        return camera.send(json.dumps({"ts": ts, "image": {"data": text}}).encode())

    sent(0, BEGUN)
    sent(1, BEGUN + 1)
    camera.send(b"\xff\xd8rubbish")
    sent(2, BEGUN + 1)
    sent(3, BEGUN - 5000)
    assert camera.observer.reasons == ["malformed", "duplicate", "late"]
    sent(4, BEGUN - 4999)
    sent(5, BEGUN - 4998)
    assert camera.observer.reasons == ["malformed", "duplicate", "late"]
    assert camera.stream.state()["interval_s"] == 1.0  # a clock that is set back is no pause


def test_alerts_go_on_after_the_cameras_clock_was_set_back(camera):
    (raised,) = told(camera.see([500], lorry))
    camera.now = BEGUN - 90_000
    outcomes = camera.see(range(510, 516))
    assert [one["event"] for one in told(outcomes)] == ["cleared"]
    assert [one["event"] for one in told(camera.see([520], lorry))] == ["raised"]
    assert raised["event"] == "raised"


def test_a_restart_changes_nothing(tmp_path):
    store = Store(tmp_path / "state")
    first = Camera(tmp_path, store=store)
    first.see(range(LEARNT))
    first.see([500], lorry)
    save_all(store, first.pipeline)
    second = Camera(tmp_path, store=store)
    second.now = first.now
    second.pipeline.stream_of(TOPIC)
    assert second.stream.heatmap == first.stream.heatmap
    assert second.stream.alerts[AlertKind.ANOMALY].state is AlertState.FIRING
    scores = [
        [one.assessment.score for outcome in camera.see(range(600, 640)) for one in outcome.decided]
        for camera in (first, second)
    ]
    assert scores[0] == scores[1]
    assert first.stream.budget.threshold == second.stream.budget.threshold
    store.close()


def test_what_pictures_taught_is_added_to_a_snapshot_that_is_whole_when_they_have_learnt(tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        camera = Camera(tmp_path, store=store)
        wholes, additions = [], []

        def save(seeds, **how):
            camera.see(seeds)
            before = store.load("gate/yard")
            save_all(store, camera.pipeline, **{"whole": False, **how})
            wholes.append(repr(store.load("gate/yard")) != repr(before))
            additions.append(len(list(store.additions("gate/yard"))))

        save(range(3))
        save(range(3, 30))
        save(range(30, LEARNT))
        save(range(LEARNT, LEARNT + 5))
        save(range(LEARNT + 5, LEARNT + 30))
        save([], whole=True)  # a clean stop
        assert wholes == [True, False, True, False, False, True]
        assert additions == [0, 1, 0, 1, 2, 0]


def killed(tmp_path, store, camera, more=""):
    """Return a camera that goes on from what is on disk."""
    made = Camera(tmp_path, more, store=store)
    made.now = camera.now
    made.pipeline.stream_of(TOPIC)
    return made


def scores_of(outcomes):
    return [one.assessment.score for outcome in outcomes for one in outcome.decided]


@pytest.mark.parametrize("begun", [10, LEARNT])  # in the middle of learning, and behind it
@pytest.mark.parametrize("more", ["", "    tiles: [2, 1]"])
def test_after_a_kill_a_slow_camera_scores_as_if_nothing_had_been(tmp_path, begun, more):
    with closing(Store(tmp_path / "state")) as store:
        camera = Camera(tmp_path, more, store=store)
        camera.see(range(begun))
        save_all(store, camera.pipeline, whole=False)
        for first in (begun, begun + 10):
            camera.see(range(first, first + 9))
            camera.see([first], lorry if begun == LEARNT else None)
            save_all(store, camera.pipeline, whole=False)
        assert len(list(store.additions("gate/yard"))) == 2
        usual = [
            [one["detector"]["usual"] is not None for one in added["tiles"]] for added in store.additions("gate/yard")
        ]
        assert usual == ([[False, True], [True, False]] if more else [[True], [True]])  # of one tile after the other
        again = killed(tmp_path, store, camera, more)
        assert again.stream.phase is camera.stream.phase
        assert again.stream.heatmap == camera.stream.heatmap
        assert again.stream.details() == camera.stream.details()
        scores = [scores_of(one.see(range(600, 640))) for one in (camera, again)]
        assert scores[0] == scores[1] != []
        assert again.stream.budget.threshold == camera.stream.budget.threshold
        assert again.stream.budget.decisions == camera.stream.budget.decisions


def slowly(i):
    """Return the light of a picture in a long series."""
    return 1.0 - 0.3 * np.sin(i / 120)


def test_after_a_kill_a_fast_camera_knows_what_it_has_learnt_since_the_last_whole_snapshot(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.core.picture_memory.MOST_TOLD", 12)
    monkeypatch.setattr("agent.core.picture_memory.EXAMPLES_TOLD", 150)
    with closing(Store(tmp_path / "state")) as store:
        camera = Camera(tmp_path, store=store)
        camera.see(range(100))
        save_all(store, camera.pipeline, whole=False)
        told_of = []
        for i in range(100, 360):
            told_of += told(camera.see([i], lorry if i >= 180 else None, light=slowly(i)))
            if i % 40 == 39:
                save_all(store, camera.pipeline, whole=False)
        assert [one["event"] for one in told_of] == ["raised", "cleared"]
        assert len(list(store.additions("gate/yard"))) == 7
        again = killed(tmp_path, store, camera)
        assert again.stream.budget.threshold == camera.stream.budget.threshold
        live, held = (set(dict(one.stream.sight.detectors[0].memory.held())) for one in (camera, again))
        assert max(held) == max(live)
        assert len(held & live) < 50
        seen = [[one.see([i], lorry, light=slowly(i))[0] for i in range(360, 420)] for one in (camera, again)]
        assert told(seen[0]) == told(seen[1]) == []
        scores = [scores_of(one) for one in seen]
        assert np.mean(scores[1]) == pytest.approx(np.mean(scores[0]), abs=0.3)
        assert again.stream.budget.threshold == pytest.approx(camera.stream.budget.threshold, abs=0.5)
        (alert,) = told(again.see([420], lambda pen: pen.rectangle((20, 20, 90, 90), fill=(0, 255, 0))))
        assert alert["event"] == "raised"


def test_after_a_kill_what_was_accepted_can_be_forgotten_and_what_was_refused_accepted(tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        camera = Camera(tmp_path, store=store)
        camera.see(range(LEARNT))
        save_all(store, camera.pipeline, whole=False)
        (raised,) = told(camera.see([500], lorry))
        camera.see(range(501, 510))
        save_all(store, camera.pipeline, whole=False)
        again = killed(tmp_path, store, camera)
        assert again.ask(command="accept", alert=raised["id"])[0]["windows"] == 1
        save_all(store, again.pipeline, whole=False)  # a whole one: something was changed by hand
        again.see(range(510, 520))
        save_all(store, again.pipeline, whole=False)
        last = killed(tmp_path, store, again)
        assert last.ask(command="forget", alert=raised["id"])[0]["windows"] == 1
        assert last.stream.forget_span(last.now - 9.5, last.now) == 10


def test_a_journal_of_pictures_that_is_damaged_is_used_as_far_as_it_goes(tmp_path, caplog):
    with closing(Store(tmp_path / "state")) as store:
        camera = Camera(tmp_path, store=store)
        camera.see(range(LEARNT))
        fills = []
        for first in (100, 110, 120):
            save_all(store, camera.pipeline, whole=False)
            fills.append(camera.stream.reference_fill)
            camera.see(range(first, first + 10))
        (journal,) = (tmp_path / "state" / "streams").glob("*.journal")
        content = journal.read_bytes()
        for damaged, fill in (
            (content[:-1000], fills[1]),
            (content[: len(content) // 3], fills[0]),
            (content, fills[2]),
        ):
            journal.write_bytes(damaged)
            assert killed(tmp_path, store, camera).stream.reference_fill == fill
        assert caplog.text.count("the end of its journal is damaged") == 2
        additions = list(store.additions("gate/yard"))
        del additions[1]["tiles"]
        store.additions = lambda _: iter(additions)
        assert killed(tmp_path, store, camera).stream.reference_fill == fills[0]
        assert "cannot go on from its journal" in caplog.text


def test_a_snapshot_of_another_region_is_set_aside(tmp_path):
    store = Store(tmp_path / "state")
    first = Camera(tmp_path, store=store)
    first.see(range(3))
    save_all(store, first.pipeline)
    second = Camera(tmp_path, "    region: [0, 0, 1, 0.9]", store=store)
    second.pipeline.stream_of(TOPIC)
    assert second.stream.reference_fill == 0
    store.close()


def test_an_accepted_scene_is_normal_until_it_is_forgotten(camera):
    (raised,) = told(camera.see([500], lorry))
    answer, outcome = camera.ask(command="accept", alert=raised["id"])
    assert (answer["ok"], answer["windows"]) == (True, 1)
    assert [one["event"] for one in told([outcome])] == ["cleared"]
    calm = camera.see([501], lorry)[0].decided[0].assessment.score
    assert calm < raised["score"]
    assert camera.ask(command="accept", alert=raised["id"])[0]["already"] is True
    answer, _ = camera.ask(command="forget", alert=raised["id"])
    assert (answer["ok"], answer["windows"]) == (True, 1)


def test_a_heatmap_can_be_asked_for(camera):
    answer, outcome = camera.ask(command="heatmap", stream="gate/yard")
    assert answer == {
        "command": "heatmap", "ok": True, "stream": "gate/yard", "topic": "redshank/pi/gate/yard/heatmap"
    }  # fmt: skip
    assert [one.stream for one in outcome.heatmaps] == ["gate/yard"]
    assert camera.ask(command="relearn", stream="gate/yard")[0]["ok"] is True
    answer, _ = camera.ask(command="heatmap", stream="gate/yard")
    assert "a stream that has learnt" in answer["error"]
    assert camera.stream.phase is StreamPhase.LEARNING
    assert camera.stream.state()["reference_fill"] == 0


def test_snoozed_streams_raise_nothing(camera):
    camera.ask(command="snooze", stream="gate/yard", **{"for": "1h"})
    assert told(camera.see([500], lorry)) == []
    assert told([camera.send(encoded(black(0)))]) == []


@pytest.fixture
def folder(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(LEARNT + 5):
        change = lorry if number == LEARNT + 2 else None
        kind = "PNG" if number % 2 else "JPEG"
        (pictures / f"{number:03}.{kind.lower()}").write_bytes(encoded(scene(number, change), kind))
    (pictures / "notes.txt").write_text("no picture")
    return pictures


def promised(camera):
    """Return how many seconds a decision stands for in the camera's budget."""
    budget = camera.stream.budget
    return budget.rate / budget.budget.rate_per_s(1.0)


@pytest.mark.parametrize("way", ["restart", "reload"])
def test_days_without_pictures_do_not_spend_the_budget(tmp_path, way):
    with closing(Store(tmp_path / "state")) as store:
        camera = Camera(tmp_path, store=store, budget="1 per week")
        camera.see(range(LEARNT))
        assert promised(camera) == pytest.approx(1.0)
        camera.now += 3 * 86400.0
        camera.see(range(200, 203))
        if way == "restart":
            save_all(store, camera.pipeline)
            again = Camera(tmp_path, store=store, budget="1 per week")
            again.now = camera.now
            again.see(range(203, 204))
        else:
            again = camera
            changed = Camera(tmp_path, budget="1 per week", alert=", severity: critical").configuration
            done = again.pipeline.reconfigure(changed, again.pipeline.encoders, again.now)
            assert done.fates == {"gate/yard": Fate.CHANGED}
        assert 1.0 <= promised(again) < 1.5
        assert again.stream.state()["interval_s"] == pytest.approx(promised(again), rel=0.1)


def test_the_budget_follows_a_camera_that_becomes_slower(tmp_path):
    camera = Camera(tmp_path, budget="1 per week")
    camera.see(range(LEARNT))
    for seed in range(LEARNT, LEARNT + 150):
        camera.send(encoded(scene(seed)), camera.now + 20.0)
    assert promised(camera) == pytest.approx(20.0, rel=0.15)


def test_what_was_primed_is_of_now(tmp_path, folder):
    camera = Camera(tmp_path, budget="1 per week")
    begun = time.time()
    replay(folder, camera.configuration, state=tmp_path / "state", prime=True)
    with closing(Store(tmp_path / "state")) as store:
        camera = Camera(tmp_path, store=store, budget="1 per week")
        camera.pipeline.resume(store.topics(), begun, 0.0)
    (stream,) = camera.pipeline.streams.values()
    times = [at for at, _ in stream.sight.detectors[0].memory.held()]
    assert begun - 1.0 <= max(times) <= time.time()
    assert max(times) - min(times) < 200.0


def test_a_folder_is_replayed_in_the_order_of_its_names(tmp_path, folder):
    camera = Camera(tmp_path)
    found = replay(folder, camera.configuration, scores=tmp_path / "scores.csv")
    assert found.rejected == {}
    raised = [one for one in found.alerts if one["event"] == "raised"]
    assert [one["at"] for one in raised] == ["2000-01-01T00:01:02.000Z"]
    rows = (tmp_path / "scores.csv").read_text().splitlines()
    assert len(rows) - 1 == found.decisions


def test_priming_learns_and_raises_nothing_and_the_agent_then_starts_active(tmp_path, folder, capsys):
    camera = Camera(tmp_path, "    mode: frozen")
    arguments = ["prime", str(folder), "--config", str(tmp_path / "redshank.yaml"), "--state", str(tmp_path / "state")]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert re.search(r"gate/replay: active, \d+ references\n", output)
    assert "1 streams primed, 0 still learning; rejected: none" in output
    store = Store(tmp_path / "state")
    camera = Camera(tmp_path, "    mode: frozen", store=store, encoders=load_encoders(camera.configuration, store))
    stream = camera.pipeline.stream_of("cameras/replay")
    assert stream.phase is StreamPhase.ACTIVE
    assert stream.budget.events == stream.budget.decisions == 0
    assert all(one.state is AlertState.INACTIVE for one in stream.alerts.values())
    store.close()


def test_a_folder_without_pictures_is_an_error(tmp_path, capsys):
    Camera(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["replay", str(tmp_path / "empty"), "--config", str(tmp_path / "redshank.yaml")]) == 2
    assert "expected pictures (.jpg, .jpeg" in capsys.readouterr().err


def test_what_is_looked_at_can_be_drawn(tmp_path, capsys):
    Camera(tmp_path, "    region: [0.25, 0, 1, 1]")
    (tmp_path / "one.jpg").write_bytes(encoded(scene(0)))
    out = tmp_path / "drawn.png"
    arguments = ["check", str(tmp_path / "redshank.yaml"), "--draw", str(tmp_path / "one.jpg"), "--out", str(out)]
    assert main(arguments) == 0
    assert "what stream gate looks at" in capsys.readouterr().out
    with Image.open(out) as drawn:
        assert drawn.size == (320, 240)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no picture", "malformed"),
        (encoded(scene(0))[:400], "malformed"),
        (encoded(scene(0)), "too_large"),
    ],
    ids=["text", "truncated", "too many pixels"],
)
def test_what_cannot_be_looked_at_cannot_be_drawn_and_why_is_told(tmp_path, capsys, content, reason):
    Camera(tmp_path, "    max_pixels: 1000")
    (tmp_path / "one.jpg").write_bytes(content)
    out = tmp_path / "drawn.png"
    arguments = ["check", str(tmp_path / "redshank.yaml"), "--draw", str(tmp_path / "one.jpg"), "--out", str(out)]
    assert main(arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        f"{tmp_path}/one.jpg: expected a picture that can be decoded, of at most 1000 pixels, found "
    )
    assert f"`{reason}`" in said
    assert not out.exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("region: [0, 0, 2, 1]", "left, top, right and bottom"),
        ("tiles: [0, 1]", "columns and rows"),
        ("path: image", "none without format: json"),
        ("channels: [a]", "a known key"),
        ("every: 0s", "more than 0"),
        ("max_pixels: 0", "1 to"),
        ("keep: {pictures: 20}", "0, or at least reference.warm_up (300)"),
        ("keep: {pictures: 400, limit: 0 B}", "more than 0"),
        ("reference: {size: 100, warm_up: 200}", "at most reference.size"),
        ("alert: {direction: up}", "pictures have no direction"),
        ("alert: {min_change: {a: 1}}", "pictures have no channels"),
    ],
)
def test_mistakes_are_named(tmp_path, line, words):
    path = tmp_path / "redshank.yaml"
    path.write_text(f"streams:\n  - name: gate\n    topic: cameras/+\n    kind: image\n    {line}\n")
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        load_configuration(path)


@pytest.mark.parametrize(
    ("kind", "encoder", "words"),
    [
        ("image", "sensor-small", "expected an encoder of pictures"),
        ("sensor", "efficientnet-lite0", "of sensor windows"),
    ],
)
def test_an_encoder_of_the_other_kind_is_refused(tmp_path, kind, encoder, words):
    path = tmp_path / "redshank.yaml"
    path.write_text(f"streams:\n  - {{name: gate, topic: a, kind: {kind}, encoder: {encoder}}}\n")
    with pytest.raises(BundleError, match=words):
        load_encoders(load_configuration(path))


def test_the_budget_over_time_counts_by_the_time_between_pictures(tmp_path):
    camera = Camera(tmp_path)
    camera.configuration.streams[0] = msgspec.structs.replace(
        camera.configuration.streams[0],
        alert=msgspec.structs.replace(
            camera.configuration.streams[0].alert,
            false_alarms=msgspec.structs.replace(
                camera.configuration.streams[0].alert.false_alarms, per_decisions=None, per_s=1000.0
            ),
        ),
    )
    camera.pipeline.reconfigure(camera.configuration, camera.pipeline.encoders, BEGUN)
    camera.see(range(LEARNT))
    assert camera.stream.budget.rate == pytest.approx(1e-3, rel=0.05)
