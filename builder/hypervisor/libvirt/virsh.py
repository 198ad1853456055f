"""virsh on one connection: its errors as ours, XML in and out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree.ElementTree import Element, fromstring, tostring

from builder.command import Result, failure, require, run
from builder.errors import HapxError, InputError, MissingError, UnreachableError

SECONDS = 120.0
"""For one call to end: most take milliseconds, the first after libvirtd's start waits until it has asked QEMU."""

_UNREACHABLE = re.compile(r"failed to connect to the hypervisor|cannot recv data|End of file while reading data")
_ABSENT = re.compile(
    r"Domain not found|failed to get domain|Network not found|failed to get network|"
    r"Storage pool not found|failed to get pool|Storage volume not found|failed to get vol"
)
_MOUNTED_BY = "sudo apt-get install libvirt-clients"


class AbsentError(HapxError):
    """What was asked for is not there: a domain, a network, a pool, a volume."""


class Virsh:
    """Runs virsh on a connection URI; may be used by several threads at once."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def argv(self, *arguments: str) -> list[str]:
        """The whole command line."""
        return ["virsh", "--quiet", "--connect", self.uri, *arguments]

    def run(self, *arguments: str, input: str | None = None, timeout: float = SECONDS) -> str:
        """What virsh prints. `input` is the standard input, which files of XML are read from as /dev/stdin.

        Raises MissingError (no virsh), UnreachableError, AbsentError, InputError (no right), CommandError,
        CommandTimeoutError.
        """
        try:
            require("virsh", package="libvirt-clients")
        except MissingError as error:
            raise MissingError(f"{self.uri}: {error.message}", hint=error.hint) from None
        result = run(self.argv(*arguments), input=input, timeout=timeout, check=False, env={"LC_ALL": "C.UTF-8"})
        if result.returncode:
            raise self._error(result)
        return result.stdout

    def find(self, *arguments: str) -> str | None:
        """What virsh prints; None where what was asked for is not there. Raises as `run` does."""
        try:
            return self.run(*arguments)
        except AbsentError:
            return None

    def xml(self, *arguments: str) -> Element | None:
        """The XML that virsh prints, None where what was asked for is not there. Raises as `run` does."""
        text = self.find(*arguments)
        return None if text is None else fromstring(text)  # noqa: S314 - libvirt's own, not from outside

    def take(self, command: str, document: Element, *arguments: str) -> None:
        """Give virsh a command that reads XML. Raises as `run` does."""
        self.run(command, *arguments, "/dev/stdin", input=tostring(document, encoding="unicode"))

    def names(self, *arguments: str) -> list[str]:
        """The names that a listing command prints, one a line."""
        return [line.strip() for line in self.run(*arguments).splitlines() if line.strip()]

    def _error(self, result: Result) -> HapxError:
        said = [line for line in result.stderr.splitlines() if line]
        text = " ".join(said)
        if _UNREACHABLE.search(text):
            hint = f"virsh --connect {self.uri} version"
            if "Permission denied" in text or "authentication" in text:
                return InputError(f"{self.uri}: no right to connect", hint='sudo usermod -aG libvirt "$USER"')
            return UnreachableError(f"{self.uri}: no libvirt answers there", hint=hint, details=said)
        if _ABSENT.search(text):
            return AbsentError(f"{self.uri}: {text.removeprefix('error: ')}")
        return failure(result, said)


def child(parent: Element, tag: str, text: str | None = None, **attributes: str) -> Element:
    """A new element in another; attribute names may end in an underscore (`class_`)."""
    made = Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})
    made.text = text
    parent.append(made)
    return made


def one_of(names: Sequence[str], pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """The matches of a pattern with whole names."""
    return [match for name in names if (match := pattern.fullmatch(name))]
