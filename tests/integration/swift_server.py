"""OpenStack Swift with its s3api, all of it in one process: python3 swift_server.py FOLDER PORT.

Run by Debian's own Python, for which python3-swift is installed. The rings are made at each start, with whatever ports
are free; what was stored is found again, as there is one disk.
"""

from __future__ import annotations

import sys
from pathlib import Path

import eventlet

eventlet.monkey_patch()

from eventlet import wsgi  # noqa: E402
from swift.common import utils  # noqa: E402

FOLDER, PORT = Path(sys.argv[1]), int(sys.argv[2])
HASHES = "[swift-hash]\nswift_hash_path_suffix = tests\nswift_hash_path_prefix = tests\n"
KINDS = ("account", "container", "object")
SERVER = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}
mount_check = false
fallocate_reserve = 0
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
# s3api wants a cache in its pipeline, and does without one that answers.
PROXY = """
[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = catch_errors gatekeeper cache s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
error_suppression_interval = 0
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = testing .admin
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


def main() -> None:
    """Serve until killed."""
    utils.SWIFT_CONF_FILE = str(FOLDER / "swift.conf")
    Path(utils.SWIFT_CONF_FILE).write_text(HASHES)
    utils.validate_hash_conf()
    from swift.common import wsgi as servers
    from swift.common.ring import RingBuilder

    (FOLDER / "disk").mkdir(exist_ok=True)
    sockets = {kind: eventlet.listen(("127.0.0.1", 0)) for kind in KINDS}
    for kind, listening in sockets.items():
        port = listening.getsockname()[1]
        place = {"ip": "127.0.0.1", "port": port, "replication_ip": "127.0.0.1", "replication_port": port}
        builder = RingBuilder(1, 1, 0)
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "device": "disk", "weight": 1.0, "meta": "", **place})
        builder.rebalance()
        builder.get_ring().save(str(FOLDER / f"{kind}.ring.gz"))
    for kind, listening in sockets.items():
        eventlet.spawn(wsgi.server, listening, _app(kind, SERVER), utils.NullLogger())
    listening = eventlet.listen(("127.0.0.1", PORT))
    wsgi.server(listening, _app("proxy", PROXY), utils.NullLogger(), protocol=servers.SwiftHttpProtocol)


def _app(kind: str, text: str) -> object:
    from swift.common import wsgi as servers

    path = FOLDER / f"{kind}.conf"
    path.write_text(text.format(folder=FOLDER, kind=kind))
    return servers.loadapp(str(path), global_conf={"log_name": kind})


if __name__ == "__main__":
    main()
