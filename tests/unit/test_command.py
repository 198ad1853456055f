"""Programs are really run here: shells and Pythons that misbehave in one way each."""

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from builder import command, processes
from builder.errors import CommandError, CommandTimeoutError, MissingError

GRACE = 3.0


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    return any(process.pid == pid for process in processes.running())


def pids(folder: Path) -> list[int]:
    """The processes of a test that wrote their pid into a file *.pid each."""
    return [int(path.read_text()) for path in sorted(folder.glob("*.pid"))]


def interrupt_when(condition: Callable[[], bool]) -> None:
    """Ctrl-C for this process as soon as the condition holds."""

    def watch() -> None:
        wait_until(condition)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


class TestWhatComesBack:
    def test_output_and_errors_apart(self):
        result = command.run(["sh", "-c", "echo out; echo err >&2"])
        assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 0)
        assert 0 < result.seconds < 10

    def test_lines_merged_in_the_order_they_came(self):
        lines: list[str] = []
        result = command.run(["sh", "-c", "echo one; echo two >&2; echo three"], on_line=lines.append)
        assert lines == ["one", "two", "three"]
        assert (result.stdout, result.stderr) == ("", "")

    def test_a_line_comes_when_it_is_written_and_not_at_the_end(self):
        came: list[float] = []
        command.run(["sh", "-c", "echo early; sleep 0.6; echo late"], on_line=lambda _: came.append(time.monotonic()))
        assert came[1] - came[0] > 0.4

    @pytest.mark.parametrize(
        ("written", "lines"),
        [
            (b"", []),
            (b"\n", [""]),
            (b"no newline at the end", ["no newline at the end"]),
            (b"a\n\nb\n", ["a", "", "b"]),
            (b"dos\r\nline\r\n", ["dos", "line"]),
            (b"bad \xff\xfe byte\n", ["bad \ufffd\ufffd byte"]),
            ("größer ✓\n".encode(), ["größer ✓"]),
            (b"nul \x00 here\n", ["nul \x00 here"]),
        ],
    )
    def test_lines_of_any_bytes(self, written, lines):
        taken: list[str] = []
        command.run(python(f"import sys; sys.stdout.buffer.write({written!r})"), on_line=taken.append)
        assert taken == lines

    def test_bytes_that_are_not_utf8_without_a_callback(self):
        result = command.run(python(r"import sys; sys.stdout.buffer.write(b'\xff ok\r\n')"))
        assert result.stdout == "\ufffd ok\n"

    def test_a_character_split_between_two_writes(self):
        code = "import os, time; os.write(1, b'\\xe2\\x9c'); time.sleep(0.3); os.write(1, b'\\x93\\n')"
        lines: list[str] = []
        command.run(python(code), on_line=lines.append)
        assert lines == ["✓"]

    def test_a_very_long_line(self):
        size = 20_000_000
        lines: list[str] = []
        started = time.monotonic()
        command.run(python(f"print('x' * {size})"), on_line=lines.append)
        assert [len(line) for line in lines] == [size]
        assert time.monotonic() - started < 5, "the time must grow with the length, not with its square"

    def test_many_lines(self):
        count = 0

        def take(_: str) -> None:
            nonlocal count
            count += 1

        command.run(["seq", "200000"], on_line=take)
        assert count == 200_000

    def test_the_log_gets_the_same_lines(self):
        log, lines = io.StringIO(), list[str]()
        command.run(["sh", "-c", "echo one; printf two >&2"], log=log, on_line=lines.append)
        assert log.getvalue() == "one\ntwo\n"
        assert lines == ["one", "two"]

    def test_the_log_is_written_while_the_program_runs(self, tmp_path):
        path = tmp_path / "log"
        seen: list[str] = []
        with path.open("w") as log:
            command.run(
                ["sh", "-c", "echo first; echo second"], log=log, on_line=lambda _: seen.append(path.read_text())
            )
        assert seen == ["first\n", "first\nsecond\n"]


