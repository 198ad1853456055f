"""The OCF agent on a real HAProxy under a real systemd, in a container without a cluster: states and what it says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cluster import container, world
from tests.cluster.container import Container
from tests.cluster.observers import wait_until

pytestmark = pytest.mark.slow

AGENT = "/usr/lib/ocf/resource.d/hapx/haproxy"
PREFIX = "hapx-agent"
BOOT_SECONDS = 60.0
VIP = "192.0.2.10"  # of an example (RFC 5737); the container has no such address

# OCF resource agent API 1.1, "Exit status codes"; 190 is Pacemaker's (Pacemaker Administration, "Agents").
OK, GENERIC, ARGS, UNIMPLEMENTED, CONFIGURED, STOPPED, DEGRADED = 0, 1, 2, 3, 6, 7, 190

CONFIGURATION = f"""
global
    log /dev/log local0
    chroot /var/lib/haproxy
    user haproxy
    group haproxy
    stats socket /run/haproxy/admin.sock mode 660 level admin
    maxconn 400
defaults
    mode http
    log global
    option httplog
    retries 0
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend hapx.monitor
    bind 127.0.0.1:61936
    monitor-uri /hapx/alive
frontend web
    bind {VIP}:80 transparent
    bind 127.0.0.1:8080
    http-request deny deny_status 410 if {{ path_reg ^/(a|b)+[0-9]$ }}
    default_backend web
backend web
    server web1 127.0.0.1:9
backend without-servers
backend resting
    server web1 127.0.0.1:9 disabled
"""
# Besides `resting`, none is up then either: nothing listens there.
DOWN = CONFIGURATION.replace("server web1 127.0.0.1:9\n", "server web1 127.0.0.1:9 check inter 50ms\n")

# A listener without SO_REUSEPORT: nobody else gets the port.
TAKEN = CONFIGURATION + "frontend taken\n    bind 127.0.0.1:8099\n"
_TAKE = "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 8099)); s.listen(); time.sleep(60)"

_SETUP = f"""
agent={AGENT} config=/etc/haproxy/haproxy.cfg
export OCF_RESKEY_CRM_meta_timeout=4000
pids() {{ cat /sys/fs/cgroup/system.slice/haproxy.service/cgroup.procs 2>/dev/null; }}
state() {{ systemctl show --property=ActiveState --value haproxy; }}
until_is() {{ i=0; until [ "$(eval "$1")" = "$2" ]; do i=$((i + 1)); [ $i -lt 200 ]; sleep 0.02; done; }}
"""


@dataclass(frozen=True, slots=True)
class Given:
    """A state of HAProxy: how it comes to it from being stopped, and what each action's exit code is then."""

    configuration: str
    script: str
    codes: dict[str, int]


