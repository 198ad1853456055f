"""One more suite of Debian for apt, from the mirror it already uses here, for the few packages this release lacks.

`python3 -m builder.apt bookworm-backports`, as root, writes the suite's source and a pin that has apt take nothing from
it but what is asked for by name, and prints the files written: none where apt knows the suite already. Standard library
only, as it runs before there is a virtual environment.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import command
from builder.errors import ExitCode, HapxError, MissingError, UsageError
from builder.requirements import release_codename

_FIELDS = ("$(REPO_URI)", "$(RELEASE)", "$(CODENAME)", "$(ORIGIN)", "$(SOURCESENTRY)")


@dataclass(frozen=True, slots=True)
class Index:
    """One package index apt is configured with: where it comes from and which entry of which file asked for it.

    `release` is the name the source entry uses ("bookworm", "oldstable"); `codename` and `origin` are what the archive
    tells; `entry` is "file:number", as apt writes it.
    """

    uri: str
    release: str
    codename: str
    origin: str
    entry: str

    def is_of(self, suite: str) -> bool:
        """Whether this index belongs to the suite, or the release, of that name."""
        return suite in {self.release, self.codename}


def parse_indexes(text: str) -> list[Index]:
    """Read what `apt-get indextargets` printed in our format."""
    rows = (line.split("\t") for line in text.splitlines())
    return [Index(*row) for row in rows if len(row) == len(_FIELDS)]


def signed_by(text: str, *, deb822: bool, number: int) -> str:
    """The Signed-By value of one entry of a sources file, or "" where it names none.

    `number` is apt's: the stanza of a deb822 file, the line of a one-line-style one, from 1 (sources.list(5)).
    """
    if not deb822:
        line = (text.splitlines() + [""] * number)[number - 1]
        match = re.search(r"\[[^]]*\bsigned-by=([^]\s]+)", line)
        return match.group(1) if match else ""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    stanzas = [stanza for stanza in re.split(r"\n\s*\n", "\n".join(lines)) if stanza.strip()]
    if number > len(stanzas):
        return ""
    # A key may stand in the file itself: its lines are indented and go on until the next field.
    match = re.search(r"^signed-by:[ \t]*(.*(?:\n[ \t].*)*)", stanzas[number - 1], re.MULTILINE | re.IGNORECASE)
    return match.group(1).rstrip() if match else ""


def render_source(*, uri: str, suite: str, keys: str) -> str:
    """The deb822 source (sources.list(5)); `keys` is its Signed-By, "" for apt's own keyring."""
    lines = [
        "# Written by hapx-build, for a package that this machine's own release lacks or has too old.",
        "Types: deb",
        f"URIs: {uri}",
        f"Suites: {suite}",
        "Components: main",
    ]
    if keys:
        # A path stands on the field's own line, a key on the lines that follow it.
        lines.append(f"Signed-By:{keys}" if keys.startswith("\n") else f"Signed-By: {keys}")
    return "\n".join(lines) + "\n"


def render_pin(suite: str) -> str:
    """The preferences (apt_preferences(5)): what was installed from the suite is kept up to date, nothing else."""
    lines = [
        "# Written by hapx-build, beside the source of the same name.",
        "Package: *",
        f"Pin: release n={suite}",
        "Pin-Priority: 100",
    ]
    return "\n".join(lines) + "\n"


def plan(indexes: Iterable[Index], *, codename: str, suite: str) -> Index | None:
    """The index of this machine's release, `codename`, whose mirror has `suite` too; None where apt knows that already.

    Raises MissingError where apt knows no mirror of this release.
    """
    indexes = list(indexes)
    if any(index.is_of(suite) for index in indexes):
        return None
    for index in indexes:
        # Other vendors name their suites after Debian's releases too.
        if index.is_of(codename) and index.origin == "Debian" and not index.uri.startswith("cdrom:"):
            return index
    raise MissingError(
        f"apt has no source for Debian {codename or '(its codename is unknown)'} to find {suite} beside",
        hint=f"apt-get update, if it never ran; else add a source for {suite} to /etc/apt/sources.list.d/ yourself",
    )


def configured_indexes() -> list[Index]:
    """The package indexes apt is configured with, and has fetched, on this machine.

    Raises MissingError where there is no apt-get, CommandError where it fails.
    """
    line = "\t".join(_FIELDS)
    result = command.run(["apt-get", "indextargets", "--format", line, "Created-By: Packages"], timeout=60)
    return parse_indexes(result.stdout)


def knows(suite: str) -> bool:
    """Whether apt on this machine has a source of that suite."""
    return any(index.is_of(suite) for index in configured_indexes())


def add(suite: str, *, root: Path = Path("/etc/apt")) -> list[Path]:
    """Write the suite's pin and source below `root`; the files written, none where apt knows the suite already.

    Raises MissingError as `plan` does, and where this user may not write there.
    """
    index = plan(configured_indexes(), codename=release_codename(), suite=suite)
    if index is None:
        return []
    file, _, number = index.entry.rpartition(":")
    try:
        keys = signed_by(Path(file).read_text(encoding="utf-8"), deb822=file.endswith(".sources"), number=int(number))
    except (OSError, ValueError):
        keys = ""
    # The pin first: apt must never see the source without it.
    texts = {
        root / "preferences.d" / f"hapx-build-{suite}": render_pin(suite),
        root / "sources.list.d" / f"hapx-build-{suite}.sources": render_source(uri=index.uri, suite=suite, keys=keys),
    }
    for path, text in texts.items():
        try:
            path.write_text(text, encoding="utf-8")
            path.chmod(0o644)  # apt reads it as another user, whatever root's umask
        except OSError as error:
            for written in texts:
                with contextlib.suppress(OSError):
                    written.unlink()
            raise MissingError(f"{path} cannot be written: {error.strerror}", hint="run this as root") from error
    return list(texts)


def main(argv: Sequence[str]) -> int:
    """Add the suite named."""
    try:
        if len(argv) != 1 or not re.fullmatch(r"[a-z][a-z0-9-]*", argv[0]):
            raise UsageError("usage: python3 -m builder.apt SUITE")
        sys.stdout.writelines(f"{path}\n" for path in add(argv[0]))
    except HapxError as error:
        sys.stderr.write("\n  ".join([error.message, *error.details, *filter(None, [error.hint])]) + "\n")
        return error.exit_code
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
