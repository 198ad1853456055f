"""Debian's Packer 1.6.6, really run, on small templates of the null builder."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from builder import processes
from builder.errors import CommandError, CommandTimeoutError, InputError, MissingError
from builder.image import packer, template
from builder.image.packer import Event, EventKind

TIMEOUT = 60.0


@pytest.fixture(scope="module")
def installed() -> packer.Packer:
    return packer.find()


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "templates"
    path.mkdir()
    return path


def write(folder: Path, *inline: str, head: str = "", tail: str = "") -> None:
    """A template whose one provisioner runs these lines."""
    lines = ",\n      ".join(json.dumps(line) for line in inline)
    (folder / "build.pkr.hcl").write_text(
        f"""{head}
source "null" "bootstrap" {{
  communicator = "none"
}}
build {{
  sources = ["source.null.bootstrap"]
  provisioner "shell-local" {{
    inline = [
      {lines}
    ]
  }}
  {tail}
}}
"""
    )


class Run:
    """One build, and what came of it."""

    def __init__(self, installed: packer.Packer, folder: Path, values: dict[str, object] | None = None) -> None:
        self.installed, self.folder, self.values = installed, folder, values or {}
        self.events: list[Event] = []
        self.log = folder.parent / "packer.log"
        self.result: packer.BuildResult | None = None

    def __call__(self, *, source: str = "null.bootstrap", timeout: float = TIMEOUT, **options) -> "Run":
        var_file = self.folder.parent / "values.pkrvars.json"
        template.write_var_file(self.values, var_file)
        argv = packer.build_argv(self.installed, self.folder, source=source, var_file=var_file, force=False)
        with self.log.open("w") as log:
            self.result = packer.build(
                self.installed,
                argv,
                cwd=self.folder.parent,
                env={},
                log=log,
                on_event=self.events.append,
                timeout=timeout,
                **options,
            )
        return self

    def texts(self, kind: EventKind) -> list[str]:
        return [event.text for event in self.events if event.kind is kind]

    def marks(self) -> list[dict]:
        return [dict(event.data) for event in self.events if event.kind is EventKind.HAPX]


@pytest.fixture
def run(installed, folder) -> Run:
    return Run(installed, folder)


class TestFind:
    def test_it_is_debians(self, installed):
        assert installed.path.name == "packer"
        assert installed.version >= (1, 6, 6)

    def other(self, folder: Path, script: str) -> Path:
        folder.mkdir(exist_ok=True)
        path = folder / "packer"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    # Stand-ins for what other programs of this name do, the fourth for what cracklib's does; its own follows where it
    # is installed.
    @pytest.mark.parametrize(
        "script",
        [
            "exec sleep 600",
            "cat",
            "echo 'Version 1.6.6 of something else'",
            'touch "$1.pwd" "$1.pwi" "$1.hwm"; echo 0 0',
            "echo 'Packer v1.9.0' >&2",
            "exit 1",
        ],
    )
    def test_others_of_that_name_are_passed_over(self, tmp_path, monkeypatch, installed, script):
        monkeypatch.setattr(packer, "VERSION_SECONDS", 3.0)
        self.other(tmp_path / "bin", script)
        monkeypatch.chdir(tmp_path / "bin")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{installed.path.parent}")
        assert packer.find() == installed
        assert [path.name for path in Path.cwd().iterdir()] == ["packer"]

    @pytest.mark.skipif(shutil.which("cracklib-packer", path="/usr/sbin") is None, reason="needs cracklib-runtime")
    def test_cracklibs(self, tmp_path, monkeypatch, installed):
        self.other(tmp_path / "bin", 'exec /usr/sbin/cracklib-packer "$@"')
        monkeypatch.chdir(tmp_path / "bin")
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{installed.path.parent}")
        assert packer.find() == installed
        assert [path.name for path in Path.cwd().iterdir()] == ["packer"], (
            "it must not get a chance to write its database here"
        )

    def test_a_folder_on_the_path_that_is_not_ours_to_see(self, tmp_path, monkeypatch, installed):
        """What root's PATH looks like to a user who got it by way of su or sudo."""
        (tmp_path / "private" / "bin").mkdir(parents=True)
        (tmp_path / "private").chmod(0)
        monkeypatch.setenv("PATH", f"{tmp_path / 'private' / 'bin'}:{installed.path.parent}")
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            assert packer._candidates()[0] == installed.path
        finally:
            os.seteuid(user)
            (tmp_path / "private").chmod(0o700)

    def test_none(self, tmp_path, monkeypatch):
        path = self.other(tmp_path / "bin", "echo cracklib")
        monkeypatch.setattr(packer, "_candidates", lambda: [path])
        with pytest.raises(MissingError, match=f"not installed; {path} is another program of this name") as caught:
            packer.find()
        assert caught.value.hint == "sudo apt-get install packer"


