"""The backports of this machine's Debian release, as a source for apt, from the mirror apt already uses here.

`python3 -m builder.backports bookworm` prints a deb822 file for /etc/apt/sources.list.d/, or nothing where apt knows
the backports already. Backports are `NotAutomatic`: apt takes from them only what is asked for by name. Standard
library only, as it runs before there is a virtual environment.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder import command
from builder.errors import ExitCode, HapxError, MissingError, UsageError

SOURCE_FILE = Path("/etc/apt/sources.list.d/hapx-build-backports.sources")

_FIELDS = ("$(REPO_URI)", "$(RELEASE)", "$(CODENAME)", "$(ORIGIN)", "$(SOURCESENTRY)")


@dataclass(frozen=True, slots=True)
class Index:
    """One package index apt is configured with: where it comes from and which entry of which file asked for it.

    `release` is the name the source entry uses ("bookworm", "oldstable"); `codename` and `origin` are what the archive
    tells, unknown before the first `apt-get update`; `entry` is "file:number", as apt writes it.
    """

    uri: str
    release: str
    codename: str
    origin: str
    entry: str

    def is_of(self, name: str) -> bool:
        """Whether this index belongs to the release of that codename."""
        return name in {self.release, self.codename}


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
    """The deb822 source; `keys` is its Signed-By, "" for apt's own keyring."""
    lines = [
        "# Written by hapx-build's .ci/prepare: QEMU of this release is too old for its tests.",
        "# Delete this file to undo that; nothing is taken from backports but what is asked for by name.",
        "Types: deb",
        f"URIs: {uri}",
        f"Suites: {suite}",
        "Components: main",
    ]
    if keys:
        # A path stands on the field's own line, a key on the lines that follow it.
        lines.append(f"Signed-By: {keys}" if not keys.startswith("\n") else f"Signed-By:{keys}")
    return "\n".join(lines) + "\n"


def plan(indexes: Iterable[Index], codename: str) -> Index | None:
    """The index of the release itself whose mirror has the backports too; None where apt knows the backports already.

    Raises MissingError where apt knows no mirror of that release.
    """
    indexes = list(indexes)
    suite = f"{codename}-backports"
    if any(index.is_of(suite) for index in indexes):
        return None
    for index in indexes:
        # Other vendors name their suites after Debian's releases too.
        if index.is_of(codename) and index.origin == "Debian" and not index.uri.startswith("cdrom:"):
            return index
    raise MissingError(
        f"apt has no source for Debian {codename} to find {suite} beside",
        hint=f"add a source for {suite} to /etc/apt/sources.list.d/ yourself",
    )


def configured_indexes() -> list[Index]:
    """The package indexes apt is configured with on this machine; MissingError where there is no apt-get."""
    line = "\t".join(_FIELDS)
    result = command.run(["apt-get", "indextargets", "--format", line, "Created-By: Packages"], timeout=60)
    return parse_indexes(result.stdout)


def is_configured(codename: str) -> bool:
    """Whether apt already knows this release's backports."""
    return any(index.is_of(f"{codename}-backports") for index in configured_indexes())


def source(codename: str) -> str:
    """The source to add on this machine, or "" where there is nothing to add; raises as `plan` does."""
    index = plan(configured_indexes(), codename)
    if index is None:
        return ""
    file, _, number = index.entry.rpartition(":")
    try:
        text = Path(file).read_text(encoding="utf-8")
        keys = signed_by(text, deb822=file.endswith(".sources"), number=int(number))
    except (OSError, ValueError):
        keys = ""
    return render_source(uri=index.uri, suite=f"{codename}-backports", keys=keys)


def main(argv: Sequence[str]) -> int:
    """Print the source for the release named."""
    try:
        if len(argv) != 1:
            raise UsageError("usage: python3 -m builder.backports CODENAME")
        sys.stdout.write(source(argv[0]))
    except HapxError as error:
        sys.stderr.write(f"{error.message}\n" + (f"  {error.hint}\n" if error.hint else ""))
        return error.exit_code
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
