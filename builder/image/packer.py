"""HashiCorp's Packer: found, its command line, and a run of it with its output as events.

Written for 1.6.6 (Debian's) and later. What 1.6.6 was measured to do, and what this module does about it:

- SIGTERM makes it SIGKILL the shell of a running shell-local provisioner at once; what that shell started lives on
  without ever being told. So everything under Packer that is not Packer gets SIGTERM and time first (`command.run`,
  `first`), then Packer, which removes its machines and temporary files, then who is left.
- With -machine-readable the values of sensitive variables are not hidden (they are in its ordinary output). They are
  hidden here: see `build`, `secrets`.
- -only that matches no build ends well, having built nothing. Here it is an error.
- A newline in a message becomes the two characters backslash and n, and a backslash stays what it is, so that the two
  cannot be told apart. Marker lines are read before that is undone: JSON says a newline that way itself.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, Any

from builder import command
from builder.errors import CommandError, CommandTimeoutError, MissingError

MARKER = "@hapx "
GRACE_SECONDS = 240.0  # for Packer's clean-up: a machine to stop and to delete
VERSION_SECONDS = 10.0
TAIL_LINES = 15

_VERSION = re.compile(r"^Packer v(\d+)\.(\d+)\.(\d+)", re.MULTILINE)
_MACHINE = re.compile(r"\d+,([^,]*),([a-z-]+)(?:,(.*))?", re.DOTALL)
_PREFIX = re.compile(r"(==>|   ) ([^\s:]+)(?: \([\w-]+\))?:(?: (.*))?")  # (of a post-processor)
_EXIT_STATUS = re.compile(r"non-zero exit status: (\d+)")
# What Packer says around every failure, in other words than the error itself.
_CHATTER = re.compile(
    r"==> Wait completed after|==> Some builds didn't complete|==> Builds finished but no artifacts|"
    r"Build '[^']*' errored after|==> Provisioning step had errors"
)


class EventKind(StrEnum):
    """What Packer, or a script under it, tells."""

    SAY = "say"
    MESSAGE = "message"
    ERROR = "error"
    ARTIFACT = "artifact"
    HAPX = "hapx"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing told.

    `text` has no prefix and may have several lines; `target` is the build it is about, "" for Packer as a whole. An
    ERROR with a target is what a script wrote to its standard error or a builder complains of; without one it is
    Packer's own. `data` is the JSON of a marker line (HAPX), or an artifact's `builder_id`, `id` and `files`.
    """

    kind: EventKind
    text: str = ""
    target: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a build made, in Packer's words, and its files."""

    target: str
    builder_id: str
    id: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A build that ended well: at least one artifact; its time in seconds."""

    artifacts: tuple[Artifact, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Packer:
    """The program and its version."""

    path: Path
    version: tuple[int, int, int]


def find() -> Packer:
    """The first `packer` on PATH, or in root's folders, that is HashiCorp's; raises MissingError.

    Others go by this name: cracklib's, in /usr/sbin, takes its argument for a database to write and waits for words
    on its input. So each is asked in an empty folder, with its input closed and little time.
    """
    others = []
    for path in _candidates():
        version = _version(path)
        if version is not None:
            return Packer(path, version)
        others.append(path)
    found = f"; {', '.join(map(str, others))} is another program of this name" if others else ""
    raise MissingError(f"packer: HashiCorp's Packer is not installed{found}", hint="sudo apt-get install packer")


def build_argv(
    packer: Packer, folder: Path, *, source: str, var_file: Path, force: bool, machine_readable: bool = True
) -> list[str]:
    """The command that builds one source, "type.name", of the unnamed build in a folder.

    The folder itself is passed, whichever version it is for: Packer reads the templates in it and none below. 1.6.6
    knows no `required_plugins`, so that block belongs into a folder of its own, <folder>/plugins, and never takes part
    in a build: `packer init <folder>/plugins` installs, once, what the qemu and virtualbox sources need from 1.10 on,
    and Packer then finds it by itself. null, shell-local, artifice, checksum and manifest are part of every Packer.
    """
    return [
        str(packer.path),
        "build",
        *(["-machine-readable"] if machine_readable else []),
        "-color=false",
        f"-only={source}",
        *(["-force"] if force else []),
        f"-var-file={var_file}",
        str(folder),
    ]


def build(
    packer: Packer,
    argv: Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    log: IO[str],
    on_event: Callable[[Event], None],
    timeout: float | None,
    secrets: Collection[str] = (),
) -> BuildResult:
    """Run what `build_argv` made, in the folder `cwd`, for `timeout` seconds at most.

    Each thing told goes to `on_event` as it comes and, as text, one clean line each, to `log`. A line that a script
    prints as `@hapx {JSON}` becomes an event of kind HAPX. `secrets` are replaced by "<sensitive>" in all of it but
    HAPX data. `env` is added to the environment; PACKER_LOG is as the user has it, its output in cwd/packer-debug.log.

    Raises CommandError, with Packer's last lines and the exit code of the script that failed, where Packer tells it;
    CommandTimeoutError; what `on_event` raises; KeyboardInterrupt. Nothing that Packer started runs any more then.
    """
    reader = _Reader(log, on_event, secrets)
    surroundings = {
        "CHECKPOINT_DISABLE": "1",
        "PACKER_CACHE_DIR": str(cwd / "packer_cache"),
        "PACKER_LOG": os.environ.get("PACKER_LOG", "0"),
        "PACKER_LOG_PATH": str(cwd / "packer-debug.log"),
        **env,
    }
    hint = f"the whole log: {log.name}" if getattr(log, "name", "") else ""
    try:
        result = command.run(
            argv,
            cwd=cwd,
            env=surroundings,
            on_line=reader.line,
            timeout=timeout,
            check=False,
            grace=GRACE_SECONDS,
            first=lambda program: not program.startswith("packer"),
        )
    except CommandTimeoutError as error:
        raise CommandTimeoutError(error.message, hint=hint, details=reader.tail) from None
    if result.returncode == 0 and reader.artifacts:
        return BuildResult(tuple(reader.artifacts), result.seconds)
    details = [f"command: {command.format_argv(argv)}", *reader.tail]
    if result.returncode == 0:
        raise CommandError(
            "Packer built nothing: no build has the source asked for", returncode=0, hint=hint, details=details
        )
    if result.returncode < 0:
        raise CommandError(command.failure(result).message, returncode=result.returncode, hint=hint, details=details)
    reason = reader.reason or f"exit code {result.returncode}"
    status = _EXIT_STATUS.search(reason)
    returncode = int(status.group(1)) if status else result.returncode
    raise CommandError(f"Packer failed: {reason}", returncode=returncode, hint=hint, details=details)


@dataclass(frozen=True, slots=True)
class Line:
    """One machine-readable line: what it is about, its type ("ui", "error", "artifact" …) and the rest."""

    target: str
    type: str
    data: tuple[str, ...]


def parse_line(line: str) -> Line | None:
    """Take a line of -machine-readable output apart; None for any other line. Never raises.

    Commas in the data are themselves again; newlines are not yet (see `told`).
    """
    match = _MACHINE.fullmatch(line)
    if match is None:
        return None
    target, kind, rest = match.groups()
    data = () if rest is None else tuple(part.replace("%!(PACKER_COMMA)", ",") for part in rest.split(","))
    return Line(target, kind, data)


def told(kind: EventKind, text: str) -> Event:
    """The event for the text of a "ui" line: marker lines read, prefixes taken off. Never raises."""
    match = _PREFIX.fullmatch(text)
    if match is not None and (data := _marker(match.group(3) or "")) is not None:
        return Event(EventKind.HAPX, target=match.group(2), data=data)
    if (data := _marker(text)) is not None:
        return Event(EventKind.HAPX, data=data)
    target, lines = "", []
    for line in _unescape(text).strip("\n").split("\n"):
        match = _PREFIX.fullmatch(line)
        if match is not None:
            target = match.group(2)
        lines.append(line if match is None else match.group(3) or "")
    return Event(kind, "\n".join(lines), target)


class _Reader:
    """Packer's lines on their way to the log and to whom it concerns."""

    def __init__(self, log: IO[str], on_event: Callable[[Event], None], secrets: Collection[str]) -> None:
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.artifacts: list[Artifact] = []
        self.reason = ""
        self._log = log
        self._on_event = on_event
        # A secret of several lines comes line by line.
        parts = {line for secret in secrets for line in secret.splitlines() if line.strip()}
        self._secrets = sorted(parts, key=len, reverse=True)
        self._fields: dict[str, str] = {}
        self._files: list[str] = []

    def line(self, raw: str) -> None:
        """Take one line as Packer wrote it."""
        line = parse_line(raw)
        match (line.type, line.data) if line is not None else ("", ()):
            case "ui", (("say" | "message" | "error") as kind, *text):
                self._tell(told(EventKind(kind), ",".join(text)))
            case "error", text if not self.reason:
                self.reason = self._hide(_unescape(",".join(text))).partition("Allowed exit codes")[0].rstrip(". \n")
            case "artifact", (_, name, *values) if line is not None:
                self._artifact(line.target, name, [_unescape(value) for value in values])
            case "", _:
                # Not Packer's user interface: a crash of its, say.
                self._tell(Event(EventKind.MESSAGE, raw))

    def _tell(self, event: Event) -> None:
        if event.kind is EventKind.HAPX:
            # Progress comes many times a second: it is for who watches, not for who reads the log.
            if event.data.get("event") != "progress":
                self._write([_readable(event.data)])
        else:
            event = replace(event, text=self._hide(event.text))
            mark = "==> " if event.kind is EventKind.SAY and event.target else ""
            self._write([f"{mark}{line}".rstrip() for line in event.text.split("\n")])
            if event.kind is EventKind.ERROR and not event.target and not self.reason:
                self.reason = _diagnosis(event.text)
        self._on_event(event)

    def _write(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._log.write(f"{line}\n")
            if line and not _CHATTER.match(line):
                self.tail.append(line)
        self._log.flush()

    def _artifact(self, target: str, name: str, values: Sequence[str]) -> None:
        """An artifact comes field by field: builder-id, id, file (number, path) …, end."""
        if name == "file":
            self._files.append(values[-1] if values else "")
        elif name == "end":
            found = Artifact(target, self._fields.get("builder-id", ""), self._fields.get("id", ""), tuple(self._files))
            self.artifacts.append(found)
            self._fields, self._files = {}, []
            data = {"builder_id": found.builder_id, "id": found.id, "files": found.files}
            self._on_event(Event(EventKind.ARTIFACT, target=target, data=data))
        else:
            self._fields[name] = ",".join(values)

    def _hide(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "<sensitive>")
        return text


def _marker(text: str) -> dict[str, Any] | None:
    """The object in a marker line, None where it is not one (whatever else it may be: then it is just text)."""
    if not text.startswith(MARKER):
        return None
    try:
        data = json.loads(text.removeprefix(MARKER))
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _readable(data: Mapping[str, Any]) -> str:
    """A marker line for the log."""
    said = (f"{key if key.isidentifier() else json.dumps(key)}={json.dumps(value)}" for key, value in data.items())
    return " ".join(["hapx:", *said])


def _diagnosis(text: str) -> str:
    """What an error of Packer's own says, in one line; empty for what is said around an error.

    An HCL diagnostic ("Error: …", then "on FILE line N:") comes with its place.
    """
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if not lines or _CHATTER.match(lines[0]) or lines[0].startswith("Cancelling build"):
        return ""
    place = f", {lines[1].rstrip(':')}" if len(lines) > 1 and lines[1].startswith("on ") else ""
    return lines[0].removeprefix("Error: ") + place


def _unescape(text: str) -> str:
    return text.replace("\\r", "\r").replace("\\n", "\n")


def _candidates() -> list[Path]:
    """Every program called packer, in the order a shell would try them, root's folders last."""
    folders = dict.fromkeys([*os.get_exec_path(), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    found: dict[Path, Path] = {}
    for folder in folders:
        if Path(folder).is_absolute() and (name := shutil.which("packer", path=folder)) is not None:
            found.setdefault(Path(name).resolve(), Path(name))
    return list(found.values())


def _version(path: Path) -> tuple[int, int, int] | None:
    """The version of HashiCorp's Packer, None where it is something else."""
    with tempfile.TemporaryDirectory(prefix="hapx-") as empty:
        try:
            result = command.run(
                [str(path), "version"],
                cwd=Path(empty),
                env={"CHECKPOINT_DISABLE": "1"},
                timeout=VERSION_SECONDS,
                check=False,
                grace=0.5,
            )
        except (CommandError, CommandTimeoutError, MissingError):
            return None
    match = _VERSION.search(result.stdout)
    return (int(match.group(1)), int(match.group(2)), int(match.group(3))) if match else None
