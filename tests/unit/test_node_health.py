"""What `hapx health` makes of what real programs said: recorded from a pair of nodes (Debian 13), in node_samples/."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hapx import cli, clock, corosync, crm, facts, haproxy, health, present
from hapx.errors import ExitCode, NodeError
from hapx.health import Haproxy, Report, Seen, State

SAMPLES = Path(__file__).with_name("node_samples")
KNOWN = facts.parse(
    json.dumps(
        {
            "cluster": "hapx",
            "generation": "aa",
            "nodes": [{"name": f"node{n}", "id": n, "links": [f"192.0.2.{n}", f"198.51.100.{n}"]} for n in (1, 2)],
            "links": [{"number": 0, "interface": "public"}, {"number": 1, "interface": "link"}],
            "vips": [{"name": "vip", "address": "192.0.2.10", "prefix": 24, "interface": "public"}],
            "monitor": {"address": "127.0.0.1", "port": 61936, "uri": "/hapx/alive"},
        }
    ),
    "cluster.json",
)


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


def seen(state: str = "healthy", *, quorum: str = "healthy", links: str = "healthy") -> Seen:
    return Seen(
        quorum=corosync.parse_quorum(sample(f"quorum-{quorum}.txt")),
        links=corosync.parse_links(sample(f"links-{links}.txt")),
        status=crm.parse(sample(f"crm_mon-{state}.xml")),
        applied="aa",
        stamp_read=True,
        haproxy=Haproxy(True, haproxy.parse(sample("stat.csv"))),
        clock=clock.Clock(None, None),
        addresses=None,
        firewall_failed=False,
    )


def judged(what: Seen, own: str = "node1") -> Report:
    return health.judge(KNOWN, own, what)


def said(report: Report) -> list[str]:
    return [f"{problem.severity}: {problem.message}" for problem in report.problems]


def test_a_healthy_pair() -> None:
    report = judged(seen())
    assert (report.state, said(report)) == (State.HEALTHY, [])
    assert (report.quorate, report.votes, report.expected_votes, report.dc) == (True, 2, 2, "node1")
    assert [(each.name, each.online, each.standby) for each in report.nodes] == [
        ("node1", True, False),
        ("node2", True, False),
    ]
    assert [(each.peer, each.number, each.connected) for each in report.links] == [
        ("node2", 0, True),
        ("node2", 1, True),
    ]
    assert [(each.address, each.holder) for each in report.vips] == [("192.0.2.10", seen().status.holder("vip"))]  # type: ignore[union-attr]
    assert [(each.name, each.up, each.total) for each in report.haproxy.backends] == [("web", 1, 1)]
    assert {(each.id, each.node, each.running) for each in report.resources} >= {
        ("haproxy", "node1", True),
        ("haproxy", "node2", True),
    }


@pytest.mark.parametrize(
    ("what", "state", "messages"),
    [
        (seen("alone", quorum="alone"), State.DEGRADED, ["degraded: node2 is not in the cluster"]),
        (
            seen("noquorum", quorum="none"),
            State.FAILED,
            [
                "failed: no quorum: 1 of 2 votes, so nothing runs here",
                "failed: vip (192.0.2.10) is held by nobody",
                "degraded: node2 is not in the cluster",
            ],
        ),
        (
            seen("standby"),
            State.DEGRADED,
            ["degraded: node2 is in standby", "degraded: the cluster is in maintenance: Pacemaker only watches"],
        ),
        (seen("failcount"), State.DEGRADED, ["degraded: vip failed on node1 (1 x)"]),
        (seen(links="one-down"), State.DEGRADED, ["degraded: link 1 to node2 is down"]),
        (
            replace(seen(), applied="bb"),
            State.DEGRADED,
            ["degraded: this node has the seed's generation aa, the cluster runs bb"],
        ),
        (
            replace(seen(), applied=None),
            State.DEGRADED,
            ["degraded: the cluster runs without the seed's configuration"],
        ),
        (replace(seen(), applied=None, stamp_read=False), State.HEALTHY, []),
        (
            replace(seen(), quorum=None, status=None, stamp_read=False, links={}),
            State.FAILED,
            [
                "failed: Corosync does not answer: this node is not in the cluster",
                "failed: Pacemaker does not answer: nothing is managed here",
            ],
        ),
        (
            replace(seen(), haproxy=Haproxy(True, (haproxy.Backend("web", 0, 2),))),
            State.DEGRADED,
            ["degraded: backend web: none of its servers is up (2)"],
        ),
        (replace(seen(), clock=clock.Clock(True, -3600.0)), State.DEGRADED, ["degraded: the clock is -3600.0 s off"]),
        (replace(seen(), clock=clock.Clock(False, None)), State.HEALTHY, []),
        (
            replace(seen(), firewall_failed=True),
            State.DEGRADED,
            ["degraded: the packet filter is not loaded: this node lets everything in"],
        ),
    ],
)
def test_what_is_wrong_is_said_the_cause_first(what: Seen, state: State, messages: list[str]) -> None:
    report = judged(what)
    for message in messages:
        assert any(each.startswith(message) for each in said(report)), said(report)
    assert report.state is state
    assert bool(messages) == bool(report.problems)
    assert all(problem.hint for problem in report.problems)
    severities = [problem.severity for problem in report.problems]
    assert severities == sorted(severities, key=[State.FAILED, State.DEGRADED].index)


def test_a_dead_haproxy_is_worse_where_the_address_is() -> None:
    dead = replace(seen(), haproxy=Haproxy(False, ()))
    holder = dead.status.holder("vip") if dead.status is not None else None
    other = next(node.name for node in KNOWN.nodes if node.name != holder)
    assert judged(dead, str(holder)).state is State.FAILED
    assert judged(dead, other).state is State.DEGRADED


def test_an_address_that_is_not_where_it_should_be_is_a_failure() -> None:
    holder = judged(seen()).vips[0].holder
    other = next(node.name for node in KNOWN.nodes if node.name != holder)
    assert judged(replace(seen(), addresses={"192.0.2.10": "public"}), str(holder)).state is State.HEALTHY
    assert said(judged(replace(seen(), addresses={}), str(holder))) == ["failed: vip (192.0.2.10) is not on public"]
    assert judged(replace(seen(), addresses={"192.0.2.10": "public"}), other).state is State.FAILED


def test_exit_codes_and_json_are_those_of_the_contract() -> None:
    codes = {state: state.exit_code for state in State}
    assert codes == {State.HEALTHY: ExitCode.OK, State.DEGRADED: ExitCode.FAILED, State.FAILED: ExitCode.BROKEN}
    data = json.loads(json.dumps(judged(seen("alone", quorum="alone")).as_data()))
    assert list(data) == [
        *("state", "cluster", "node", "generation", "applied", "quorate", "votes", "expected_votes", "dc", "nodes"),
        *("links", "vips", "haproxy", "resources", "clock", "problems"),
    ]
    assert data["nodes"][1] == {"name": "node2", "id": 2, "online": False, "standby": False}
    assert data["problems"][0]["severity"] == "degraded"


def test_a_person_reads_the_state_first_and_then_what_to_do() -> None:
    lines = present.report(judged(seen("alone", quorum="alone"))).splitlines()
    assert lines[0] == "DEGRADED  hapx, seen from node1"
    assert lines[-1].startswith("      -> ")
    assert max(map(len, lines)) <= 120


def test_chronys_words() -> None:
    tracking = "C0000201,192.0.2.1,3,1763839578.1,-0.000012,0.00001,0.00002,-1.2,0.0,0.1,0.01,0.02,64.0,Normal"
    assert clock.parse(tracking) == clock.Clock(True, -0.000012)
    nobody = "00000000,,0,0.000000000,0.000000000,0,0,0,0,0,1.0,1.0,0.0,Not synchronised"
    assert clock.parse(nobody) == clock.Clock(False, None)
    assert clock.parse("506 Cannot talk to daemon\n") == clock.Clock(None, None)


@pytest.mark.parametrize("text", ["", "<", "crm_mon: Error"])
def test_what_is_no_xml_of_crm_mon_is_said(text: str) -> None:
    with pytest.raises(NodeError):
        crm.parse(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"cluster": 1}', "nonsense"])
def test_facts_that_are_none_are_said(text: str) -> None:
    with pytest.raises(NodeError, match=r"cluster\.json: not what a seed has there"):
        facts.parse(text, "cluster.json")


@pytest.mark.parametrize("given", ["0", "-1", "601", "soon"])
def test_a_time_limit_is_a_number_of_seconds(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["health", "--timeout", given]) == ExitCode.USAGE
    assert "--timeout" in capsys.readouterr().err


def test_what_hangs_is_waited_for_as_long_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for programs: one that sleeps in place of each."""
    sleeping = ("sleep", "60")
    monkeypatch.setattr(crm, "ARGV", sleeping)
    began = time.monotonic()
    seen = health.see(KNOWN, 0.5)
    assert seen.status is None
    assert 0.5 <= time.monotonic() - began < 10