class TestRun:
    def test_events_log_and_artifact(self, run, folder):
        write(
            folder,
            "echo hello, world",
            "echo warned >&2",
            """echo '@hapx {"event": "stage", "stage": "disk", "title": "a, b"}'""",
            """echo '@hapx {"event": "progress", "done": 1, "total": 2}'""",
            "printf 'no newline'",
        )
        run()
        assert run.texts(EventKind.MESSAGE) == ["hello, world", "no newline"]
        assert [(event.text, event.target) for event in run.events if event.kind is EventKind.ERROR] == [
            ("warned", "null.bootstrap")
        ]
        assert run.marks() == [
            {"event": "stage", "stage": "disk", "title": "a, b"},
            {"event": "progress", "done": 1, "total": 2},
        ]
        assert [artifact.target for artifact in run.result.artifacts] == ["null.bootstrap"]
        log = run.log.read_text().splitlines()
        assert "hello, world" in log
        assert 'hapx: event="stage" stage="disk" title="a, b"' in log
        assert not any("@hapx" in line or "PACKER_COMMA" in line or "progress" in line for line in log)

    def test_lines_come_as_they_are_printed(self, run, folder):
        write(folder, "echo early", "sleep 1", "echo late")
        came: dict[str, float] = {}
        run.events = type(
            "Times", (list,), {"append": lambda _, event: came.setdefault(event.text, time.monotonic())}
        )()
        run()
        assert came["late"] - came["early"] > 0.7

    @pytest.mark.parametrize(
        "text",
        ["plain", "two\nlines", 'quo"te, comma', "back\\slash \\n", "ünï ✓", "x" * 200_000, "%!(", "<&>", "tab\there"],
        ids=lambda text: text[:12],
    )
    def test_markers_come_through_whole(self, run, folder, text):
        file = folder.parent / "line"
        file.write_text(f"@hapx {json.dumps({'text': text})}\n")
        write(folder, f"cat {file}")
        assert run().marks() == [{"text": text}]

    @pytest.mark.parametrize(
        "line", ["@hapx", "@hapx {", "@hapx []", '@hapx {"a": }', "@hapx null", "x @hapx {}", "@hapx{}"]
    )
    def test_a_marker_that_is_none_is_text(self, run, folder, line):
        file = folder.parent / "line"
        file.write_text(f"{line}\n")
        write(folder, f"cat {file}")
        run()
        assert run.marks() == []
        assert line in run.texts(EventKind.MESSAGE)

    def test_bytes_that_are_not_utf8(self, run, folder):
        write(folder, r"printf 'bad \377\n'")
        assert run().texts(EventKind.MESSAGE) == ["bad \ufffd"]

    def test_files_of_an_artifact(self, run, folder):
        made = folder.parent / "made, really.ova"
        tail = f"""
  post-processors {{
    post-processor "artifice" {{
      files = [{json.dumps(str(made))}]
    }}
    post-processor "checksum" {{
      checksum_types      = ["sha256"]
      output              = "{folder.parent}/made.{{{{.ChecksumType}}}}"
      keep_input_artifact = true
    }}
    post-processor "manifest" {{
      output = "{folder.parent}/made.json"
    }}
  }}"""
        write(folder, f"echo content > '{made}'", tail=tail)
        run()
        assert [artifact.files for artifact in run.result.artifacts if str(made) in artifact.files]
        told = [event.data["files"] for event in run.events if event.kind is EventKind.ARTIFACT]
        assert (str(made),) in told
        assert (folder.parent / "made.sha256").exists()

    def test_the_input_is_closed(self, run, folder):
        write(folder, "cat", "echo done")
        assert run().texts(EventKind.MESSAGE) == ["done"]

    def test_nothing_of_packers_is_left_where_it_ran(self, run, folder):
        write(folder, "echo done")
        run()
        assert sorted(path.name for path in folder.iterdir()) == ["build.pkr.hcl"]
        assert "packer-debug.log" not in {path.name for path in folder.parent.iterdir()}

    def test_a_debug_log_for_who_asks(self, run, folder, monkeypatch):
        monkeypatch.setenv("PACKER_LOG", "1")
        write(folder, "echo done")
        assert run().texts(EventKind.MESSAGE) == ["done"]
        assert "[INFO] Packer version" in (folder.parent / "packer-debug.log").read_text()

    def test_a_sub_folder_takes_no_part(self, run, folder):
        """So `required_plugins`, which 1.6.6 does not know, can live in plugins/."""
        plugins = folder / "plugins" / "plugins.pkr.hcl"
        plugins.parent.mkdir()
        plugins.write_text(
            'packer {\n  required_plugins {\n    qemu = { version = "1", source = "x/y/qemu" }\n  }\n}\n'
        )
        write(folder, "echo done")
        assert run().texts(EventKind.MESSAGE) == ["done"]


