from __future__ import annotations

import pytest

from agent.app import Agent
from agent.config import load_configuration
from agent.ports import InboundMessage


@pytest.fixture
def agent(tmp_path):
    path = tmp_path / "redshank.yaml"
    path.write_text(
        f"""
agent: {{id: pi, state_dir: {tmp_path / "state"}, queue_size: 4}}
streams: [{{name: pump, topic: "plant/+", encoder: none}}]
"""
    )
    made = Agent(load_configuration(path))
    yield made
    made.store.close()


def message(number, qos):
    return InboundMessage("plant/a", b"%d" % number, 0.0, 0.0, qos, message_id=number, connection=1)


def waiting(agent):
    return [int(one.payload) for one in agent._queue]


def test_a_full_queue_drops_the_oldest_of_qos_0_and_none_of_qos_1(agent):
    agent.on_messages([message(i, 0) for i in range(6)])
    assert waiting(agent) == [2, 3, 4, 5]
    assert not agent.is_full()
    agent.on_messages([message(i, 1) for i in range(6, 12)])
    assert waiting(agent) == [6, 7, 8, 9, 10, 11]
    assert agent.is_full()
    agent.on_messages([message(12, 0)])
    assert waiting(agent)[0] == 6
    assert [int(one.payload) for one in agent._take()] == [6, 7, 8, 9, 10, 11, 12]
    assert not agent.is_full()


@pytest.mark.parametrize(("present", "left"), [(True, [1]), (False, [0, 1, 2])])
def test_what_a_kept_session_sends_again_does_not_wait_twice(agent, present, left):
    agent.on_messages([message(0, 1), message(1, 0), message(2, 1)])
    agent.on_connected(session_present=present)
    assert waiting(agent) == left


def test_a_session_that_cannot_be_stored_is_said_and_stops_nothing(agent, caplog):
    (agent.store.directory / "subscriptions.new").mkdir()
    agent.on_subscriptions({"plant/+": 1})
    assert "cannot store what the broker's session holds" in caplog.text
