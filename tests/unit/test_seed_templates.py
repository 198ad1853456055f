"""Templates of the user's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from builder.errors import InputError
from builder.seed.templates import Templates
from tests.unit.document_samples import (
    PASSWORD,
    haproxy_cfg,
    own_configuration,
    read,
    render,
    written,
)
from tests.unit.spec_samples import SHIPPED, loaded, spec


def test_a_template_of_ones_own_replaces_one_of_ours_alone(tmp_path: Path) -> None:
    (tmp_path / "hosts.j2").write_text("{% for node in nodes %}{{ node.name }} {% endfor %}")
    cluster = loaded(spec())
    assert written(cluster, "/etc/hosts", tmp_path) == "hapx-node01 hapx-node02 \n"
    assert haproxy_cfg(cluster, tmp_path) == haproxy_cfg(cluster)


def test_a_part_that_another_template_includes_can_be_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "haproxy-monitor.cfg.j2").write_text("# mine\n")
    assert haproxy_cfg(loaded(spec()), tmp_path).endswith("# mine\n")


def test_user_data_of_ones_own_adds_to_ours(tmp_path: Path) -> None:
    (tmp_path / "user-data.j2").write_text(
        "#cloud-config\n{{ node_settings | yaml }}\n{{ cluster_settings | yaml }}\nlocale: {{ 'no' | yaml }}\n"
        "write_files:\n{{ files | yaml }}\n  - path: /etc/motd\n    content: hello\n"
    )
    data = read(render(loaded(spec()), tmp_path)[0].texts["user-data"])
    assert data["write_files"][-1] == {"path": "/etc/motd", "content": "hello"}
    assert data["locale"] == "no"
    assert data["hostname"] == "hapx-node01"


@pytest.mark.parametrize(
    ("name", "text", "line", "message"),
    [
        ("hosts.j2", "a\n{{ nobody }}\n", 2, "'nobody' is undefined"),
        ("hosts.j2", "a\n\n{{ cluster.nodse }}\n", 3, "'builder.spec.model.Cluster object' has no attribute 'nodse'"),
        ("hosts.j2", "{% for x in %}\n", 1, "Expected an expression, got 'end of statement block'"),
        ("hosts.j2", "a\n{% if x %}\n", 2, "Unexpected end of template."),
        ("hosts.j2", "\n{{ 1 / 0 }}", 2, "ZeroDivisionError: division by zero"),
        ("hosts.j2", "{{ cluster | nofilter }}", 1, "No filter named 'nofilter'."),
        ("hosts.j2", "\n{% include 'gone.j2' %}", 2, "includes gone.j2, which is not there"),
        ("hosts.j2", "{{ cluster.name | reveal }}", 1, "AttributeError: 'str' object has no attribute 'text'"),
        ("hosts.j2", "\n{{ cluster | yaml }}", 2, "RepresenterError"),
        ("haproxy-monitor.cfg.j2", "\n\n{{ monitor.adress }}", 3, "'dict object' has no attribute 'adress'"),
        ("hosts.j2", "{% include 'hosts.j2' %}", 1, "RecursionError"),
        ("meta-data.j2", "\n{{ files }}", 2, "'files' is undefined"),
    ],
)
def test_what_is_wrong_with_a_template_is_told_with_its_line(
    tmp_path: Path, name: str, text: str, line: int, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        render(loaded(spec()), tmp_path)
    (problem,) = caught.value.problems
    assert problem.where == f"{tmp_path / name}:{line}"
    assert problem.message.startswith(message)


def test_a_template_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts.j2").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "hosts.j2"))) as caught:
        render(loaded(spec()), tmp_path)
    assert [problem.message for problem in caught.value.problems] == ["not UTF-8 text"]


def test_no_secret_is_in_the_error_of_a_template(tmp_path: Path) -> None:
    cluster = own_configuration(
        tmp_path,
        "my.cfg.j2",
        "{{ (stats.password | reveal) | int(default=nobody) }}\n{{ [][stats.password | reveal] }}",
    )
    with pytest.raises(InputError) as caught:
        render(cluster)
    assert PASSWORD not in f"{caught.value.message} {caught.value.problems} {caught.value.details}"


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("user-data.j2", "#cloud-config\na: [\n", "user-data of hapx-node01, by {path}:3: while parsing a flow node"),
        (
            "user-data.j2",
            "{{ node_settings | yaml }}\n",
            "user-data of hapx-node01, by {path}:1: cloud-init does not know what this is",
        ),
        (
            "user-data.j2",
            "#cloud-config\nhostname: #me\n",
            "user-data of hapx-node01, by {path}:2: hostname: has no value",
        ),
        ("meta-data.j2", "nothing\n", "meta-data of hapx-node01, by {path}:1: not a mapping"),
        ("network-config.j2", "version: 3\n", "network-config of hapx-node01, by {path}:1: version: neither 1 nor 2"),
    ],
)
def test_documents_of_ones_own_that_cloud_init_would_not_take(
    tmp_path: Path, name: str, text: str, problem: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        render(loaded(spec()), tmp_path)
    assert len(caught.value.problems) == 2
    assert str(caught.value.problems[0]).startswith(problem.format(path=tmp_path / name))


def test_the_shipped_templates_are_no_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHIPPED[0].parents[1])
    assert not Templates().is_own("user-data.j2")
