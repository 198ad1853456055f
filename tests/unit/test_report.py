"""The web page on a bake: everything is in it, nothing comes from elsewhere, names are text and not HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from lxml import etree, html

from builder import report, topology
from builder.errors import InputError
from builder.image.companions import Companion, beside
from builder.image.verify import Report
from builder.spec import derived, load
from tests import releases

SEEDS = Path(__file__).resolve().parents[2] / "seeds"
MANIFEST = releases.manifest("a" * 64, 12)


@pytest.fixture(scope="module")
def page() -> str:
    checked = Report(Path("hapx-1.2-amd64.ova"), 209_090_560, "a" * 64, (), 8 << 30, ())
    return report.render(MANIFEST, checked, load(SEEDS / "cluster.yaml"))


def test_everything_is_in_it(page: str) -> None:
    text = html.fromstring(page).text_content()
    for package in releases.PACKAGES:
        assert package["name"] in text
        assert package["version"] in text
    for said in (*MANIFEST["stages"], "209.1 MB", "8 GiB", "a" * 64, "hapx-node01", "192.168.56.10", "1.6.6"):
        assert said in text, said
    assert len(html.fromstring(page).xpath("//section[h2='Checks']//tr")) == 1 + len(report.GROUPS)


def test_nothing_comes_from_elsewhere(page: str) -> None:
    document = html.fromstring(page)
    assert document.xpath("//script | //link | //img | //iframe | //object | //@src | //@href | //@onclick") == []
    assert not re.search(r"url\(|@import|https?://", page)
    assert document.xpath("//meta[@name='viewport']/@content") == ["width=device-width, initial-scale=1"]
    assert "prefers-color-scheme: dark" in page


def test_stages_are_one_after_the_other() -> None:
    bars = report.stages({"a": 1.0, "b": 3.0})
    assert [(bar.name, bar.start, bar.length, bar.value) for bar in bars] == [
        ("a", 0.0, 25.0, "1.0 s"),
        ("b", 25.0, 75.0, "3.0 s"),
    ]
    assert report.stages({}) == []


def test_the_largest_packages_come_first(page: str) -> None:
    names = html.fromstring(page).xpath("//section[h2='The largest packages']//span[@class='name']/text()")
    assert names == ["libc6", "haproxy", "libstdc++6", "openssh-server", "tzdata"]


def test_names_are_text() -> None:
    manifest = releases.manifest("a" * 64, 12)
    manifest["packages"][0]["version"] = "<script>alert(1)</script>"
    checked = Report(Path('<b>".ova'), 1, "a" * 64, (), None, ())
    page = report.render(manifest, checked, None)
    assert html.fromstring(page).xpath("//script") == []
    assert "&lt;b&gt;" in page
    assert '<b>"' not in page


@pytest.mark.parametrize("spec", sorted(SEEDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_picture_shows_every_node_network_and_address(spec: Path) -> None:
    cluster = load(spec)
    picture = etree.fromstring(topology.draw(cluster))
    texts = picture.xpath("//text/text()")
    for node in cluster.nodes:
        assert node.name in texts
        for network in cluster.networks:
            for interface in derived.addresses(cluster, node, network):
                assert any(str(interface.ip) in text for text in texts)
    assert all(any(text.split(" ")[0] == network for text in texts) for network in cluster.networks)
    assert all(str(vip.address) in texts for vip in cluster.vips)
    width, height = (int(picture.get(side)) for side in ("width", "height"))
    for element in picture.iter("{*}line", "{*}rect", "{*}circle", "line", "rect", "circle", "text"):
        for name in ("x", "x1", "x2", "cx"):
            assert 0 <= int(element.get(name, 0)) <= width
        for name in ("y", "y1", "y2", "cy"):
            assert 0 <= int(element.get(name, 0)) <= height


def test_it_is_written_beside_the_ova_by_rename(tmp_path: Path) -> None:
    ova = releases.make(tmp_path / "dist", b"no OVA at all")
    before = {path.name for path in ova.parent.iterdir()}
    made = report.write(ova, beside(ova, Companion.REPORT), None)
    assert {path.name for path in ova.parent.iterdir()} - before == {"hapx-1.2-amd64.html"}
    assert "tar.format" in made.read_text()


def test_without_a_manifest_there_is_nothing_to_report(tmp_path: Path) -> None:
    ova = releases.make(tmp_path / "dist", b"x")
    path = beside(ova, Companion.MANIFEST)
    whole = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in whole.items() if name != "stages"}))
    with pytest.raises(InputError, match="something is missing in this build manifest"):
        report.write(ova, tmp_path / "x.html", None)
    path.unlink()
    with pytest.raises(InputError, match="no build manifest"):
        report.write(ova, tmp_path / "x.html", None)
    assert not (tmp_path / "x.html").exists()