_START = "$agent start"
STATES: dict[str, Given] = {
    "stopped": Given(
        CONFIGURATION,
        "",
        {"monitor": STOPPED, "probe": STOPPED, "start": OK, "stop": OK, "reload": STOPPED, "reload-agent": OK},
    ),
    "serving": Given(
        CONFIGURATION,
        _START,
        {"monitor": OK, "probe": OK, "deep": OK, "start": OK, "stop": OK, "reload": OK, "reload-agent": OK},
    ),
    "no backend up": Given(
        DOWN,
        f"{_START}; until_is 'echo show stat | nc -N -U /run/haproxy/admin.sock | grep -c ^web,.*,DOWN,' 2",
        {"monitor": OK, "deep": DEGRADED, "start": OK, "stop": OK},
    ),
    "no stats socket": Given(re.sub(".*stats socket.*\n", "", CONFIGURATION), _START, {"monitor": OK, "deep": OK}),
    "just killed": Given(
        CONFIGURATION,
        f"{_START}; kill -KILL $(pids)",
        {"monitor": OK, "probe": OK, "start": OK, "stop": OK},
    ),
    "worker just killed": Given(
        CONFIGURATION,
        f"{_START}; kill -KILL $(pids | tail -n 1)",
        {"monitor": OK, "stop": OK},
    ),
    "worker hangs": Given(
        CONFIGURATION,
        f"{_START}; kill -STOP $(pids | tail -n 1)",
        {"monitor": GENERIC, "probe": GENERIC, "start": GENERIC, "stop": OK},
    ),
    "all of it hangs": Given(CONFIGURATION, f"{_START}; kill -STOP $(pids)", {"monitor": GENERIC, "stop": OK}),
    "failed": Given(
        CONFIGURATION,
        f"{_START}; i=0; until [ $(state) = failed ]; do kill -KILL $(pids) 2>/dev/null || sleep 0.02;"
        " i=$((i + 1)); [ $i -lt 500 ]; done",
        {"monitor": STOPPED, "probe": STOPPED, "start": OK, "stop": OK, "reload": STOPPED},
    ),
    "stopped, bad configuration": Given(
        CONFIGURATION + "nonsense\n",
        "",
        {"monitor": STOPPED, "start": ARGS, "stop": OK, "reload": STOPPED, "validate-all": OK, "validate-deep": ARGS},
    ),
    "stopped, no configuration": Given("", "rm $config", {"monitor": STOPPED, "start": ARGS, "stop": OK}),
    "stopped, address taken": Given(
        TAKEN, f'python3 -c "{_TAKE}" >/dev/null 2>&1 & sleep 0.3', {"start": GENERIC, "stop": OK}
    ),
    "stopped, nobody asks it": Given(
        CONFIGURATION.replace("monitor-uri", "#"), "", {"start": GENERIC, "monitor": STOPPED}
    ),
    "serving, bad configuration": Given(
        CONFIGURATION,
        f"{_START}; echo nonsense >>$config",
        {"monitor": OK, "start": OK, "stop": OK, "reload": ARGS},
    ),
    "serving, a new address taken": Given(
        CONFIGURATION,
        f'{_START}; python3 -c "{_TAKE}" >/dev/null 2>&1 & sleep 0.3; printf "frontend t\\n bind :8099\\n" >>$config',
        {"monitor": OK, "reload": GENERIC},
    ),
}
_ACTIONS = {
    "monitor": "OCF_RESKEY_CRM_meta_interval=2000 $agent monitor",
    "probe": "OCF_RESKEY_CRM_meta_interval=0 $agent monitor",
    "deep": "OCF_CHECK_LEVEL=10 $agent monitor",
    "validate-deep": "OCF_CHECK_LEVEL=10 $agent validate-all",
}
# What an action brings about where it succeeds: the unit's state, and whether HAProxy answers.
_OUTCOMES = {"start": ("active", "200"), "stop": ("inactive", "")}


@dataclass
class Box:
    """A node without a cluster, and what the agent says in it."""

    node: Container
    said: str = field(default="")

    def prepare(self, configuration: str) -> None:
        """Stop HAProxy, and give it this configuration."""
        script = "$agent stop; pkill -f 'time.sleep(60)' || true; cat >$config"
        self.node.run("sh", "-euc", _SETUP + script, input=configuration)

    def sh(self, script: str) -> str:
        """What a script says, that may use the names of _SETUP."""
        return self.node.sh(_SETUP + script, timeout=60)

    def code(self, action: str, **parameters: str) -> int:
        """An action's exit code; what it says on standard error is kept."""
        export = "".join(f"export OCF_RESKEY_{name}='{value}'; " for name, value in parameters.items())
        call = _ACTIONS.get(action, f"$agent {action}")
        result = self.node.run("sh", "-c", f"{_SETUP}{export}{call}", check=False)
        self.said = result.stderr
        return result.returncode

    def answer(self, path: str = "/hapx/alive", port: int = 61936) -> str:
        """The HTTP status that HAProxy answers with; empty where it does not."""
        curl = f"curl -s -o /dev/null -m 1 -w '%{{http_code}}' http://127.0.0.1:{port}{path} || true"
        return self.sh(curl).removeprefix("000")

    def state(self) -> str:
        """The unit's state."""
        return self.sh("state").strip()