class TestInput:
    def test_the_input_is_closed_where_there_is_none(self):
        assert command.run(["cat"], timeout=5).stdout == ""

    @pytest.mark.parametrize("text", ["", "one line\n", "größer ✓"])
    def test_text(self, text):
        assert command.run(["cat"], input=text, timeout=5).stdout == text

    @pytest.mark.parametrize("streaming", [True, False])
    def test_more_than_a_pipe_holds_both_ways(self, streaming):
        """A program that answers before it has read everything must not wait for us while we wait for it."""
        text = "0123456789abcde\n" * 500_000
        taken: list[str] = []
        result = command.run(["cat"], input=text, on_line=taken.append if streaming else None, timeout=60)
        assert (len(taken) * 16 if streaming else len(result.stdout)) == len(text)

    def test_a_program_that_does_not_read_it(self):
        assert command.run(["true"], input="x" * 10_000_000, timeout=30).returncode == 0


class TestSurroundings:
    def test_env_is_added(self, monkeypatch):
        monkeypatch.setenv("HAPX_OLD", "old")
        result = command.run(["sh", "-c", "echo $HAPX_OLD $HAPX_NEW"], env={"HAPX_NEW": "new"})
        assert result.stdout == "old new\n"

    def test_cwd(self, tmp_path):
        assert command.run(["pwd"], cwd=tmp_path).stdout.strip() == str(tmp_path)

    def test_it_has_a_session_of_its_own(self):
        result = command.run(python("import os; print(os.getsid(0) == os.getpid())"))
        assert result.stdout == "True\n"

    def test_a_relative_program_is_found_from_here_and_not_from_its_cwd(self, tmp_path, monkeypatch):
        program = tmp_path / "tool"
        program.write_text("#!/bin/sh\npwd\n")
        program.chmod(0o755)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path)
        assert command.run(["./tool"], cwd=tmp_path / "elsewhere").stdout.strip() == str(tmp_path / "elsewhere")


class TestFailure:
    def test_missing_program(self):
        with pytest.raises(MissingError, match=r"hapx-no-such-program") as caught:
            command.run(["hapx-no-such-program", "--flag"])
        assert caught.value.hint == "sudo apt-get install hapx-no-such-program"

    def test_missing_path_is_no_package(self, tmp_path):
        with pytest.raises(MissingError) as caught:
            command.run([str(tmp_path / "tool")])
        assert caught.value.hint == ""

    def test_require_names_the_package(self):
        with pytest.raises(MissingError) as caught:
            command.require("hapx-no-such-program", package="hapx-tools")
        assert caught.value.hint == "sudo apt-get install hapx-tools"

    def test_missing_working_directory(self, tmp_path):
        with pytest.raises(CommandError, match=r"its working directory .*nowhere is not a folder"):
            command.run(["true"], cwd=tmp_path / "nowhere")

    def test_a_file_that_is_no_program(self, tmp_path):
        program = tmp_path / "tool"
        program.write_bytes(b"\x7fELF but not really")
        program.chmod(0o755)
        with pytest.raises(CommandError, match=r"tool: could not be started: Exec format error"):
            command.run([str(program)])

    def test_an_argument_no_program_can_get(self):
        with pytest.raises(CommandError, match="could not be started: embedded null byte"):
            command.run(["echo", "a\0b"])

    @pytest.mark.parametrize("code", [1, 2, 77, 255])
    def test_exit_codes(self, code):
        with pytest.raises(CommandError, match=f"sh: exit code {code}") as caught:
            command.run(["sh", "-c", f"echo said >&2; exit {code}"])
        assert caught.value.returncode == code
        assert caught.value.details == (f"command: sh -c 'echo said >&2; exit {code}'", "said")

    @pytest.mark.parametrize("code", [0, 3])
    def test_unchecked(self, code):
        assert command.run(["sh", "-c", f"exit {code}"], check=False).returncode == code

    @pytest.mark.parametrize(("number", "name"), [(9, "SIGKILL"), (11, "SIGSEGV"), (15, "SIGTERM"), (40, "signal 40")])
    def test_signals(self, number, name):
        with pytest.raises(CommandError, match=f"ended by {name}") as caught:
            command.run(["sh", "-c", f"kill -{number} $$"])
        assert caught.value.returncode == -number

    def test_the_last_lines_are_told(self):
        with pytest.raises(CommandError) as caught:
            command.run(["sh", "-c", "seq 100; exit 1"], on_line=lambda _: None)
        assert caught.value.details[1:] == tuple(str(number) for number in range(81, 101))

    def test_output_is_told_where_there_are_no_errors(self):
        with pytest.raises(CommandError) as caught:
            command.run(["sh", "-c", "echo only output; exit 1"])
        assert caught.value.details[1:] == ("only output",)

    def test_a_callback_that_fails_ends_the_program(self, tmp_path):
        def refuse(line: str) -> None:
            raise RuntimeError(line)

        with pytest.raises(RuntimeError, match="hello"):
            command.run(["sh", "-c", f"echo $$ >{tmp_path}/1.pid; echo hello; exec sleep 60"], on_line=refuse)
        assert not any(alive(pid) for pid in pids(tmp_path))


