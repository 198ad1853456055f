from __future__ import annotations

import errno
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest

from builder import cli, interrupts
from builder.errors import BusyError, CommandError, ExitCode, InputError, Problem


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line with something in place of every command; its exit code and output."""
    # Signals' handlers belong to a process, and this one goes on to other tests.
    monkeypatch.setattr(interrupts, "unwind", lambda: None)
    monkeypatch.setattr(interrupts, "ignore", lambda: None)

    def run(*arguments: str, doing: Callable[[], object] | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hapx-build", *arguments])
        if doing is not None:
            monkeypatch.setattr(cli, "app", lambda **_: doing())
        with pytest.raises(SystemExit) as caught:
            cli.main()
        said = capsys.readouterr()
        code = caught.value.code
        assert isinstance(code, int)
        return code, said.out, said.err

    return run


@pytest.mark.parametrize("ended", ["by returning 130", "by KeyboardInterrupt"])
def test_a_late_ctrl_c_does_not_change_the_exit_code(ended: str) -> None:
    """Typer returns 130 after Ctrl-C instead of raising, and the next one came while the message was written."""
    how = "return 130" if ended == "by returning 130" else "raise KeyboardInterrupt"
    program = textwrap.dedent(f"""
        import signal
        from builder import cli
        def app(**_):
            {how}
        def fail(error, *, as_json, real=cli.fail):
            signal.raise_signal(signal.SIGINT)
            real(error, as_json=as_json)
        cli.app, cli.fail = app, fail
        cli.main()
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, "error: interrupted\n")


def raising(error: BaseException) -> Callable[[], object]:
    def doing() -> object:
        raise error

    return doing


CASES = [
    (InputError("bad", [Problem("here", "no")]), ExitCode.INPUT, "error: bad\n  here: no\n"),
    (BusyError("taken", hint="wait"), ExitCode.BUSY, "error: taken\nhint: wait\n"),
    (
        CommandError("x: exit code 1", returncode=1, details=["a", "b"]),
        ExitCode.FAILED,
        "error: x: exit code 1\n  a\n  b\n",
    ),
    (KeyboardInterrupt(), ExitCode.INTERRUPTED, "error: interrupted\n"),
    (SystemExit(143), ExitCode.TERMINATED, "error: ended by SIGTERM\n"),
    (SystemExit(129), ExitCode.HUNG_UP, "error: ended, as its terminal was closed (SIGHUP)\n"),
]


@pytest.mark.parametrize(("error", "code", "shown"), CASES)
def test_an_error_goes_to_standard_error(
    run: Callable[..., tuple[int, str, str]], error: BaseException, code: ExitCode, shown: str
) -> None:
    assert run("image", doing=raising(error)) == (code, "", shown)


@pytest.mark.parametrize(("error", "code", "shown"), CASES)
def test_with_json_an_error_is_an_event(
    run: Callable[..., tuple[int, str, str]], error: BaseException, code: ExitCode, shown: str
) -> None:
    returned, out, err = run("image", "--json", doing=raising(error))
    assert (returned, err) == (code, "")
    event = json.loads(out)
    assert (event["event"], event["exit_code"]) == ("error", code)
    assert shown.startswith(f"error: {event['message']}\n")
    assert all(f"  {line}\n" in shown for line in event["details"])


def test_a_defect_shows_where_it_is(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("image", doing=raising(KeyError("oops")))
    assert (code, out) == (ExitCode.INTERNAL, "")
    assert err.startswith("error: defect in hapx-build: 'oops'\n")
    assert "Traceback" in err
    assert err.endswith("hint: please report this, with the lines above\n")


def test_a_full_disk_is_no_defect(run: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = run("image", doing=raising(OSError(errno.ENOSPC, "No space left on device", "/x")))
    assert code == ExitCode.NO_SPACE
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", [["nonsense"], ["image", "--nonsense"], ["verify"], ["image", "--output"]])
def test_a_wrong_command_line(run: Callable[..., tuple[int, str, str]], arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (ExitCode.USAGE, "")
    assert err.startswith("error: ")
    assert err.endswith("hint: hapx-build --help\n")


def test_nothing_asked_for_gets_the_help(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run()
    assert (code, err) == (ExitCode.USAGE, "")
    for command in ("image", "verify", "doctor"):
        assert f"\n  {command} " in out


@pytest.mark.parametrize(
    ("arguments", "text"), [(["--help"], "Commands:"), (["-h"], "Commands:"), (["--version"], "hapx-build ")]
)
def test_what_is_asked_for_is_no_error(
    run: Callable[..., tuple[int, str, str]], arguments: list[str], text: str
) -> None:
    code, out, err = run(*arguments)
    assert (code, err) == (ExitCode.OK, "")
    assert text in out