class TestSecrets:
    HEAD = 'variable "key" {\n  type = string\n  sensitive = true\n}\n'

    def test_packer_itself_shows_them(self, run, folder):
        """1.6.6 with -machine-readable; when this fails, `secrets` has become superfluous."""
        run.values = {"key": "open sesame"}
        write(folder, "echo it is ${var.key}", head=self.HEAD)
        assert run().texts(EventKind.MESSAGE) == ["it is open sesame"]

    def test_they_are_hidden(self, run, folder):
        run.values = {"key": "open sesame\nsecond line"}
        write(folder, "echo 'it is ${var.key}'", "echo open sesame >&2", "exit 3", head=self.HEAD)
        found = template.secrets(template.inspect(folder), run.values)
        with pytest.raises(CommandError) as caught:
            run(secrets=found)
        told = [run.log.read_text(), caught.value.message, *caught.value.details, *(event.text for event in run.events)]
        assert not any("sesame" in text or "second line" in text for text in told)
        assert "it is <sensitive>" in run.log.read_text().splitlines()


class TestFailure:
    def test_a_script_that_fails(self, run, folder):
        write(folder, "seq 100", "sleep 0.3", "echo the cause >&2", "exit 7")
        with pytest.raises(CommandError, match=r"Script exited with non-zero exit status: 7$") as caught:
            run()
        assert caught.value.returncode == 7
        assert caught.value.hint == f"the whole log: {run.log}"
        command, *lines = caught.value.details
        assert command.startswith("command: ")
        assert len(lines) == packer.TAIL_LINES
        assert "the cause" in lines
        assert "100" in lines
        assert not any("Wait completed" in line or ",ui," in line for line in lines)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("packer {\n  required_plugins {\n  }\n}\n", r"Unsupported block type, on .*more\.pkr\.hcl line 2"),
            ('variable "a" {\n  type = string\n', r"on .*more\.pkr\.hcl line"),
            ('source "nosuch" "a" {\n}\n', r"Unknown source type nosuch, on .*more\.pkr\.hcl line 1"),
        ],
    )
    def test_templates_that_are_wrong(self, run, folder, text, message):
        write(folder, "true")
        (folder / "more.pkr.hcl").write_text(text)
        with pytest.raises(CommandError, match=message) as caught:
            run()
        assert caught.value.returncode == 1
        assert any(line.startswith("Error: ") for line in caught.value.details)

    def test_a_source_that_no_build_has(self, run, folder):
        write(folder, "true")
        with pytest.raises(CommandError, match="Packer built nothing"):
            run(source="null.other")

    def test_packer_is_killed(self, run, folder):
        """Its own children go with it, and what they run."""
        write(folder, f"echo $$ > {folder.parent}/1.pid", "echo $PPID", "exec sleep 600")

        def kill() -> None:
            wait_until(lambda: bool(pids(folder.parent)))
            mine = [each for each in processes.running() if each.parent == os.getpid()]
            [leader] = [each for each in mine if each.program() == "packer"]
            os.kill(leader.pid, signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(CommandError, match="packer: ended by SIGKILL") as caught:
            run()
        thread.join()
        assert caught.value.returncode == -9
        assert not alive(pids(folder.parent))

    def test_time_is_over(self, run, folder):
        write(folder, "echo working", f"echo $$ > {folder.parent}/1.pid", "exec sleep 600")
        with pytest.raises(CommandTimeoutError, match="no end after 3 seconds") as caught:
            run(timeout=3)
        assert "working" in caught.value.details
        assert caught.value.hint == f"the whole log: {run.log}"
        assert not alive(pids(folder.parent))


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def pids(folder: Path) -> list[int]:
    return [int(text) for path in sorted(folder.glob("*.pid")) if (text := path.read_text().strip())]


def alive(numbers: list[int]) -> list[int]:
    assert numbers
    return [process.pid for process in processes.running() if process.pid in numbers]


class TestCancel:
    """A bash with a trap, under it a Python with a handler, and under that, by way of `command.run` and so in a session
    of its own, another bash with a trap: each must be asked to end, have time to clean up, and be gone."""

    # Started the way the stages of a bake are: in the place of Packer's own shell, which Packer kills without asking.
    OUTER = r"""#!/bin/bash
cd {work}
trap 'sleep 0.3; echo outer >>asked; rm outer.temporary; exit 1' TERM
touch outer.temporary
echo $$ >outer.pid
{python} {work}/middle.py &
while :; do sleep 0.1; done
"""
    MIDDLE = r"""
import os, pathlib, signal
from builder import command

class Ended(BaseException):
    pass

def end(*_):
    raise Ended

signal.signal(signal.SIGTERM, end)
pathlib.Path("middle.temporary").touch()
pathlib.Path("middle.pid").write_text(str(os.getpid()))
try:
    command.run(["bash", "{work}/inner.sh"], on_line=print)
finally:
    with open("asked", "a") as file:
        file.write("middle\n")
    pathlib.Path("middle.temporary").unlink()
"""
    INNER = r"""
trap 'sleep 0.3; echo inner >>asked; rm inner.temporary; exit 1' TERM
touch inner.temporary
echo $$ >inner.pid
while :; do sleep 0.1; done
"""
    # The parent, as hapx-build is: SIGTERM raises, Ctrl-C raises.
    PARENT = r"""
import pathlib, signal, sys
from builder.image import packer

def end(*_):
    raise SystemExit(143)

signal.signal(signal.SIGTERM, end)
work = pathlib.Path("{work}")
found = packer.find()
values = work / "v.pkrvars.json"
values.write_text("{{}}")
argv = packer.build_argv(found, work / "templates", source="null.bootstrap", var_file=values, force=False)
with (work / "log").open("w") as log:
    packer.build(found, argv, cwd=work, env={{}}, log=log, on_event=lambda _: None, timeout=60)
"""

    @pytest.fixture
    def work(self, tmp_path, folder) -> Iterator[Path]:
        for name in ("outer", "middle", "inner", "parent"):
            text = getattr(self, name.upper())
            text = text.format(work=tmp_path, python=sys.executable) if name != "inner" else text
            (tmp_path / f"{name}{'.py' if name in {'middle', 'parent'} else '.sh'}").write_text(text)
        (tmp_path / "outer.sh").chmod(0o755)
        yield tmp_path
        for pid in pids(tmp_path):
            if alive([pid]):
                os.kill(pid, signal.SIGKILL)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("place", ["under Packer's shell", "in the place of Packer's shell"])
    def test_everybody_is_asked_and_gone(self, work, folder, number, place):
        write(folder, f"{'' if place.startswith('under') else 'exec '}{work}/outer.sh", "echo went on >>went-on")
        if place.startswith("in"):
            text = (folder / "build.pkr.hcl").read_text()
            command = '["/bin/sh", "-c", "exec {{.Script}}"]'
            text = text.replace('shell-local" {', f'shell-local" {{\n    execute_command = {command}')
            (folder / "build.pkr.hcl").write_text(text)
        temporary = work / "tmp"
        temporary.mkdir()
        parent = subprocess.Popen(
            [sys.executable, work / "parent.py"],
            cwd=work,
            env={**os.environ, "TMPDIR": str(temporary)},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            wait_until(lambda: len(pids(work)) == 3)
            tree = processes.Tree(parent.pid)
            assert {process.program() for process in tree.look()} >= {"packer", "bash"}
            assert list(temporary.glob("packer-*"))
            started = time.monotonic()
            parent.send_signal(number)
            said = parent.communicate(timeout=30)[1]
        finally:
            parent.kill()
        assert time.monotonic() - started < 10
        assert parent.returncode == (143 if number == signal.SIGTERM else -signal.SIGINT), said
        assert alive(pids(work)) == []
        assert tree.look() == []
        assert sorted((work / "asked").read_text().split()) == ["inner", "middle", "outer"]
        assert list(work.glob("*.temporary")) == []
        assert list(temporary.iterdir()) == [], "Packer had the time to remove its temporary files"
        assert not (work / "went-on").exists()

    def test_who_will_not_end_is_killed(self, work, folder, installed, monkeypatch):
        monkeypatch.setattr(packer, "GRACE_SECONDS", 1.0)
        (work / "outer.sh").write_text(
            f"#!/bin/bash\ntrap '' TERM\necho $$ >{work}/outer.pid\n"
            f"setsid sh -c 'echo $$ >{work}/inner.pid; while :; do sleep 0.1; done' &\nwhile :; do sleep 0.1; done\n"
        )
        write(folder, f"exec {work}/outer.sh")
        with pytest.raises(CommandTimeoutError):
            Run(installed, folder)(timeout=3)
        assert len(pids(work)) == 2
        assert alive(pids(work)) == []


class TestVariables:
    """`template.resolve` and Packer agree: on what is right, on its value, and on what is wrong."""

    VARIABLES = """
variable "s" {
  type    = string
  default = "x"
}
variable "n" {
  type    = number
  default = 1
}
variable "b" {
  type    = bool
  default = true
}
variable "l" {
  type    = list(string)
  default = []
}
variable "m" {
  type    = map(number)
  default = {}
}
variable "o" {
  type    = object({ a = string, b = bool })
  default = { a = 1, b = "true", c = 4 }
}
variable "t" {
  type    = tuple([string, number])
  default = ["a", "1"]
}
variable "untyped" {
  default = ["a", 1]
}
variable "flag" {
  default = true
}
variable "free" {
}
variable "nothing" {
  default = null
}
variable "heredoc" {
  default = <<-EOT
      indented
        more

      "quoted" \\n $${not} %%{any}
    EOT
}
variables {
  short = "y"
}
"""
    CASES = (
        *("s=text", "s=", 's="quoted"', "s=${x}", "s=true", "s=a=b", "s=ünï", "s=null", "s=tab\there", "s=a\\nb"),
        *("n=5", "n=-5", "n=+5", "n=.5", "n=5.", "n=1e3", "n=1.50", "n=007", "n=0x10", "n= 5", "n=", "n=five"),
        *("n=1_000", "n=0.1", "n=123456789012345678901234567890", "n=null"),
        *("b=true", "b=false", 'b="true"', 'b="1"', 'b="0"', 'b="yes"', "b=yes", "b=1", "b=", "b=null", "b=!true"),
        *('l=["a","b"]', "l=[1, true]", "l=[]", "l=[a]", "l=a", 'l="a"', 'l={a="b"}', "l=[[]]", 'l=["a",]'),
        *('l=["a" "b"]', 'l=["\\u00e4\\t\\"$${x}"]', 'l=["${x}"]', 'l=[upper("a")]', "l=null", "l=[null]"),
        *("l=[\n1,\n2\n]", "l=[1] # why"),
        *("m={a=1}", 'm={"a b"="2"}', "m={a=x}", "m={a=true}", "m=[]", "m={}", "m={a:1,b:2}", "m={a=-1.5}", "m={1=2}"),
        *('o={a="x",b=false}', "o={a=1,b=2}", "o={a=1}", "o={a=1,b=true,c=3}", "o={}"),
        *('t=["a",2]', 't=["a"]', 't=["a","b"]', 't=["a",2,3]'),
        *('untyped=["b",2]', 'untyped=["b"]', 'untyped="b"', "untyped=[1,2]", "flag=false", "flag=no", "flag=(true)"),
        *("free=anything at all", "free=[1", "nothing=1", "nothing=word", "short=z", "nosuch=1"),
    )

    def console(self, installed: packer.Packer, folder: Path, *flags: str) -> dict[str, str] | None:
        """The variables as Packer prints them, None where it finds something wrong."""
        result = subprocess.run(
            [installed.path, "console", *flags, folder],
            input="variables\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "CHECKPOINT_DISABLE": "1"},
        )
        lines = [line.removeprefix("> ") for line in result.stdout.splitlines()]
        if any(line.startswith("Error: ") for line in lines):
            return None
        return dict(line.split(": ", 1) for line in lines if line.startswith("var."))

    @pytest.mark.parametrize("assignment", CASES)
    def test_on_the_command_line(self, installed, folder, assignment):
        (folder / "variables.pkr.hcl").write_text(self.VARIABLES)
        known = template.inspect(folder)
        given = [*(["free=f"] if not assignment.startswith("free=") else []), assignment]
        packers = self.console(installed, folder, *(f"-var={each}" for each in given))
        try:
            values = template.resolve(known, assignments=given)
        except InputError:
            assert packers is None
            return
        assert packers is not None
        var_file = folder.parent / "v.pkrvars.json"
        template.write_var_file(values, var_file)
        assert self.console(installed, folder, f"-var-file={var_file}") == packers

    def test_defaults(self, installed, folder):
        """What --list-vars shows is what Packer uses: given back to it, nothing changes."""
        (folder / "variables.pkr.hcl").write_text(self.VARIABLES)
        known = template.inspect(folder)
        packers = self.console(installed, folder, "-var=free=f")
        var_file = folder.parent / "v.pkrvars.json"
        defaults = {row["name"]: row["default"] for row in template.describe(known) if not row["required"]}
        template.write_var_file({**defaults, "free": "f"}, var_file)
        assert self.console(installed, folder, f"-var-file={var_file}") == packers
        assert packers["var.heredoc"] == json.dumps('indented\n  more\n\n"quoted" \\n ${not} %{any}\n')

    def test_the_order_of_sources(self, installed, folder, monkeypatch):
        """environment < *.auto.pkrvars.hcl < *.auto.pkrvars.json < the command line."""
        (folder / "v.pkr.hcl").write_text("".join(f'variable "{name}" {{\n default = ""\n}}\n' for name in "abcde"))
        for name in "abcd":
            monkeypatch.setenv(f"PKR_VAR_{name}", "environment")
        (folder / "z.auto.pkrvars.hcl").write_text('b = "hcl"\nc = "hcl"\nd = "hcl"\n')
        (folder / "a.auto.pkrvars.json").write_text('{"c": "json", "d": "json"}')
        values = template.resolve(template.inspect(folder), assignments=["d=line"])
        assert values == {"a": "environment", "b": "hcl", "c": "json", "d": "line"}
        var_file = folder.parent / "v.pkrvars.json"
        template.write_var_file(values, var_file)
        packers = self.console(installed, folder, f"-var-file={var_file}")
        assert {name.removeprefix("var."): json.loads(value) for name, value in packers.items()} == {**values, "e": ""}


def test_the_log_may_be_anything_writable(installed, folder):
    write(folder, "exit 1")
    var_file = folder.parent / "v.pkrvars.json"
    template.write_var_file({}, var_file)
    argv = packer.build_argv(installed, folder, source="null.bootstrap", var_file=var_file, force=False)
    log = io.StringIO()
    with pytest.raises(CommandError) as caught:
        packer.build(installed, argv, cwd=folder.parent, env={}, log=log, on_event=lambda _: None, timeout=TIMEOUT)
    assert caught.value.hint == ""
    assert "non-zero exit status: 1" in log.getvalue()
