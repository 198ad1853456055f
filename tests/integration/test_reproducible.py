"""The same inputs give the same OVA, bit for bit: two bakes of the real template that share nothing."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
import sys

import pytest

from tests import conftest
from tests.integration import baking
from tests.integration.baking import COMMAND, REPOSITORY


@pytest.mark.slow
@pytest.mark.skipif("HAPX_TEST_OVA" in os.environ, reason="the OVA under test is not one of this checkout")
def test_root_and_an_ordinary_user_bake_the_same_bytes() -> None:
    """One is root's, or whoever runs this; the other a user's in a namespace, with another root, folder and umask."""
    with baking.place() as here:
        shutil.rmtree(here.template)
        shutil.copytree(REPOSITORY / "packer", here.template, ignore=shutil.ignore_patterns("__pycache__"))
        baking.become_user(here)
        here.prefix = (*here.prefix, "sh", "-c", 'umask 077; exec "$@"', "umask")
        done = here.run("--json", seconds=conftest.BAKE_SECONDS)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "bootstrap" in done.stages
        sys.stdout.write(f"hapx-build image as an ordinary user, from nothing: {done.seconds:.0f} s\n")
        # Asked for only now: it is baked anew where the mirror has had other packages meanwhile.
        ours = conftest.baked_ova()
        compared = subprocess.run([COMMAND, "diff", ours, here.ova], capture_output=True, text=True, check=False)
        assert compared.returncode == 0, compared.stdout + compared.stderr
        assert filecmp.cmp(ours, here.ova, shallow=False)
        here.assert_clean()
