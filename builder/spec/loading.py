"""A spec's file -> `Cluster`, or every error at once, each with file, line and key."""

from __future__ import annotations

from pathlib import Path

from builder.errors import InputError, Problem, of_os_error
from builder.spec import outside, tree
from builder.spec.checks import check
from builder.spec.issues import Issue, spell
from builder.spec.model import Cluster
from builder.spec.validation import validate


def load(path: Path) -> Cluster:
    """The cluster that the spec at `path` says, checked, with SSH keys in place of the files that hold them.

    Raises InputError with a Problem for everything that is wrong, in the order of the file: where
    ("seeds/cluster.yaml:12: nodes[0].id"), what, what to do.
    """
    name = spoken(path)
    text = tree.decode(_read(path, name))
    if isinstance(text, tree.Fault):
        raise _refused(name, [(text.line, Problem(f"{name}:{text.line}", text.message, text.hint))])
    read = tree.parse(text)
    problems = [_of_fault(name, fault) for fault in read.faults]
    if not read.readable:
        raise _refused(name, problems)
    cluster, issues = _judge(read, path.parent)
    problems += [_of_issue(name, read, issue) for issue in issues]
    if problems or cluster is None:
        raise _refused(name, problems)
    return cluster


def _judge(read: tree.Tree, folder: Path) -> tuple[Cluster | None, list[Issue]]:
    cluster, issues = validate(read.value)
    if cluster is None:
        return None, issues
    # What is wrong with the rest of the spec is said in the same breath; but where a part had to be left out, that
    # something is missing may come from there.
    complete = not issues and not read.faults
    issues += [issue for issue in check(cluster) if complete or not issue.absence]
    cluster, not_found = outside.settle(cluster, folder)
    return cluster, issues + not_found


def _read(path: Path, name: str) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(tree.MAX_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such spec", hint="start from one of those in seeds/") from None
    except OSError as error:
        raise of_os_error(error) or InputError(f"{name}: {error.strerror}") from None


def spoken(path: Path) -> str:
    """The path as people say it: relative to where they are, if it is below."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _of_fault(name: str, fault: tree.Fault) -> tuple[int, Problem]:
    where = f"{name}:{fault.line}"
    return fault.line, Problem(f"{where}: {spell(fault.path)}" if fault.path else where, fault.message, fault.hint)


def _of_issue(name: str, read: tree.Tree, issue: Issue) -> tuple[int, Problem]:
    path = issue.path
    while path and isinstance(path[-1], int) and path not in read.lines:
        path = path[:-1]  # a single address stands there without a list
    line = read.line(path)
    where = f"{name}:{line}: {spell(path)}" if path else f"{name}:{line}"
    return line, Problem(where, issue.message, issue.hint)


def _refused(name: str, problems: list[tuple[int, Problem]]) -> InputError:
    ordered = [problem for _, problem in sorted(problems, key=lambda entry: entry[0])]
    count = len(ordered)
    return InputError(f"{name}: {count} error{'s' if count != 1 else ''} in the cluster spec", ordered)
