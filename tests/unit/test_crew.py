"""Threads that work at the same time, and how they stop."""

from __future__ import annotations

import _thread
import threading
import time

import pytest

from builder.crew import Crew

SECONDS = 10.0


def test_all_work_at_once_and_results_keep_their_order() -> None:
    together = threading.Barrier(3)

    def work(number: int) -> int:
        together.wait(SECONDS)
        return number * 2

    with Crew() as crew:
        assert crew.each([1, 2, 3], work) == [2, 4, 6]


def test_after_a_failure_nothing_more_is_begun_and_what_was_begun_is_waited_for() -> None:
    begun, ended = [], []
    both = threading.Barrier(2)

    def work(number: int) -> None:
        begun.append(number)
        both.wait(SECONDS)
        if number == 1:
            raise ValueError("one")
        time.sleep(0.5)
        ended.append(number)

    with pytest.raises(ValueError, match="one"), Crew(2) as crew:
        crew.each(range(1, 10), work)
    assert (begun, ended) == ([1, 2], [2])


def test_a_crew_within_another_ends_with_it_and_the_reason_is_the_first_error() -> None:
    """Host "a" waits for something that never comes; "b" fails; the nodes of "a" are not begun."""
    begun = []

    def node(name: str) -> None:
        begun.append(name)

    def host(name: str) -> None:
        if name == "b":
            raise ValueError("b")
        with Crew(within=crew) as its:
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                crew.go_on()
                time.sleep(0.01)
            its.each(["a1", "a2"], node)

    with pytest.raises(ValueError, match="b"), Crew() as crew:
        crew.each(["a", "b"], host)
    assert begun == []


def test_ctrl_c_ends_what_a_thread_waits_for() -> None:
    def work(_: int) -> None:
        _thread.interrupt_main()  # what Ctrl-C does
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            crew.go_on()
            time.sleep(0.01)

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Crew() as crew:
        crew.each([1], work)
    assert time.monotonic() - began < SECONDS / 2
