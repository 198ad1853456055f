"""The report as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator

from hapx.health import Report


def report(report: Report) -> str:
    """A screen of text: the state, the cluster, then what is wrong and what to do first."""
    return "\n".join([*_lines(report)])


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.state.upper()}  {report.cluster}, seen from {report.node}"
    yield ""
    rows = list(_rows(report))
    width = max(len(name) for name, _ in rows)
    yield from (f"  {name:<{width}}  {value}" for name, value in rows)
    if report.problems:
        yield ""
    for problem in report.problems:
        yield f"  {problem.severity}: {problem.message}"
        yield f"      -> {problem.hint}"


def _rows(report: Report) -> Iterator[tuple[str, str]]:
    yield "quorum", f"{'yes' if report.quorate else 'NO'}, {report.votes} of {report.expected_votes} votes"
    yield "coordinator", report.dc or "none"
    for node in report.nodes:
        state = "online" if node.online else "OFFLINE"
        links = [
            f"link {each.number} {'up' if each.connected else 'DOWN'}"
            for each in report.links
            if each.peer == node.name
        ]
        yield node.name, ", ".join([f"{state}{', standby' if node.standby else ''}", *links])
    for vip in report.vips:
        yield vip.name, f"{vip.address} on {vip.holder or 'NO NODE'}"
    yield "haproxy", "answers" if report.haproxy.alive else "DOES NOT ANSWER"
    for backend in report.haproxy.backends:
        yield f"  {backend.name}", f"{backend.up} of {backend.total} servers up"
    applied = "applied" if report.applied == report.generation else f"cluster: {report.applied or 'none'}"
    yield "seed", f"{report.generation} ({applied})"
    yield "clock", _clock(report)


def _clock(report: Report) -> str:
    if report.clock.synchronised is None:
        return "unknown: chrony does not answer"
    if not report.clock.synchronised:
        return "not synchronised"
    return f"synchronised, {(report.clock.offset_seconds or 0) * 1000:+.1f} ms"
