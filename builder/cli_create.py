"""`hapx-build create`: the command line of the guide's create-image.sh."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from builder.hypervisor.virtualbox import VirtualBox


class Truth(StrEnum):
    """Yes and no as create-image.sh takes them."""

    TRUE = "true"
    FALSE = "false"


def create(
    hostname: Annotated[
        str, typer.Option("--hostname", "-o", metavar="NAME", help="Host name, and the machine's name.")
    ],
    ssh_pub_keyfile: Annotated[
        Path | None, typer.Option("--ssh-pub-keyfile", "-k", metavar="FILE", help="SSH public key, for #SSH-PUB-KEY#.")
    ] = None,
    user_data: Annotated[
        Path, typer.Option("--user-data", "-u", metavar="FILE", help="user-data for cloud-init.")
    ] = Path("user-data"),
    meta_data: Annotated[
        Path, typer.Option("--meta-data", "-m", metavar="FILE", help="meta-data for cloud-init.")
    ] = Path("meta-data"),
    network_interfaces: Annotated[
        Path | None, typer.Option("--network-interfaces", "-n", metavar="FILE", help="network-config for cloud-init.")
    ] = None,
    post_config_interfaces: Annotated[
        Path | None,
        typer.Option("--post-config-interfaces", "-i", metavar="FILE", help="The machine's network cards."),
    ] = None,
    post_config_resources: Annotated[
        Path | None,
        typer.Option("--post-config-resources", "-r", metavar="FILE", help="The machine's processors and memory."),
    ] = None,
    post_config_storages: Annotated[
        Path | None,
        typer.Option("--post-config-storages", "-s", metavar="FILE", help="The machine's additional disks."),
    ] = None,
    linux_distribution: Annotated[
        str, typer.Option("--linux-distribution", "-l", metavar="NAME", help="The folder in data/ with the files.")
    ] = "debian",
    base_image: Annotated[
        str | None, typer.Option("--base-image", "-b", metavar="NAME", help="The machine to clone.")
    ] = None,
    auto_start: Annotated[Truth, typer.Option("--auto-start", "-a", help="Whether to start the machine.")] = Truth.TRUE,
    new_instance: Annotated[
        bool, typer.Option("--new-instance", help="A fresh #UUID#: cloud-init sets the machine up once more.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: one line an event.")] = False,
) -> None:
    """Make a machine in VirtualBox as create-image.sh did: its flags, its files in data/, its placeholders.

    The CD goes to dist/NAME-cidata.iso. FILEs are looked for in data/<linux-distribution>, the SSH key is not. Without
    --base-image the CD is all that is made.
    """
    from builder.cli import reporting
    from builder.seed import iso, legacy

    request = legacy.CreateRequest(
        hostname,
        ssh_key=ssh_pub_keyfile,
        meta_data=meta_data,
        user_data=user_data,
        network_interfaces=network_interfaces,
        interfaces=post_config_interfaces,
        storages=post_config_storages,
        resources=post_config_resources,
        distribution=linux_distribution,
        base_image=base_image,
        auto_start=auto_start is Truth.TRUE,
        new_instance=new_instance,
    )
    planned = legacy.plan(request, data=Path("data"))
    with reporting(as_json=as_json) as reporter:
        notes = [f"warning: {warning}" for warning in planned.warnings]
        if planned.base_image is None:
            notes.append(f"note: no --base-image: {planned.hostname} gets its CD, but no machine")
        for note in notes:
            # People see them whatever becomes of the output; it is not part of it.
            if as_json:
                reporter.note(note)
            else:
                typer.echo(note, err=True)
        virtualbox = _virtualbox() if planned.base_image is not None else None
        written = legacy.write(planned, Path("dist"), timestamp=iso.default_timestamp())
        facts = {
            **dataclasses.asdict(written),
            "hostname": planned.hostname,
            "interfaces": [dataclasses.asdict(interface) for interface in planned.interfaces],
            "resources": dataclasses.asdict(planned.resources) if planned.resources else None,
            "storages": [dataclasses.asdict(storage) for storage in planned.storages],
        }
        said = f"{written.path}: {written.size / 1e3:.1f} kB, sha256 {written.sha256}"
        if virtualbox is not None and planned.base_image is not None:
            from builder.hypervisor.alone import alone
            from builder.hypervisor.virtualbox import creating

            with reporter.stage("machine", title=f"Make {planned.hostname}"), alone(virtualbox, reporter):
                made = creating.create(virtualbox, planned, planned.base_image, written.path)
            if planned.auto_start:
                with reporter.stage("start", title=f"Start {planned.hostname}"):
                    started = virtualbox.start(planned.hostname)
                facts["started"] = started
            facts["machine"] = dataclasses.asdict(made)
            said += f"\n{made.name}: {', '.join(made.changes) or 'as it should be'}"
            said += f"; once it is off: {', '.join(made.later)}" if made.later else ""
        reporter.result(said, **facts)


def _virtualbox() -> VirtualBox:
    """This machine's VirtualBox, known to be there before anything is made."""
    from builder.hypervisor.virtualbox import VirtualBox

    found = VirtualBox()
    _ = found.manage.version
    return found