class TestTimeout:
    @pytest.mark.parametrize("streaming", [True, False])
    def test_it_is_stopped_and_its_last_words_told(self, tmp_path, streaming):
        script = f"echo $$ >{tmp_path}/1.pid; echo working; printf half; exec sleep 60"
        started = time.monotonic()
        with pytest.raises(CommandTimeoutError, match=r"sh: no end after 0\.5 seconds") as caught:
            command.run(["sh", "-c", script], timeout=0.5, grace=GRACE, on_line=(lambda _: None) if streaming else None)
        assert time.monotonic() - started < 3
        assert caught.value.details[1:] == ("working", "half")
        assert not any(alive(pid) for pid in pids(tmp_path))

    def test_a_program_that_closed_its_output(self, tmp_path):
        with pytest.raises(CommandTimeoutError):
            command.run(["sh", "-c", "exec >&- 2>&-; sleep 60"], timeout=0.3, grace=GRACE)

    def test_one_that_ends_in_time_is_no_timeout(self):
        assert command.run(["sh", "-c", "sleep 0.1; echo done"], timeout=5).stdout == "done\n"

    def test_a_child_in_the_background_does_not_hold_the_result_up(self, tmp_path):
        """The shell is done; what it left behind keeps its output open, and goes on running: it did not fail."""
        script = f"echo done; sleep 30 & echo $! >{tmp_path}/1.pid"
        started = time.monotonic()
        result = command.run(["sh", "-c", script])
        assert result.stdout == "done\n"
        assert time.monotonic() - started < 3
        [pid] = pids(tmp_path)
        assert alive(pid)
        os.kill(pid, signal.SIGKILL)

    def test_a_child_in_the_background_that_never_stops_talking(self, tmp_path):
        script = f"yes & echo $! >{tmp_path}/1.pid; echo done"
        started = time.monotonic()
        command.run(["sh", "-c", script], on_line=lambda _: None)
        assert time.monotonic() - started < 5
        wait_until(lambda: not any(alive(pid) for pid in pids(tmp_path)))