@pytest.fixture(scope="module")
def booted(cluster_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """The image as it is, unseeded, booted; nobody waits for a network, as it has no card."""
    folder = tmp_path_factory.mktemp("agent")
    container.tidy(PREFIX)
    cgroup = f"{PREFIX}-{os.getpid()}"
    try:
        with world.create(folder) as place:
            node = Container(place, "node1", cluster_root, [], cgroup)
            waiting = "etc/systemd/system/systemd-networkd-wait-online.service.d/test.conf"
            node.write(waiting, "[Service]\nExecStart=\nExecStart=/bin/true\n")
            node.start()
            wait_until(
                lambda: node.run("systemctl", "is-system-running", check=False).stdout.strip() == "running",
                BOOT_SECONDS,
                "all units of the image to be up",
                every=0.3,
            )
            yield node
            node.power_off()
    finally:
        for base in container.hierarchies():
            container.remove_cgroup(base / cgroup)


@pytest.fixture
def box(booted: Container) -> Box:
    """The node with a good configuration, HAProxy stopped."""
    made = Box(booted)
    made.prepare(CONFIGURATION)
    return made


# States and actions


@pytest.mark.parametrize(
    ("name", "action"), [(name, action) for name, state in STATES.items() for action in state.codes]
)
def test_exit_code(name: str, action: str, box: Box) -> None:
    given = STATES[name]
    if given.configuration != CONFIGURATION:
        box.prepare(given.configuration)
    box.sh(given.script)
    worker = box.sh("pids | tail -n 1 || true")
    code = box.code(action)
    assert code == given.codes[action], box.said
    if code not in {OK, STOPPED}:
        assert "ocf-exit-reason:" in box.said
    if code == OK and action in _OUTCOMES:
        assert (box.state(), box.answer()) == _OUTCOMES[action]
    if action == "reload" and code not in {OK, STOPPED}:
        assert (box.sh("pids | tail -n 1"), box.answer()) == (worker, "200"), "the old worker does not serve"
    if action == "reload" and code == OK:
        assert box.sh("pids | tail -n 1") != worker
        assert box.answer() == "200"


@pytest.mark.parametrize(
    ("action", "parameters", "code"),
    [
        ("validate-all", {"port": "http"}, CONFIGURED),
        ("validate-all", {"port": "0"}, CONFIGURED),
        ("validate-all", {"port": "65536"}, CONFIGURED),
        ("validate-all", {"port": "65535"}, OK),
        ("validate-all", {"timeout": "0"}, CONFIGURED),
        ("validate-all", {"timeout": "1.5"}, CONFIGURED),
        ("validate-all", {"uri": "alive"}, CONFIGURED),
        ("validate-all", {"uri": "/a b"}, CONFIGURED),
        ("start", {"port": ""}, CONFIGURED),
        ("start", {"config": "/nowhere"}, ARGS),
        ("start", {"port": "61937"}, GENERIC),
        ("stop", {"port": "http"}, OK),
        ("promote", {}, UNIMPLEMENTED),
        ("", {}, UNIMPLEMENTED),
        ("meta-data", {}, OK),
    ],
)
def test_exit_code_with_parameters(action: str, parameters: dict[str, str], code: int, box: Box) -> None:
    assert box.code(action, **parameters) == code, box.said


def test_it_asks_where_its_parameters_say(box: Box) -> None:
    elsewhere = CONFIGURATION.replace("127.0.0.1:61936", "[::1]:61000").replace("/hapx/alive", "/other")
    box.prepare(elsewhere)
    assert box.code("start", address="::1", port="61000", uri="/other") == OK, box.said
    assert box.code("monitor", address="::1", port="61000", uri="/other") == OK
    assert box.code("monitor") == GENERIC


def test_the_reason_is_haproxys_own(box: Box) -> None:
    box.prepare(CONFIGURATION + "nonsense\n")
    box.code("start")
    (reason,) = re.findall("^ocf-exit-reason:(.*)$", box.said, re.MULTILINE)
    assert "/etc/haproxy/haproxy.cfg is not valid" in reason
    assert "nonsense" in reason


# The standard


def test_ocf_tester_finds_nothing(box: Box) -> None:
    # It validates with version 1.0's DTD, which lacks 1.1's words: what it calls xmllint reads 1.1's schema here.
    box.node.run(
        "sh",
        "-euc",
        "cat >/usr/local/bin/xmllint; chmod 755 /usr/local/bin/xmllint",
        input="""#!/usr/bin/python3
import sys
from lxml import etree
schema = etree.RelaxNG(etree.parse("/usr/share/pacemaker/api/ocf-ra-1.1.rng"))
schema.assertValid(etree.parse(sys.stdin.buffer))
""",
    )
    said = box.sh("ocf-tester -n haproxy $agent 2>&1")
    assert said.splitlines()[-1] == f"{AGENT} passed all tests"


def test_pacemaker_reads_its_meta_data(box: Box) -> None:
    told = box.sh("crm_resource --show-metadata ocf:hapx:haproxy")
    assert "<version>1.1</version>" in told
    # What it says of its defaults is what it uses.
    defaults = dict(re.findall(r'<parameter name="(\w+)".*?default="([^"]*)"', told, re.DOTALL))
    used = dict(re.findall(r"\$\{OCF_RESKEY_(?!CRM)(\w+)-([^}]*)\}", box.sh("cat $agent")))
    assert defaults == used


def test_it_is_a_plain_shell_script(box: Box) -> None:
    box.sh("head -n 1 $agent | grep -qx '#!/bin/sh'; dash -n $agent")


# Time


def test_stop_is_quick_and_a_look_is_cheap(box: Box) -> None:
    box.code("start")
    looks = 50
    took = box.sh(
        f"times=0; i=0; while [ $i -lt {looks} ]; do $agent monitor; i=$((i + 1)); done; cat /proc/$$/stat"
    ).rpartition(")")[2]
    ticks = sum(int(value) for value in took.split()[13:15])  # cutime, cstime: what its children used
    seconds_each = ticks / os.sysconf("SC_CLK_TCK") / looks
    assert seconds_each < 0.03, "a look every 2 s takes over 1.5 % of a processor"
    began, ended = box.sh("cat /proc/uptime; $agent stop; cat /proc/uptime").splitlines()
    # 0.1 s where nothing else runs.
    assert float(ended.split()[0]) - float(began.split()[0]) < 1.0


def test_what_is_killed_answers_again_at_once(box: Box) -> None:
    box.code("start")
    took = []
    for which in ("head", "tail"):
        script = f"kill -KILL $(pids | {which} -n 1); $agent monitor; cat /proc/uptime"
        began, ended = box.sh(f"cat /proc/uptime; {script}").splitlines()
        took.append(float(ended.split()[0]) - float(began.split()[0]))
    # 0.2 s where nothing else runs.
    assert max(took) < 1.0, took


# systemd and the agent


def test_a_crash_loop_ends(box: Box) -> None:
    box.code("start")
    box.sh("i=0; until [ $(state) = failed ]; do kill -KILL $(pids) 2>/dev/null || sleep 0.02; i=$((i + 1));"
           " [ $i -lt 500 ]; done")  # fmt: skip
    assert box.node.sh("systemctl show --property=NRestarts --value haproxy").strip() == "5"  # the last one refused
    assert box.code("monitor") == STOPPED
    # The next start has as many tries.
    assert box.code("start") == OK
    box.sh("kill -KILL $(pids)")
    assert box.code("monitor") == OK


def test_it_stops_haproxy_while_systemd_waits_for_pacemaker_to_do_so(box: Box) -> None:
    """As in a shutdown: HAProxy's own stop is waiting for Pacemaker's, whose agent is to stop HAProxy."""
    assert "pacemaker.service" in box.node.sh("systemctl show --property=Before --value haproxy").split()
    unit = f"""[Unit]
After=haproxy.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={AGENT} start
ExecStop=/bin/sh -c '{AGENT} stop; echo $? $(systemctl is-active haproxy) >/run/stopped'
TimeoutStopSec=20
"""
    box.node.run("sh", "-euc", "cat >/run/systemd/system/manager.service; systemctl daemon-reload", input=unit)
    box.sh("systemctl start manager; systemctl stop manager.service haproxy.service")
    assert box.sh("cat /run/stopped").split() == ["0", "inactive"]


def test_systemctl_reload_of_a_bad_configuration_fails_and_the_old_worker_serves(box: Box) -> None:
    box.code("start")
    worker = box.sh("pids | tail -n 1; echo nonsense >>$config")
    assert box.node.run("systemctl", "reload", "haproxy", check=False).returncode != 0
    assert (box.sh("pids | tail -n 1"), box.answer()) == (worker, "200")


# The unit's sandbox


def test_the_sandbox_is_as_tight_as_it_can_be(box: Box) -> None:
    told = box.node.sh("systemd-analyze security --no-pager haproxy.service | tail -n 1")
    (exposure,) = re.findall(r"exposure level for haproxy.service: ([0-9.]+)", told)
    assert float(exposure) <= 3.3  # Debian's own: 9.2


def test_haproxy_works_in_its_sandbox(box: Box) -> None:
    box.code("start")
    # An address that this node does not have, a low port.
    assert f"{VIP}:80" in box.sh("ss -Hlnt")
    # Compiled regular expressions.
    assert [box.answer(path, 8080) for path in ("/ab7", "/x")] == ["410", "503"]
    # The log, out of its chroot.
    wait_until(lambda: '"GET /ab7 HTTP/1.1"' in box.sh("journalctl --no-pager -t haproxy -n 20"), 5, "HAProxy's log")
    assert box.sh("cat /run/haproxy.pid; stat -c %a:%F /run/haproxy/admin.sock").split()[1:] == ["660:socket"]
    box.sh("systemctl reload haproxy")
    wait_until(lambda: box.answer() == "200", 5, "an answer after the reload")


def test_haproxy_can_do_no_more_than_it_has_to(box: Box) -> None:
    box.code("start")
    status = dict(line.split(":\t", 1) for line in box.sh("cat /proc/$(pids | tail -n 1)/status").splitlines())
    assert (int(status["CapEff"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, "1", "2")
    assert status["Uid"].split()[0] == box.node.sh("id -u haproxy").strip()
    # As its master would: nothing of the system is there to be written to.
    inside = "nsenter --mount --target=$(pids | head -n 1) touch"
    for path in ("/etc/x", "/usr/x", "/var/x"):
        assert "Read-only file system" in box.sh(f"{inside} {path} 2>&1 || true")


# The image without a seed


def test_the_cluster_waits_for_its_seed(booted: Container) -> None:
    units = ("corosync", "pacemaker", "hapx-cib", "hapx-firewall", "hapx-reconcile")
    shown = booted.sh(f"systemctl show --property=ActiveState,ConditionResult,UnitFileState {' '.join(units)}")
    paragraphs = [dict(line.split("=", 1) for line in each.splitlines()) for each in shown.strip().split("\n\n")]
    assert paragraphs == [{"ActiveState": "inactive", "ConditionResult": "no", "UnitFileState": "enabled"}] * len(units)
    assert booted.run("systemctl", "is-enabled", "haproxy", check=False).stdout.strip() == "disabled"
