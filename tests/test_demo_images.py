"""The demo of pictures as a person runs it, with a real broker; the pictures it makes; and how it ends."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from rich.console import Console

from agent import demo_images as module
from agent import demo_scene
from agent.adapters.pictures import FORMATS
from agent.alert_message import timestamp
from agent.core.picture_health import PictureHealth
from agent.core.types import Frame
from agent.demo_images import PictureDemo, demo_images, pictures_of, sheet_path, write_sheet
from agent.demo_parts import Watcher
from agent.demo_scene import CLOTH, MARGIN, PLATE, Camera, photograph, without_plate
from agent.errors import RedshankError
from tests.brokers import wait_until

COMMAND = [sys.executable, "-m", "agent.cli", "demo", "--images"]
ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "demo-images.jpg"
LINE, GAP = 28, 8  # of a contact sheet
TOPIC = "redshank/demo-images/camera/heatmap"


def decoded(picture):
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), np.float32)


def panels(sheet):
    """Return the three pictures of a contact sheet, float32 [height, width, 3] each."""
    pixels = decoded(sheet.read_bytes())
    width, height = module.SHEET
    assert pixels.shape == (LINE + height + GAP, 3 * width + 4 * GAP, 3)
    starts = [GAP + place * (width + GAP) for place in range(3)]
    return [pixels[LINE : LINE + height, start : start + width] for start in starts]


def at_plate(panel):
    """Return what of a panel shows the place of the name plate."""
    height, width = panel.shape[:2]
    whole_width, whole_height = photograph().size
    left, top, right, bottom = PLATE
    rows = slice(round(top / whole_height * height), round(bottom / whole_height * height))
    return panel[rows, round(left / whole_width * width) : round(right / whole_width * width)]


def colourful(pixels):
    return float((pixels.max(axis=2) - pixels.min(axis=2)).mean())


def shows_the_change(sheet):
    """Assert that a sheet shows the plate, then none, then heat there and not in the opposite corner."""
    reference, odd, heat = panels(sheet)
    assert at_plate(reference).max() > 150  # silver
    assert at_plate(odd).mean() < 60  # cloth
    assert np.abs(at_plate(reference).mean() - at_plate(odd).mean()) > 20
    assert np.abs(reference[:150].mean() - odd[:150].mean()) < 30  # the light alone
    assert at_plate(heat)[:, :, 0].mean() > 150
    assert at_plate(heat)[:, :, 0].mean() > at_plate(heat)[:, :, 2].mean() + 50  # yellow or orange
    assert colourful(heat[:100, -100:]) < colourful(odd[:100, -100:]) / 2  # the sky has lost its blue, and has no heat


def test_it_sees_the_change_over_mqtt_draws_it_and_leaves_nothing_of_the_agent_at_the_broker(mosquitto, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = subprocess.run(
        [*COMMAND, "--broker", mosquitto.url, "--picture", str(sheet)],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ pictures judged: highest score \d", done.stdout)
    assert re.search(r"ALERT over MQTT: camera looks unlike any picture since .* tile 1,2 ", done.stdout)
    assert "CLEARED over MQTT: camera looks normal again after" in done.stdout
    assert done.stdout.splitlines()[-1].endswith(str(sheet))
    size = int(re.search(rf"HEATMAP over MQTT: {TOPIC}, PNG of (\d+) bytes, retained", done.stdout)[1])
    published = rf"Received PUBLISH from redshank-demo-images \(d\d, q1, r1, m\d+, '{TOPIC}', ... \({size} bytes\)\)"
    assert re.search(published, mosquitto.log)
    kept = re.findall(
        r"Received PUBLISH from \S+ \(d\d, q\d, r1, m\d+, '([^']+)', ... \((\d+) bytes\)\)", mosquitto.log
    )
    left = {topic for topic, last in dict(kept).items() if last != "0"}
    assert left == {"redshank/demo-images-viewer/status"}
    shows_the_change(sheet)


@pytest.mark.usefixtures("make_mosquitto")
def test_an_interrupt_ends_it_with_its_broker_and_its_agent():
    process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = ""
    while "connected to mqtt://127.0.0.1:" not in said:
        said = process.stderr.readline()
        assert said, "it ended before it was connected"
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) == 2
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert out.startswith("$ redshank demo --images\nbroker: Mosquitto\n")
    wait_until(lambda: not any(child.is_running() for child in children))


def test_where_the_agent_cannot_go_on_it_ends_with_1_and_shows_the_agents_words(make_mosquitto, tmp_path):
    sheet = tmp_path / "sheet.png"
    done = subprocess.run(
        [*COMMAND, "--broker", make_mosquitto(users={"pi": "secret"}).url, "--picture", str(sheet)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "FAILED: the agent did not finish learning" in done.stdout
    assert "check broker.username and broker.password_file" in done.stdout
    assert sheet.read_bytes() == b""


@pytest.mark.parametrize("name", ["sheet.gif", "sheet"])
def test_a_sheet_that_cannot_be_drawn_is_told_before_anything_starts(tmp_path, name):
    with pytest.raises(RedshankError, match=r"expected a name that ends with \.png, \.jpg, \.jpeg"):
        demo_images(broker_url="mqtt://nowhere.invalid", forever=False, picture=tmp_path / name)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="nowhere"):
        sheet_path(tmp_path / "nowhere" / "sheet.png")


def test_a_sheet_that_is_not_named_is_a_new_file(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = sheet_path(None), sheet_path(None)
    assert first != second
    assert {first.parent, second.parent} == {tmp_path}
    assert first.name.endswith(".png")


def test_the_picture_in_the_documents_is_of_a_whole_demo():
    assert PICTURE.stat().st_size < 150_000
    assert "](demo-images.jpg)" in (ROOT / "docs" / "commands.md").read_text()
    shows_the_change(PICTURE)


# what it says when something does not come


RAISED = {
    "event": "raised", "kind": "anomaly", "id": "1", "message": "camera looks unlike any", "score": 9.0,
    "at": timestamp(102.05), "evidence": {"nearest": [{"at": timestamp(100.0), "distance": 1.0}]},
}  # fmt: skip
CLEARED = {"event": "cleared", "kind": "anomaly", "id": "1", "message": "camera looks normal again"}
OTHER = {**RAISED, "kind": "blurred", "message": "camera sends pictures that are out of focus"}
ACTS = ["learnt", "quiet", "calm", "alert", "heatmap", "kept", "cleared"]


class Rehearsal(PictureDemo):
    """The demo without its agent and broker: what comes over MQTT is what the test lets come."""

    def __init__(self, missing, folder):
        self.url, self.folder, self.shown = "mqtt://nowhere.invalid", folder, []
        self.console = Console(file=io.StringIO())
        self.watcher, self.mqtt = Watcher(), self
        scene = photograph()
        self.camera, self.scene, self.whole, self.changed = Camera(*scene.size), scene, scene, without_plate(scene)
        self.sent = deque((100.0 + n, self.camera.take(scene)) for n in range(3))
        self.acts, self.missing = [], missing
        self.scenes = {}
        (folder / "agent.log").write_text("the agent's last words")

    def start(self):
        pass

    def until(self, condition, limit_s):
        act = ACTS[len(self.acts)]
        self.acts.append((act, limit_s))
        self.scenes[act] = self.scene
        coming = {
            "learnt": lambda: self.watcher.state.update(phase="active"),
            "alert": lambda: self.watcher.alerts.extend([OTHER, RAISED]),
            "heatmap": lambda: self.watcher.heatmaps.append(self.sent[0][1]),
            "kept": lambda: setattr(Later.last, "kept", self.sent[0][1]),
            "cleared": lambda: self.watcher.alerts.append(CLEARED),
        }
        if act != self.missing:
            coming.get(act, lambda: None)()
        return condition()


class Later:
    last = None

    def __init__(self, *where):
        assert where == ("mqtt://nowhere.invalid", TOPIC)
        self.kept, self.closed = None, False
        Later.last = self

    def close(self):
        self.closed = True


@pytest.fixture
def rehearse(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "Latecomer", Later)

    def run(missing=None, *, forever=False):
        show = Rehearsal(missing, tmp_path)
        code = show.run(tmp_path / "sheet.png", forever=forever)
        return show, code, show.console.file.getvalue(), (tmp_path / "sheet.png").exists()

    return run


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("learnt", "the agent did not finish learning"),
        ("alert", "no alert was raised"),
        ("heatmap", "no heatmap came"),
        ("kept", "the broker did not keep the heatmap"),
        ("cleared", "the alert did not clear"),
    ],
)
def test_what_does_not_come_is_told_and_ends_it_with_1(rehearse, missing, told):
    show, code, said, written = rehearse(missing)
    assert code == 1
    assert f"FAILED: {told}" in said
    assert "the agent's last words" in said
    assert not written
    assert show.acts[-1][0] == missing


def test_when_all_comes_it_ends_with_0_and_the_plate_was_away_in_between(rehearse):
    show, code, said, written = rehearse()
    assert code == 0
    assert written
    assert "ALERT over MQTT: camera looks unlike any (score 9.0)" in said
    assert [act for act, scene in show.scenes.items() if scene is show.changed] == ["alert", "heatmap", "kept"]
    assert Later.last.closed


def test_it_watches_for_ever_where_it_is_asked_to(rehearse):
    show, code, said, _ = rehearse(forever=True)
    assert show.acts[-1] == ("quiet", float("inf"))
    assert code == 1
    assert "FAILED: the agent has ended" in said


def test_the_alerts_own_pictures_are_found_among_those_sent():
    sent = [(100.0, b"first"), (101.0, b"second"), (102.0, b"odd"), (102.2, b"later")]
    assert pictures_of(sent, RAISED) == (b"first", b"odd")
    assert pictures_of(sent[2:], RAISED) == (b"odd", b"odd")  # the reference is no longer kept
    assert pictures_of(sent[3:], RAISED) == (b"later", b"later")


def test_a_sheet_shows_its_pictures_in_their_order(tmp_path):
    colours = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
    files = []
    for colour in colours:
        out = io.BytesIO()
        Image.new("RGB", (50, 80), colour).save(out, "PNG")
        files.append(out.getvalue())
    write_sheet(tmp_path / "sheet.png", *files)
    write_sheet(tmp_path / "sheet.JPG", *files)
    for name, begins, most in (("sheet.png", b"\x89PNG", 0), ("sheet.JPG", b"\xff\xd8", 5)):
        assert (tmp_path / name).read_bytes().startswith(begins)
        for panel, colour in zip(panels(tmp_path / name), colours, strict=True):
            assert np.abs(panel - colour)[16:-16, 16:-16].max() <= most


# the scene and the camera


@pytest.fixture(scope="module")
def scene():
    return photograph()


def test_the_photograph_is_read_without_loading_matplotlib():
    program = (
        "import sys; from agent.demo_scene import photograph; print(photograph().size); "
        "sys.exit('matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(512, 600)\n"), done.stderr


@pytest.mark.parametrize("installed", [False, True])
def test_a_photograph_that_is_not_there_is_told(monkeypatch, tmp_path, installed):
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(demo_scene, "find_spec", lambda _: Spec if installed else None)
    with pytest.raises(
        RedshankError, match=r"grace_hopper\.jpg: expected .* found none .*pip install 'redshank\[demo\]'"
    ):
        photograph()


def test_the_plate_is_covered_with_cloth_and_all_else_stays(scene):
    left, top, right, bottom = PLATE
    before, after = np.asarray(scene, np.float32), np.asarray(without_plate(scene), np.float32)
    inside = np.zeros(before.shape[:2], bool)
    inside[top:bottom, left:right] = True
    assert (before == after)[~inside].all()
    middle = slice(top + 12, bottom - 12), slice(left + 12, right - 12)
    cloth = before[CLOTH[1] + 12 : CLOTH[1] + bottom - top - 12, CLOTH[0] + 12 : CLOTH[0] + right - left - 12]
    np.testing.assert_array_equal(after[middle], cloth)
    assert before[middle].mean() - after[middle].mean() > 50
    rim = inside.copy()
    rim[top + 1 : bottom - 1, left + 1 : right - 1] = False
    whole_cloth = before[CLOTH[1] : CLOTH[1] + bottom - top, CLOTH[0] : CLOTH[0] + right - left]
    as_cut = before.copy()
    as_cut[top:bottom, left:right] = whole_cloth
    assert np.abs(after - before)[rim].mean() < np.abs(as_cut - before)[rim].mean() / 2  # no seam is seen


def test_pictures_are_files_that_an_agent_reads_and_repeat_with_their_seed(scene):
    one, other = Camera(*scene.size), Camera(*scene.size)
    taken = [one.take(scene) for _ in range(3)]
    assert taken == [other.take(scene) for _ in range(3)]
    assert len(set(taken)) == 3
    assert taken[0] != Camera(*scene.size, seed=1).take(scene)
    opened = Image.open(io.BytesIO(taken[0]))
    assert opened.format in FORMATS
    assert opened.size == one.size == (scene.width - 2 * MARGIN, scene.height - 2 * MARGIN)


def test_the_camera_shakes_by_a_pixel_or_two_and_is_noisy(scene):
    camera = Camera(*scene.size)
    still = np.asarray(scene, np.float32)[MARGIN:-MARGIN, MARGIN:-MARGIN]
    places = []
    for _ in range(12):
        picture = decoded(camera.take(scene)).mean(axis=2)
        picture *= still.mean() / picture.mean()
        found = {
            (dy, dx): np.square(np.roll(still.mean(axis=2), (dy, dx), (0, 1)) - picture)[8:-8, 8:-8].mean()
            for dy in range(-4, 5)
            for dx in range(-4, 5)
        }
        places.append(min(found, key=found.get))
        assert 3 < min(found.values()) < 200  # noise, and what half a pixel makes of edges
    assert len(set(places)) > 3
    assert max(max(map(abs, place)) for place in places) <= 2


def test_the_light_changes_slowly_there_and_back(scene):
    camera = Camera(*scene.size)
    light = [decoded(camera.take(scene)).mean() for _ in range(demo_scene.LIGHT_PERIOD + 1)]
    steps = np.abs(np.diff(light)) / light[0]
    assert steps.max() < 0.015
    assert max(light) / light[0] == pytest.approx(1.1, abs=0.03)
    assert min(light) / light[0] == pytest.approx(0.9, abs=0.03)
    assert light[-1] == pytest.approx(light[0], rel=0.01)


def test_nothing_is_wrong_with_the_pictures_as_such(scene):
    camera, health = Camera(*scene.size), PictureHealth(40)
    for number in range(60):
        small = Image.open(io.BytesIO(camera.take(scene))).resize((224, 224))
        assert health.check(Frame(float(number), np.asarray(small))) == []