class TestStop:
    """Everything the program started ends with it, and was asked to before it was made to."""

    def run_and_interrupt(self, argv, ready, **options):
        interrupt_when(ready)
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            command.run(argv, timeout=30, **options)
        return time.monotonic() - started

    def test_ctrl_c_lets_it_clean_up(self, tmp_path):
        script = f"trap 'rm {tmp_path}/temporary; exit 1' TERM; touch {tmp_path}/temporary; while :; do sleep 0.1; done"
        seconds = self.run_and_interrupt(["sh", "-c", script], (tmp_path / "temporary").exists, grace=GRACE)
        assert not (tmp_path / "temporary").exists()
        assert seconds < GRACE

    def test_one_that_will_not_end_is_killed_after_the_grace(self, tmp_path):
        script = f"trap '' TERM; echo $$ >{tmp_path}/1.pid; while :; do sleep 0.1; done"
        seconds = self.run_and_interrupt(["sh", "-c", script], lambda: bool(pids(tmp_path)), grace=0.5)
        assert 0.5 <= seconds < 5
        assert not any(alive(pid) for pid in pids(tmp_path))

    def test_what_it_says_while_it_cleans_up_does_not_block_it(self, tmp_path):
        script = (
            f"trap 'seq 200000; touch {tmp_path}/cleaned; exit 1' TERM; "
            f"touch {tmp_path}/ready; while :; do sleep 0.1; done"
        )
        self.run_and_interrupt(["sh", "-c", script], (tmp_path / "ready").exists, grace=10)
        assert (tmp_path / "cleaned").exists()

    @pytest.mark.parametrize("streaming", [True, False])
    @pytest.mark.parametrize("session", ["same", "own"])
    def test_a_grandchild_is_asked_and_gone(self, tmp_path, session, streaming):
        """Its parent dies at once and leaves it to init, in its own session even."""
        grandchild = (
            f"trap 'echo asked >{tmp_path}/asked; exit 1' TERM; echo $$ >{tmp_path}/1.pid; while :; do sleep 0.1; done"
        )
        child = python(
            "import subprocess, sys, time\n"
            f"subprocess.Popen(['sh', '-c', {grandchild!r}], start_new_session={session == 'own'})\n"
            "time.sleep(60)"
        )
        on_line = (lambda _: None) if streaming else None
        self.run_and_interrupt(child, lambda: bool(pids(tmp_path)), grace=GRACE, on_line=on_line)
        assert (tmp_path / "asked").read_text() == "asked\n"
        assert not any(alive(pid) for pid in pids(tmp_path))

    def test_a_grandchild_that_will_not_end_is_killed(self, tmp_path):
        grandchild = f"trap '' TERM; echo $$ >{tmp_path}/1.pid; while :; do sleep 0.1; done"
        child = ["sh", "-c", f'setsid sh -c "{grandchild.replace("$", chr(92) + "$")}" & sleep 60']
        self.run_and_interrupt(child, lambda: bool(pids(tmp_path)), grace=0.5)
        assert not any(alive(pid) for pid in pids(tmp_path))

    def test_those_picked_first_are_asked_before_the_program(self, tmp_path):
        """For a program that kills its children outright: they have cleaned up by then."""
        child = tmp_path / "child"
        child.write_text(
            f"#!/bin/bash\ntrap 'sleep 0.5; echo child >>{tmp_path}/order; exit 0' TERM\n"
            f"echo $$ >{tmp_path}/1.pid\nwhile :; do sleep 0.1; done\n"
        )
        child.chmod(0o755)
        parent = python(
            "import os, signal, subprocess, sys, time\n"
            f"child = subprocess.Popen([{str(child)!r}])\n"
            "def end(*_):\n"
            "    child.kill()\n"
            f"    open({str(tmp_path / 'order')!r}, 'a').write('parent\\n')\n"
            "    sys.exit(1)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "while True: time.sleep(0.1)"
        )
        self.run_and_interrupt(
            parent, lambda: bool(pids(tmp_path)), grace=GRACE, first=lambda name: not name.startswith("python")
        )
        assert (tmp_path / "order").read_text() == "child\nparent\n"

    def test_a_second_ctrl_c_does_not_wait(self, tmp_path):
        script = f"trap 'touch {tmp_path}/asked' TERM; echo $$ >{tmp_path}/1.pid; while :; do sleep 0.1; done"
        interrupt_when((tmp_path / "asked").exists)
        seconds = self.run_and_interrupt(["sh", "-c", script], lambda: bool(pids(tmp_path)), grace=60)
        assert seconds < 10
        assert not any(alive(pid) for pid in pids(tmp_path))

    def test_a_program_that_was_killed_leaves_no_child(self, tmp_path):
        child = f"echo $$ >{tmp_path}/1.pid; exec sleep 60"
        script = f"sh -c '{child}' & while ! test -s {tmp_path}/1.pid; do :; done; kill -9 $$"
        with pytest.raises(CommandError, match="ended by SIGKILL"):
            command.run(["sh", "-c", script], grace=GRACE)
        assert not any(alive(pid) for pid in pids(tmp_path))

    def test_what_left_on_purpose_is_let_alone(self, tmp_path):
        """A daemon that gave itself to init and opened a session serves others too (VBoxSVC is one)."""
        daemon = f"sh -c 'echo $$ >{tmp_path}/1.pid; exec sleep 60 >&- 2>&-'"
        script = f"(setsid {daemon} &) ; sleep 60"

        def ready() -> bool:
            return any(process.pid in pids(tmp_path) and process.parent == 1 for process in processes.running())

        self.run_and_interrupt(["sh", "-c", script], ready, grace=GRACE)
        [pid] = pids(tmp_path)
        assert alive(pid)
        os.kill(pid, signal.SIGKILL)


