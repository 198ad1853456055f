"""The specs that ship, and `hapx-build spec` as a person runs it."""

from __future__ import annotations

import json
import sys
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from builder.command import Result, run, which
from builder.errors import ExitCode
from builder.spec import derived, load
from builder.spec.show import spelled_out, to_yaml
from tests.unit.spec_samples import SEEDS, SHIPPED, changed, loaded, spec, specs, written

HAPX_BUILD = str(Path(sys.executable).with_name("hapx-build"))


def _run(*arguments: str, cwd: Path | None = None) -> Result:
    return run([HAPX_BUILD, "spec", *arguments], check=False, timeout=60, cwd=cwd)


def test_the_laptops_spec_is_two_nodes_on_virtualboxs_own_network() -> None:
    cluster = load(SEEDS / "cluster.yaml")
    assert [str(subnet) for subnet in cluster.networks["public"].subnets] == ["192.168.56.0/24"]
    assert len(cluster.nodes) == 2
    assert [link.network for link in derived.links(cluster)] == ["public", "link"]
    (vip,) = cluster.vips
    assert derived.vip_interface(cluster, vip) == ip_interface("192.168.56.10/24")
    # VirtualBox's own: this machine at .1, its DHCP server at .100 with addresses from there on.
    own = [address for link in derived.links(cluster)[:1] for address in link.addresses.values()]
    assert all(ip_address("192.168.56.1") < address < ip_address("192.168.56.100") for address in (*own, vip.address))


def test_the_dmz_is_the_guides_network() -> None:
    cluster = load(SEEDS / "kube-dmz.yaml")
    assert [node.name for node in cluster.nodes] == ["hapx-node01", "hapx-node02"]
    assert derived.fqdn(cluster, cluster.nodes[0]) == "hapx-node01.kube.demo"
    assert derived.cards(cluster) == ("dmz",)
    assert (cluster.networks["dmz"].kind, cluster.networks["dmz"].name or "dmz") == ("intnet", "dmz")
    (vip,) = cluster.vips
    assert derived.vip_interface(cluster, vip) == ip_interface("192.168.4.20/27")
    assert derived.vip_broadcast(cluster, vip) == ip_address("192.168.4.31")
    assert cluster.networks[vip.network].vlan == 41
    assert all(not derived.addresses(cluster, node, vip.network) for node in cluster.nodes)
    (link,) = derived.links(cluster)
    assert cluster.networks[link.network].vlan == 43
    assert [str(subnet) for subnet in cluster.networks[link.network].subnets] == ["192.168.4.32/27"]
    assert ip_address("192.168.4.57") not in link.addresses.values()  # busybox
    assert cluster.networks[link.network].gateway == ip_address("192.168.4.62")
    assert cluster.networks[link.network].dns == (ip_address("192.168.4.1"),)
    (frontend,), (backend,) = cluster.haproxy.frontends, cluster.haproxy.backends
    assert (frontend.name, frontend.port, frontend.mode) == ("kubernetes-apiserver-https", 6443, "tcp")
    assert (backend.name, backend.balance, backend.options) == (frontend.backend, "roundrobin", ("option tcp-check",))
    servers = [(server.name, server.address, server.port) for server in backend.servers]
    assert servers == [(f"kube-mast0{place}", f"kube-mast0{place}", 6443) for place in (1, 2, 3)]
    assert cluster.haproxy.stats is not None
    assert cluster.haproxy.stats.port == 32700


