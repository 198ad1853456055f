"""What Packer says, taken apart; tests/integration/test_packer_run.py has Packer itself say it."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builder.image import packer
from builder.image.packer import Artifact, Event, EventKind, Line

PACKER = packer.Packer(Path("/usr/bin/packer"), (1, 6, 6))


def read(*lines: str, secrets: tuple[str, ...] = ()) -> tuple[list[Event], str, "packer._Reader"]:
    log, events = io.StringIO(), list[Event]()
    reader = packer._Reader(log, events.append, secrets)
    for line in lines:
        reader.line(line)
    return events, log.getvalue(), reader


def machine(text: str, kind: str = "message") -> str:
    """A line as Packer 1.6.6 writes it (packer/ui.go, MachineReadableUi)."""
    text = text.replace(",", "%!(PACKER_COMMA)").replace("\r", "\\r").replace("\n", "\\n")
    return f"1600000000,,ui,{kind},{text}"


class TestArgv:
    def test_one_source_of_a_folder(self):
        argv = packer.build_argv(
            PACKER, Path("/x/packer"), source="null.bootstrap", var_file=Path("/w/v.pkrvars.json"), force=False
        )
        assert argv == [
            "/usr/bin/packer",
            "build",
            "-machine-readable",
            "-color=false",
            "-only=null.bootstrap",
            "-var-file=/w/v.pkrvars.json",
            "/x/packer",
        ]

    @pytest.mark.parametrize("force", [True, False])
    @pytest.mark.parametrize("machine_readable", [True, False])
    def test_flags(self, force, machine_readable):
        argv = packer.build_argv(
            PACKER, Path("p"), source="a.b", var_file=Path("v"), force=force, machine_readable=machine_readable
        )
        assert ("-force" in argv, "-machine-readable" in argv) == (force, machine_readable)
        assert argv[-1] == "p"


class TestLines:
    @pytest.mark.parametrize(
        ("line", "parsed"),
        [
            ("1600000000,,ui,say,hello", Line("", "ui", ("say", "hello"))),
            ("1600000000,,ui,say,", Line("", "ui", ("say", ""))),
            ("1600000000,null.a,artifact-count,1", Line("null.a", "artifact-count", ("1",))),
            ("1600000000,null.a,artifact,0,end", Line("null.a", "artifact", ("0", "end"))),
            ("1600000000,,ui,say,a%!(PACKER_COMMA) b\\n", Line("", "ui", ("say", "a, b\\n"))),
            ("1600000000,,version", Line("", "version", ())),
        ],
    )
    def test_machine_readable(self, line, parsed):
        assert packer.parse_line(line) == parsed

    @pytest.mark.parametrize(
        "line",
        ["", "panic: runtime error", "hello, world, ui, say", "1600000000", "1600000000,", ",,ui,say,x", "x,,ui,say,x"],
    )
    def test_other(self, line):
        assert packer.parse_line(line) is None

    @given(text=st.text())
    def test_never_raises(self, text):
        packer.parse_line(text)
        read(text)


class TestTold:
    @pytest.mark.parametrize(
        ("text", "event"),
        [
            ("    null.a: hello, world", Event(EventKind.SAY, "hello, world", "null.a")),
            ("==> null.a: Running", Event(EventKind.SAY, "Running", "null.a")),
            ("    null.a:", Event(EventKind.SAY, "", "null.a")),
            ("    null.a:   indented: yes", Event(EventKind.SAY, "  indented: yes", "null.a")),
            ("\\n==> Wait completed after 1 second", Event(EventKind.SAY, "==> Wait completed after 1 second")),
            ("--> null.a: Nothing", Event(EventKind.SAY, "--> null.a: Nothing")),
            ("==> null.a: one\\n==> null.a: two", Event(EventKind.SAY, "one\ntwo", "null.a")),
            ("Error: bad\\n\\n  on a.pkr.hcl line 1:\\n", Event(EventKind.SAY, "Error: bad\n\n  on a.pkr.hcl line 1:")),
            ('    null.a: @hapx {"a": 1}', Event(EventKind.HAPX, target="null.a", data={"a": 1})),
            ('==> null.a: @hapx {"a": 1}', Event(EventKind.HAPX, target="null.a", data={"a": 1})),
            ('@hapx {"a": "l\\\\nm"}'.replace("\\\\", "\\"), Event(EventKind.HAPX, data={"a": "l\nm"})),
            ("    null.a: @hapx {a: 1}", Event(EventKind.SAY, "@hapx {a: 1}", "null.a")),
            ("    null.a: @hapx [1]", Event(EventKind.SAY, "@hapx [1]", "null.a")),
            ("    null.a: @hapx", Event(EventKind.SAY, "@hapx", "null.a")),
            ("    null.a: say @hapx {}", Event(EventKind.SAY, "say @hapx {}", "null.a")),
            (f"@hapx {'[' * 100_000}", Event(EventKind.SAY, f"@hapx {'[' * 100_000}")),
        ],
        ids=lambda value: str(value)[:40] if isinstance(value, str) else "",
    )
    def test_texts(self, text, event):
        assert packer.told(EventKind.SAY, text) == event

    @given(text=st.text())
    def test_never_raises(self, text):
        packer.told(EventKind.MESSAGE, text)
        packer.told(EventKind.MESSAGE, f"    null.a: @hapx {text}")

    @given(
        data=st.dictionaries(
            st.text(),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
                max_leaves=5,
            ),
            max_size=4,
        ),
        prefix=st.sampled_from(["", "    null.bootstrap: ", "==> null.bootstrap: "]),
        escaped=st.booleans(),
    )
    def test_markers_survive_packer(self, data, prefix, escaped):
        """Whatever is in them: commas, newlines, backslashes."""
        text = f"{prefix}@hapx {json.dumps(data, ensure_ascii=escaped)}"
        if "%!(PACKER_COMMA)" in text:
            return  # what Packer itself cannot tell from a comma
        events, log, _ = read(machine(text))
        assert [(event.kind, event.data) for event in events] == [(EventKind.HAPX, data)]
        assert len(log.splitlines()) <= 1
        assert "@hapx" not in log or "@hapx" in json.dumps(data)

    @given(text=st.text(alphabet=st.characters(exclude_characters="\\\r\n", exclude_categories=["Cs"]), min_size=1))
    def test_messages_survive_packer(self, text):
        if "%!(PACKER_COMMA)" in text or text.startswith("@hapx "):
            return
        events, _, _ = read(machine(f"    null.bootstrap: {text}"))
        assert events == [Event(EventKind.MESSAGE, text, "null.bootstrap")]


class TestReader:
    def test_the_log_is_for_people(self):
        _, log, _ = read(
            machine("==> null.a: Running local shell script: /tmp/packer-shell1", "say"),
            machine("    null.a: one, two"),
            machine("==> null.a: to stderr", "error"),
            machine('    null.a: @hapx {"event": "stage", "stage": "disk", "n": 1, "odd key": null}'),
            machine('    null.a: @hapx {"event": "progress", "done": 1}'),
            machine("Error: bad\n\n  on x line 1:\n", "error"),
            "panic: oh no",
            "1600000000,,error-count,1",
        )
        assert log.splitlines() == [
            "==> Running local shell script: /tmp/packer-shell1",
            "one, two",
            "to stderr",
            'hapx: event="stage" stage="disk" n=1 "odd key"=null',
            "Error: bad",
            "",
            "  on x line 1:",
            "panic: oh no",
        ]

    @pytest.mark.parametrize(
        ("lines", "reason"),
        [
            (
                [
                    machine("==> null.a: to stderr", "error"),
                    machine("Build 'null.a' errored after 1 second: Script exited", "error"),
                    machine("\n==> Some builds didn't complete successfully and had errors:", "error"),
                    "1600000000,null.a,error,Script exited with non-zero exit status: 7.Allowed exit codes are: [0]",
                    machine("--> null.a: Script exited with non-zero exit status: 7.", "error"),
                ],
                "Script exited with non-zero exit status: 7",
            ),
            (
                [
                    machine(
                        'Error: Unsupported block type\n\n  on a.pkr.hcl line 2:\n   2: x {\n\nBlocks of type "x"\n',
                        "error",
                    )
                ],
                "Unsupported block type, on a.pkr.hcl line 2",
            ),
            (
                [machine("Cancelling build after receiving terminated", "error"), machine("Real trouble", "error")],
                "Real trouble",
            ),
            ([machine("fine", "say")], ""),
        ],
    )
    def test_the_reason_of_a_failure(self, lines, reason):
        assert read(*lines)[2].reason == reason

    def test_the_tail_is_what_matters(self):
        lines = [machine(f"    null.a: {number}") for number in range(20)]
        closing = [
            machine("Build 'null.a' errored after 1 second: why", "error"),
            machine("\n==> Wait completed after 1 second", "say"),
            machine("\n==> Some builds didn't complete successfully and had errors:", "error"),
            machine("--> null.a: why", "error"),
            machine("\n==> Builds finished but no artifacts were created.", "say"),
        ]
        assert list(read(*lines, *closing)[2].tail) == [*map(str, range(6, 20)), "--> null.a: why"]

    def test_artifacts(self):
        events, log, reader = read(
            "1600000000,null.a,artifact-count,2",
            "1600000000,null.a,artifact,0,builder-id,packer.post-processor.artifice",
            "1600000000,null.a,artifact,0,id,",
            "1600000000,null.a,artifact,0,string,Created artifact from files: x%!(PACKER_COMMA) y",
            "1600000000,null.a,artifact,0,files-count,2",
            "1600000000,null.a,artifact,0,file,0,/d/a%!(PACKER_COMMA)b.ova",
            "1600000000,null.a,artifact,0,file,1,/d/c.sha256",
            "1600000000,null.a,artifact,0,end",
            "1600000000,null.a,artifact,1,nil",
            "1600000000,null.a,artifact,1,end",
        )
        files = ("/d/a,b.ova", "/d/c.sha256")
        assert reader.artifacts == [
            Artifact("null.a", "packer.post-processor.artifice", "", files),
            Artifact("null.a", "", "", ()),
        ]
        assert [event.data["files"] for event in events] == [files, ()]
        assert log == ""

    @pytest.mark.parametrize(
        "line", ["1,a,artifact", "1,a,artifact,0", "1,a,artifact,0,file", "1,,ui", "1,,ui,say", "1,,error"]
    )
    def test_lines_that_are_cut_short(self, line):
        read(line)

    def test_secrets_are_hidden_the_longer_first(self):
        events, log, reader = read(
            machine("    null.a: key is topsecret, top"),
            "1600000000,null.a,error,top failed",
            secrets=("top", "topsecret", "", "-----BEGIN\nkey is\n"),
        )
        assert events[0].text == "<sensitive> <sensitive>, <sensitive>"
        assert log == "<sensitive> <sensitive>, <sensitive>\n"
        assert reader.reason == "<sensitive> failed"
