"""The manifest and the certificate of an OVA: their lines, and the digests against the members.

DSP0243, 5.1: `algorithm "(" file_name ")" "=" sp digest nl`. Importers take this literally.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from builder.image.verify.checks import Findings

DIGITS = {"SHA1": 40, "SHA256": 64, "SHA512": 128}
EXACT = re.compile(r"([A-Z0-9]+)\(([^()]+)\)= ([0-9a-f]+)")
LENIENT = re.compile(r"\s*([A-Za-z0-9/-]+)\s*\((.+)\)\s*=\s*([0-9A-Fa-f]+)\s*")
ALIASES = {"SHA2-256": "SHA256", "SHA-256": "SHA256", "SHA2-512": "SHA512", "SHA-512": "SHA512", "SHA-1": "SHA1"}
LONGEST_LINE = 1000  # bytes; the patterns take quadratic time on the worst lines
RIGHT = "a line is `SHA256(name)= ` and 64 lowercase hex digits: openssl before 3.0 writes that, later ones do not"


@dataclass(frozen=True, slots=True)
class Line:
    """One digest of the manifest: `number` is the line it stands in, `algorithm` SHA1, SHA256 or SHA512."""

    number: int
    algorithm: str
    name: str
    digest: str


def parse(data: bytes, manifest: str, findings: Findings) -> list[Line]:
    """The digests of a manifest; lines that are understood although their form is wrong are a finding and count."""
    lines: list[Line] = []
    if not data:
        findings.add("manifest.format", manifest, "", "the manifest is empty", hint=RIGHT)
        return lines
    if b"\r" in data:
        findings.add("manifest.format", manifest, "", "lines end in CR LF instead of LF", hint=RIGHT)
    if not data.endswith(b"\n"):
        findings.add("manifest.format", manifest, "", "the last line has no end", hint=RIGHT)
    for number, raw in enumerate(data.replace(b"\r", b"").removesuffix(b"\n").split(b"\n"), start=1):
        if len(raw) > LONGEST_LINE:
            findings.add("manifest.format", manifest, f"line {number}", f"{len(raw):,} characters", hint=RIGHT)
            continue
        text = raw.decode("utf-8", errors="backslashreplace")
        where = f"line {number}"
        match = EXACT.fullmatch(text)
        if match is None or match[1] in ALIASES:
            match = LENIENT.fullmatch(text)
            findings.add("manifest.format", manifest, where, _fault(text, match), hint=RIGHT)
        if match is None:
            continue
        algorithm = ALIASES.get(match[1].upper(), match[1].upper())
        if algorithm not in DIGITS:
            findings.add(
                "manifest.algorithm", manifest, where, f"{match[1]} is not a digest importers know", hint=RIGHT
            )
        elif len(match[3]) != DIGITS[algorithm]:
            said = f"a {algorithm} has {DIGITS[algorithm]} digits, this one {len(match[3])}"
            findings.add("manifest.format", manifest, where, said, hint=RIGHT)
        else:
            lines.append(Line(number, algorithm, match[2], match[3].lower()))
    return lines


def _fault(text: str, match: re.Match[str] | None) -> str:
    """What is wrong with a line, in words."""
    if match is None:
        return f"not a digest: {text!r}" if text else "an empty line"
    if match[1].upper() in ALIASES:
        return f"{match[1]} instead of {ALIASES[match[1].upper()]}, as OpenSSL 3 writes it: vSphere refuses it"
    if re.search(r"\s\(", text):
        return "a space before the bracket, as sha256sum --tag and VirtualBox write it: vSphere refuses it"
    if not re.search(r"\)= \S", text):
        return "not exactly one space after the equals sign and none before it"
    if match[3] != match[3].lower():
        return "uppercase hex digits"
    return "not the form of a manifest's line"


def compare(
    lines: Collection[Line],
    manifest: str,
    *,
    required: Collection[str] | None,
    members: Collection[str],
    digest: Callable[[str, str], str],
    findings: Findings,
) -> None:
    """The manifest against the members.

    `required` are the names it has to list and no others, None where a broken descriptor does not say which;
    `digest(name, algorithm)` gives the digest a member really has.
    """
    listed: set[str] = set()
    unusual = sorted({line.algorithm for line in lines} - {"SHA256"})
    if unusual:
        what = " and ".join(unusual)
        findings.add("manifest.not-sha256", manifest, "", f"digests are {what}", hint="SHA256 is read everywhere")
    for line in lines:
        where = f"line {line.number}"
        if line.name in listed:
            findings.add("manifest.extra", manifest, where, f"{line.name} is listed twice")
            continue  # a digest may mean reading the member again
        if line.name not in members:
            said = f"{line.name} is listed but not in the OVA"
            findings.add("manifest.extra", manifest, where, said, hint=_near(line.name, members))
        elif required is not None and line.name not in required:
            said = f"{line.name} is listed; only the descriptor and the files of References belong here"
            findings.add("manifest.extra", manifest, where, said)
        listed.add(line.name)
        if line.name in members and (right := digest(line.name, line.algorithm)) != line.digest:
            findings.add(
                "manifest.digest", manifest, where,
                f"{line.algorithm} of {line.name} is {right}, the manifest says {line.digest}",
                hint="the file was changed after the manifest was made, or damaged on the way",
            )  # fmt: skip
    for name in required or ():
        if name not in listed:
            said = f"nothing says what {name} has to be"
            findings.add(
                "manifest.incomplete", manifest, "", said, hint="list the descriptor and every referenced file"
            )


def _near(name: str, members: Collection[str]) -> str:
    base = re.split(r"[/\\]", name)[-1]
    return f"the name in the OVA is {base}" if base in members else ""


def certificate(data: bytes, name: str, manifest: str | None, findings: Findings) -> None:
    """A certificate file: a digest line for the manifest that holds its signature, then certificates in PEM."""
    text = data.decode("utf-8", errors="backslashreplace")
    signed = re.match(r"SHA\d+\(([^()]+)\)= [0-9a-f]+\r?\n", text)
    if signed is None:
        findings.add("cert.format", name, "line 1", "not `SHA256(X.mf)= signature`")
    elif manifest is not None and signed[1] != manifest:
        findings.add("cert.format", name, "line 1", f"signs {signed[1]}, but the manifest is {manifest}")
    if "-----BEGIN CERTIFICATE-----" not in text or "-----END CERTIFICATE-----" not in text:
        findings.add("cert.format", name, "", "no certificate in PEM")
    if manifest is None:
        findings.add("cert.format", name, "", "there is no manifest this could sign")
    said = "the signature itself was not verified, only the manifest's digests"
    findings.add("cert.unchecked", name, "", said, hint="ovftool verifies it")
