"""Real servers to publish to, each on a port of loopback: nginx with dav, docker-registry, OpenStack Swift's s3api."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 30.0
SMALL = "size=24m"  # of a disk that gets full
NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {data}/.bodies;
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{port}{ssl};
    {certificate}
    root {data};
    location / {{
      dav_methods PUT;
      create_full_put_path on;
      {auth}
    }}
  }}
}}
"""
REGISTRY = """
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {data}}}, delete: {{enabled: false}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""
SWIFT = Path(__file__).with_name("swift_server.py")
KEYS = {
    "AWS_ACCESS_KEY_ID": "test:tester",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_REGION": "us-east-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Server:
    """A server and its data; `killed` and started again, it has the same data and the same port."""

    argv: list[str]
    port: int
    folder: Path
    data: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            time.sleep(0.05)
        raise TimeoutError(f"{self.argv[0]} does not answer")

    def kill(self) -> None:
        """End it at once: SIGKILL to its session."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(SECONDS)
            self._process = None


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(argv: list[str], port: int, folder: Path, *, small: bool = False) -> Iterator[Server]:
    """A server whose data is in `folder`/data: with `small` on a disk of its own, which gets full soon."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    if small:
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        mount = f'mount -t tmpfs -o {SMALL},mode=0777 tmpfs "$0" && exec "$@"'
        argv = ["unshare", *user, "--mount", "--", "sh", "-c", mount, str(data), *argv]
    server = Server(argv, port, folder, data)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextlib.contextmanager
def nginx(
    folder: Path, *, password_file: Path | None = None, small: bool = False, certificate: Path | None = None
) -> Iterator[Server]:
    """nginx, which takes PUT; with a file that has a certificate and its key it speaks TLS."""
    port = free_port()
    auth = f"auth_basic hapx; auth_basic_user_file {password_file};" if password_file else ""
    ssl, tls = (
        (" ssl", f"ssl_certificate {certificate}; ssl_certificate_key {certificate};") if certificate else ("", "")
    )
    text = NGINX.format(folder=folder, data=folder / "data", port=port, auth=auth, ssl=ssl, certificate=tls)
    (folder / "nginx.conf").write_text(text)
    (folder / "data").mkdir(exist_ok=True)
    argv = ["/usr/sbin/nginx", "-e", str(folder / "error.log"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running(argv, port, folder, small=small) as server:
        yield server


@contextlib.contextmanager
def registry(folder: Path, *, password_file: Path | None = None, small: bool = False) -> Iterator[Server]:
    """Debian's docker-registry."""
    port = free_port()
    auth = f"auth: {{htpasswd: {{realm: hapx, path: {password_file}}}}}" if password_file else ""
    (folder / "registry.yml").write_text(REGISTRY.format(data=folder / "data", port=port, auth=auth))
    with running(["docker-registry", "serve", str(folder / "registry.yml")], port, folder, small=small) as server:
        yield server


@contextlib.contextmanager
def swift(folder: Path, *, small: bool = False) -> Iterator[Server]:
    """OpenStack Swift with its s3api: proxy, account, container and object server in one process."""
    port = free_port()
    argv = ["/usr/bin/python3", str(SWIFT), str(folder / "data"), str(port)]
    with running(argv, port, folder, small=small) as server:
        yield server