@pytest.mark.skipif(which("ssh-keygen") is None, reason="needs ssh-keygen (openssh-client)")
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_line_that_is_commented_out_can_be_used(path: Path, tmp_path: Path) -> None:
    """Taking the # from the alternatives at the end, and the line above them away, gives a valid spec."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "kube-ca")], timeout=60)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519.pub").write_text((tmp_path / "kube-ca.pub").read_text())
    head, _, tail = path.read_text().partition("\nssh:\n")
    _, *lines = tail.splitlines()
    (tmp_path / "spec.yaml").write_text("\n".join([head, "ssh:", *(line.replace("# ", "", 1) for line in lines)]))
    result = run(
        [HAPX_BUILD, "spec", "show", "spec.yaml", "--json"], timeout=60, cwd=tmp_path, env={"HOME": str(tmp_path)}
    )
    ssh = json.loads(result.stdout)["ssh"]
    assert [key.split()[0] for key in (*ssh["keys"], *ssh["trusted_ca"])] == ["ssh-ed25519"]


def _without_derived(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != "derived"}


@settings(max_examples=60, deadline=None)
@given(specs())
def test_what_show_prints_is_a_spec_of_the_same_cluster(values: dict[str, Any]) -> None:
    shown = spelled_out(loaded(values))
    with written(to_yaml(_without_derived(shown))) as path:
        assert spelled_out(load(path)) == shown


@pytest.mark.parametrize(
    "values",
    [
        changed(spec(), {"haproxy.stats": None}),
        changed(spec(), {"networks.v": {"vlan": 41, "parent": "public"}}),
        changed(spec(), {"nodes.0.disks": [{"size_mib": 5}], "nodes.0.host": "qemu:///system"}),
        {**spec(1), "vips": [], "haproxy": {"config": __file__}},
    ],
    ids=["no statistics", "VLAN", "disk", "a configuration of one's own"],
)
def test_show_leaves_nothing_out_and_adds_nothing(values: dict[str, Any]) -> None:
    shown = spelled_out(loaded(values))
    assert spelled_out(loaded(_without_derived(shown))) == shown


def test_show_prints_yaml_for_people_and_json_for_machines() -> None:
    path = str(SEEDS / "kube-dmz.yaml")
    as_json = json.loads(_run("show", path, "--json").stdout)
    assert as_json == spelled_out(load(SEEDS / "kube-dmz.yaml"))
    assert _run("show", path).stdout == to_yaml(as_json)
    assert as_json["derived"]["vips"]["vip"]["broadcast"] == "192.168.4.31"
    assert as_json["derived"]["interfaces"] == {"dmz": "dmz", "vip": "dmz.41", "cluster": "dmz.43"}


def test_check_says_that_a_spec_is_in_order(tmp_path: Path) -> None:
    for path in SHIPPED:
        result = _run("check", str(path))
        assert (result.returncode, result.stderr) == (ExitCode.OK, "")
        assert ": in order (cluster " in result.stdout
    assert json.loads(_run("check", "--json", cwd=tmp_path).stdout)["cluster"] == "hapx"


def test_check_takes_the_working_folders_spec_and_tells_every_error(tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds/cluster.yaml").write_text("name: Mine\nnodes:\n  - nmae: a\n")
    result = _run("check", cwd=tmp_path)
    assert result.returncode == ExitCode.INPUT
    assert result.stdout == ""
    told = result.stderr.splitlines()
    assert told[0] == "error: seeds/cluster.yaml: 5 errors in the cluster spec"
    assert [line.split()[0] for line in told[1:]] == [f"seeds/cluster.yaml:{line}:" for line in (1, 1, 1, 3, 3)]
    events = json.loads(_run("check", "--json", cwd=tmp_path).stdout)
    assert (events["event"], events["exit_code"], len(events["details"])) == ("error", ExitCode.INPUT, 5)


def test_schema_prints_what_lies_beside_the_specs() -> None:
    assert _run("schema").stdout == (SEEDS / "cluster.schema.json").read_text()


@pytest.mark.parametrize("arguments", [["--help"], ["spec", "--help"], ["spec", "check", "--help"]], ids=" ".join)
def test_help_loads_nothing_that_is_slow(arguments: list[str]) -> None:
    script = (
        f"import sys; sys.argv = ['hapx-build', *{arguments!r}]\nfrom builder.cli import main\ntry: main()\nfinally: "
    )
    script += "print(sorted({'builder.spec', 'ruamel', 'jinja2', 'rich', 'pycdlib'} & set(sys.modules)))"
    assert run([sys.executable, "-c", script], timeout=60).stdout.splitlines()[-1] == "[]"


def test_a_command_without_its_subcommand_is_shown_the_help() -> None:
    result = _run()
    assert result.returncode == ExitCode.USAGE
    assert "check" in result.stdout