class TestVersion:
    @pytest.mark.parametrize(
        ("prints", "version"),
        [("tool 1.2.3", "1.2.3"), ("1.6", "1.6"), ("mke2fs 1.47.0 (5-Feb-2023)", "1.47.0"), ("no number", None)],
    )
    def test_read_from_what_it_prints(self, tmp_path, prints, version):
        tool = tmp_path / "tool"
        tool.write_text(f"#!/bin/sh\necho '{prints}' >&2\n")
        tool.chmod(0o755)
        assert command.version(tool) == version

    def test_none_where_it_cannot_be_started(self, tmp_path):
        (tmp_path / "tool").write_bytes(b"\x7fELF but not really")
        (tmp_path / "tool").chmod(0o755)
        assert command.version(tmp_path / "tool") is None

    def test_none_where_it_is_missing(self):
        assert command.version("hapx-no-such-program") is None


def test_the_command_as_typed():
    assert command.format_argv(["echo", "a b", "$c"]) == "echo 'a b' '$c'"


def test_errors_are_told_while_it_writes_them(tmp_path: Path):
    """On one line that does not end before the program does, and that it waits in the middle of."""
    told: list[str] = []

    def take(text: str) -> None:
        told.append(text)
        if text.endswith("10%..."):
            (tmp_path / "go").touch()

    script = f"printf %s 0%...10%... >&2; while ! test -e {tmp_path}/go; do sleep 0.02; done; echo 100% >&2; echo out"
    result = command.run(["sh", "-c", script], on_errors=take, timeout=30)
    assert told[-1] == result.stderr == "0%...10%...100%\n"
    assert result.stdout == "out\n"


class TestBeside:
    def test_runs_until_the_block_ends(self, tmp_path: Path):
        with command.beside(["sh", "-c", f"echo one; echo two; cat; touch {tmp_path}/ended"]) as line:
            assert [line(10), line(10)] == ["one", "two"]
            assert not (tmp_path / "ended").exists()
        assert (tmp_path / "ended").exists()

    def test_one_that_goes_on_is_stopped(self, tmp_path: Path):
        script = f"echo $$ >{tmp_path}/sh.pid; echo one; exec sleep 60"
        with command.beside(["sh", "-c", script], grace=0.2) as line:
            line(10)
        assert not alive(*pids(tmp_path))

    def test_one_that_says_nothing(self):
        with (
            pytest.raises(CommandTimeoutError, match=r"nothing said within 0.1 seconds"),
            command.beside(["cat"]) as line,
        ):
            line(0.1)

    def test_one_that_ended(self):
        with (
            pytest.raises(CommandError, match="exit code 3") as error,
            command.beside(["sh", "-c", "echo why >&2; exit 3"]) as line,
        ):
            line(10)
        assert error.value.returncode == 3
        assert error.value.details[-1] == "why"

    def test_one_that_is_not_there(self):
        with pytest.raises(MissingError), command.beside(["no-such-program"]):
            pass
