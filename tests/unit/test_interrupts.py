from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from builder import interrupts
from builder.errors import ExitCode

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # As it is where the tests do not run under nohup.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, ExitCode.TERMINATED), (signal.SIGHUP, ExitCode.HUNG_UP)])
def test_a_signal_unwinds(number: signal.Signals, code: ExitCode) -> None:
    interrupts.unwind()
    with pytest.raises(SystemExit) as caught:
        signal.raise_signal(number)
    assert caught.value.code == code


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    interrupts.unwind()
    with interrupts.held():
        signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)],
)
def test_a_signal_waits_for_the_end_of_what_must_be_whole(number: signal.Signals, kind: type[BaseException]) -> None:
    interrupts.unwind()
    done = []
    with pytest.raises(kind), interrupts.held():  # noqa: PT012 - that the block goes on is what is tested
        signal.raise_signal(number)
        done.append("first")
        signal.raise_signal(number)
        done.append("second")
    assert done == ["first", "second"]
    with pytest.raises(kind):  # and from then on it is as it was
        signal.raise_signal(number)


def test_an_error_within_is_not_lost_without_a_signal() -> None:
    with pytest.raises(ValueError, match="this"), interrupts.held():
        raise ValueError("this")


def test_another_thread_goes_on_without() -> None:
    said = []

    def work() -> None:
        with interrupts.held():
            said.append("worked")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(5)
    assert said == ["worked"]


def test_signals_after_the_end_are_ignored() -> None:
    interrupts.unwind()
    interrupts.ignore()
    for number in SIGNALS:
        signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
