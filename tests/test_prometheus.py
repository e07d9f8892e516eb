"""The alert rules and the dashboard, also on a real Prometheus that scrapes a real agent."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from agent.adapters.telemetry import Telemetry
from agent.config import load_configuration
from tests.brokers import Peer, free_port, wait_until
from tests.test_agent import Process, publish, written_tomorrow

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy" / "prometheus"
RULES = DEPLOY / "redshank.rules.yml"
TESTS = sorted(DEPLOY.glob("*.test.yml"))
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "redshank.json").read_text())
INSTALL_PROMETHEUS = "sudo apt install prometheus"
PATIENCE_S = 60.0


def installed(name):
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"Prometheus is not installed: {INSTALL_PROMETHEUS}")
    return found


def promtool(*words, content=None):
    command = [installed("promtool"), *map(str, words)]
    done = subprocess.run(command, input=content, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alerting_rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels():
    return [one for one in DASHBOARD["panels"] if one["type"] != "row"]


def test_the_example_and_the_rules_are_what_prometheus_takes():
    assert "24 rules found" in promtool("check", "config", DEPLOY / "prometheus.yml") + promtool(
        "check", "rules", RULES
    )


def test_what_is_shown_for_agents_elsewhere_is_what_both_sides_take(tmp_path):
    agent, prometheus = re.findall(r"```yaml\n(.+?)```", (ROOT / "docs" / "prometheus.md").read_text(), flags=re.DOTALL)
    (tmp_path / "redshank.yaml").write_text(agent + "streams: [{name: pump, topic: a, encoder: none}]\n")
    assert (
        load_configuration(tmp_path / "redshank.yaml").metrics.credentials_file == "/etc/redshank/metrics.credentials"
    )
    (tmp_path / "prometheus.yml").write_text(prometheus)
    promtool("check", "config", "--syntax-only", tmp_path / "prometheus.yml")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_the_rules_fire_when_they_should_and_only_then(path):
    promtool("test", "rules", path)


def test_each_rule_has_a_test_in_which_it_fires():
    fired = {
        one["alertname"]
        for path in TESTS
        for group in yaml.safe_load(path.read_text())["tests"]
        for one in group["alert_rule_test"]
        if one.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in alerting_rules()}


def test_each_rule_is_explained_where_its_annotation_says():
    page = (ROOT / "docs" / "prometheus.md").read_text()
    assert re.findall(r"^### (Redshank\w+)$", page, flags=re.MULTILINE) == [one["alert"] for one in alerting_rules()]
    for rule in alerting_rules():
        assert rule["annotations"]["runbook"] == f"docs/prometheus.md#{rule['alert'].lower()}"


def test_rules_and_dashboard_ask_for_metrics_that_there_are():
    known = set()
    for family in Telemetry(1, 1).registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        known |= {name + suffix for suffix in ("_bucket", "_count", "_sum")} if family.type == "histogram" else {name}
    asked = re.findall(r"(?:redshank|process)_[a-z_]+\w", RULES.read_text() + json.dumps(DASHBOARD))
    assert set(asked) <= known


def test_the_dashboard_can_be_imported():
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["uid"]
    assert len({one["id"] for one in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for one in DASHBOARD["panels"]:
        at = one["gridPos"]
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24
        assert at["h"] > 0
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    (source, *others) = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    for one in [*others, *panels(), *(target for panel in panels() for target in panel["targets"])]:
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        assert panel["description"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"]) > 0


class Prometheus:
    """A Prometheus of our own that scrapes one agent each second and evaluates the rules, minutes become seconds."""

    def __init__(self, folder, agent_port):
        folder.mkdir()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (folder / RULES.name).write_text(re.sub(r"for: (\d+)m$", r"for: \1s", RULES.read_text(), flags=re.MULTILINE))
        configuration = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{agent_port}"]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        self.popen = subprocess.Popen(
            [
                installed("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--log.level=error",
            ],
            stderr=subprocess.DEVNULL,
        )
        wait_until(self._answers, PATIENCE_S)

    def _answers(self):
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def get(self, path, **words):
        query = urllib.parse.urlencode(words)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as answer:
            body = json.loads(answer.read())
        assert body["status"] == "success", body
        assert not body.get("warnings"), body
        return body["data"]

    def ask(self, query):
        """Return what an instant query finds: labels and values."""
        return [(one["metric"], [one["value"]]) for one in self.get("query", query=query)["result"]]

    def ask_range(self, query):
        now = time.time()
        found = self.get("query_range", query=query, start=now - 60, end=now, step=1)["result"]
        return [(one["metric"], one["values"]) for one in found]

    def firing(self):
        """Return name and labels of the alerts that fire."""
        found = [one["labels"] for one in self.get("alerts")["alerts"] if one["state"] == "firing"]
        return {one["alertname"]: one for one in found}

    def stop(self):
        self.popen.kill()
        self.popen.wait(10)


@pytest.fixture
def watched(mosquitto, tmp_path):
    """Return a broker, an agent, a peer and a Prometheus that watches the agent."""
    installed("prometheus")
    process = Process(tmp_path, mosquitto, more="commands: {enabled: true}")
    written_tomorrow(process.state)
    process.start().ready()
    prometheus = Prometheus(tmp_path / "prometheus", process.port)
    peer = Peer(mosquitto)
    yield mosquitto, process, peer, prometheus
    peer.close()
    prometheus.stop()
    process.popen.kill()
    process.popen.communicate()


def has_figures(found):
    return any(math.isfinite(float(value)) for _, values in found for _, value in values)


def test_a_real_prometheus_raises_the_rules_and_fills_every_panel(watched):
    broker, process, peer, prometheus = watched
    publish(peer, range(330))
    wait_until(lambda: prometheus.ask('redshank_stream_phase{phase="active"} == 1'), PATIENCE_S)
    publish(peer, range(330, 360))
    for _ in range(40):
        peer.publish("plant/a/telemetry", "{")
    peer.publish("redshank/pi/command", '{"command": "snapshot"}')
    publish(peer, range(360, 372), odd=True)  # and then no more: the alert goes on
    expected = {"RedshankStreamAlert", "RedshankMessagesRejected", "RedshankTrouble"}
    wait_until(lambda: expected <= set(prometheus.firing()), PATIENCE_S)
    firing = prometheus.firing()
    assert (firing["RedshankStreamAlert"]["stream"], firing["RedshankStreamAlert"]["severity"]) == ("pump/a", "warning")
    assert firing["RedshankMessagesRejected"]["reason"] == "malformed"
    assert firing["RedshankTrouble"]["trouble"] == "clock"
    assert not [one for one in firing.values() if one["severity"] == "critical"]

    promtool("check", "metrics", content=process.get("/metrics"))
    every_query_finds_something(prometheus)

    broker.kill()
    wait_until(lambda: "RedshankBrokerAway" in prometheus.firing(), PATIENCE_S)
    assert "RedshankDown" not in prometheus.firing()
    process.popen.kill()
    wait_until(lambda: "RedshankDown" in prometheus.firing(), PATIENCE_S)
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert [rule["name"] for rule in rules] == [rule["alert"] for rule in alerting_rules()]
    assert {(rule["health"], rule.get("lastError", "")) for rule in rules} == {("ok", "")}


def every_query_finds_something(prometheus):
    """Run what Grafana would: the variables' queries in their order, then those of panels and annotations."""
    filled = {"__rate_interval": "1m"}

    def fill(query):
        return re.sub(r"\$(\w+)", lambda match: filled[match[1]], query)

    for variable in DASHBOARD["templating"]["list"][1:]:
        metric, label = re.fullmatch(r"label_values\((.+), (\w+)\)", fill(variable["query"]["query"])).groups()
        values = prometheus.get(f"label/{label}/values", **{"match[]": metric})
        assert values, variable["name"]
        filled[variable["name"]] = f"({'|'.join(values)})"
    queries = [(one["expr"], one["instant"]) for panel in panels() for one in panel["targets"]]
    queries += [(one["expr"], False) for one in DASHBOARD["annotations"]["list"]]
    for query, instant in queries:
        ask = prometheus.ask if instant else prometheus.ask_range
        wait_until(lambda: has_figures(ask(fill(query))), PATIENCE_S, query)  # noqa: B023  called at once
