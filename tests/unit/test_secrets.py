"""A cluster's secrets: made once, read after that, refused where they are weak, and never shown."""

import base64
import copy
import dataclasses
import hashlib
import json
import logging
import os
import pickle
import shutil
import stat
import string
import subprocess
import sys
import textwrap
import traceback
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from builder.errors import HapxError, InputError
from builder.seed import published, secrets
from builder.seed.secrets import Secret

GOOD_KEY = bytes(range(256))
GOOD_PASSWORD = "correct-horse-9"

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
pytestmark = needs_openssl


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HAPX_AUTHKEY", "HAPX_STATS_PASSWORD", "HAPX_FENCING_KEY", "HAPX_QDEVICE_CERTIFICATE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(f"{name}_FILE", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return secrets.path_beside(tmp_path / "cluster.yaml")


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def lines(**values: str) -> str:
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in values.items())


def good(**values: str) -> str:
    known = {"corosync_authkey": base64.b64encode(GOOD_KEY).decode(), "stats_password": GOOD_PASSWORD}
    return lines(**known | values)


class TestMakingThem:
    def test_they_lie_beside_the_spec(self):
        assert secrets.path_beside(Path("seeds/kube-dmz.yaml")) == Path("seeds/kube-dmz.secrets.yaml")

    def test_once_and_never_again(self, path):
        first = secrets.load(path)
        content = path.read_bytes()
        second = secrets.load(path)
        assert path.read_bytes() == content
        assert [value.reveal() for value in first.values.values()] == [
            value.reveal() for value in second.values.values()
        ]

    def test_each_cluster_its_own(self, tmp_path):
        one, other = (secrets.load(tmp_path / name) for name in ("a.secrets.yaml", "b.secrets.yaml"))
        for name in one.values:
            assert one.values[name].reveal() != other.values[name].reveal()

    def test_as_corosync_and_people_want_them(self, path):
        made = secrets.load(path)
        assert len(made.authkey.reveal()) == 256
        assert len(made.stats_password.text()) == 24
        assert set(made.stats_password.text()) <= set(string.ascii_letters + string.digits + "-_")

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
    def test_for_their_owner_alone(self, path, umask):
        before = os.umask(umask)
        try:
            secrets.load(path)
        finally:
            os.umask(before)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [each.name for each in path.parent.iterdir()] == ["cluster.secrets.yaml"]

    def test_many_processes_at_a_time_use_the_same(self, path):
        script = "import sys; from pathlib import Path; from builder.seed import secrets; sys.stdin.read(1)\n"
        script += (
            "made = secrets.load(Path(sys.argv[1])); print(made.stats_password.text(), made.authkey.reveal().hex())"
        )
        started = [
            subprocess.Popen([sys.executable, "-c", script, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(8)
        ]
        for process in started:
            assert process.stdin
            process.stdin.close()
        assert [process.wait(60) for process in started] == [0] * 8
        said = {process.stdout.read() for process in started if process.stdout}
        assert len(said) == 1
        assert [each.name for each in path.parent.iterdir()] == ["cluster.secrets.yaml"]

    def test_where_nobody_may_write(self, tmp_path):
        with pytest.raises(InputError, match=r"cluster\.secrets\.yaml: (Not a directory|Permission denied)"):
            secrets.load(write(tmp_path / "file", "") / "cluster.secrets.yaml")


class TestGit:
    @pytest.fixture
    def work_tree(self, tmp_path: Path) -> Path:
        if shutil.which("git") is None:
            pytest.skip("git is not installed")
        subprocess.run(["git", "init", "-q", tmp_path], check=True)
        (tmp_path / "seeds").mkdir()
        return tmp_path / "seeds"

    def test_what_would_be_committed_is_not_made(self, work_tree):
        with pytest.raises(InputError, match="git does not ignore it") as caught:
            secrets.load(work_tree / "cluster.secrets.yaml")
        assert not list(work_tree.iterdir())
        assert caught.value.hint == f"echo '*.secrets.yaml' >> {work_tree}/.gitignore"

    def test_the_hint_helps(self, work_tree):
        with pytest.raises(InputError) as caught:
            secrets.load(work_tree / "cluster.secrets.yaml")
        subprocess.run(["sh", "-c", caught.value.hint], check=True)
        assert secrets.load(work_tree / "cluster.secrets.yaml")
        listed = subprocess.run(
            ["git", "-C", work_tree, "status", "--porcelain", "-uall"], check=True, capture_output=True, text=True
        )
        assert "secrets.yaml" not in listed.stdout

    def test_not_even_a_killed_run_leaves_anything_to_commit(self, work_tree, monkeypatch):
        (work_tree / ".gitignore").write_text("*.secrets.yaml\n")
        there: list[str] = []

        def look(_descriptor: int) -> None:
            there.extend(path.name for path in work_tree.iterdir() if path.name != ".gitignore")

        monkeypatch.setattr(os, "fsync", look)
        secrets.load(work_tree / "cluster.secrets.yaml")
        assert there
        for name in there:
            subprocess.run(["git", "-C", work_tree, "check-ignore", "-q", name], check=True)

    def test_this_projects_own_folder_ignores_them(self):
        root = Path(__file__).resolve().parents[2]
        if not (root / ".git").exists():
            pytest.skip("not a work tree")
        assert "/seeds/*.secrets.yaml" in (root / ".gitignore").read_text().split("\n")

    def test_outside_of_one_git_does_not_matter(self, path):
        assert secrets.load(path)


class TestGivenOtherwise:
    def test_by_environment(self, path, monkeypatch):
        monkeypatch.setenv("HAPX_AUTHKEY", base64.encodebytes(GOOD_KEY).decode())
        monkeypatch.setenv("HAPX_STATS_PASSWORD", GOOD_PASSWORD)
        given = secrets.load(path)
        assert (given.authkey.reveal(), given.stats_password.text()) == (GOOD_KEY, GOOD_PASSWORD)
        assert not path.exists()

    @pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
    def test_by_file(self, path, tmp_path, monkeypatch, ending):
        (tmp_path / "authkey").write_bytes(GOOD_KEY)
        (tmp_path / "password").write_bytes((GOOD_PASSWORD + ending).encode())
        monkeypatch.setenv("HAPX_AUTHKEY_FILE", str(tmp_path / "authkey"))
        monkeypatch.setenv("HAPX_STATS_PASSWORD_FILE", str(tmp_path / "password"))
        given = secrets.load(path)
        assert (given.authkey.reveal(), given.stats_password.text()) == (GOOD_KEY, GOOD_PASSWORD)

    def test_by_pipe(self, path, monkeypatch):
        reading, writing = os.pipe()
        os.write(writing, GOOD_PASSWORD.encode())
        os.close(writing)
        monkeypatch.setenv("HAPX_STATS_PASSWORD_FILE", f"/dev/fd/{reading}")
        try:
            assert secrets.load(path).stats_password.text() == GOOD_PASSWORD
        finally:
            os.close(reading)

    def test_they_go_before_what_the_file_says(self, path, monkeypatch):
        write(path, good())
        monkeypatch.setenv("HAPX_STATS_PASSWORD", "something-else-7")
        given = secrets.load(path)
        assert (given.stats_password.text(), given.authkey.reveal()) == ("something-else-7", GOOD_KEY)

    def test_what_is_not_given_is_made_and_the_other_is_asked_for_ever_after(self, path, monkeypatch):
        monkeypatch.setenv("HAPX_AUTHKEY", base64.b64encode(GOOD_KEY).decode())
        first = secrets.load(path)
        assert secrets.load(path).stats_password.text() == first.stats_password.text()
        monkeypatch.delenv("HAPX_AUTHKEY")
        with pytest.raises(InputError) as caught:
            secrets.load(path)
        (problem,) = caught.value.problems
        assert problem.message == "corosync_authkey is missing"
        assert "HAPX_AUTHKEY" in problem.hint

    @pytest.mark.parametrize(
        ("variables", "told"),
        [
            ({"HAPX_AUTHKEY": "///", "HAPX_STATS_PASSWORD": "x"}, ["not base64", "1 characters"]),
            ({"HAPX_AUTHKEY": "", "HAPX_STATS_PASSWORD": ""}, ["0 bytes", "0 characters"]),
            ({"HAPX_AUTHKEY": "x", "HAPX_AUTHKEY_FILE": "x"}, ["HAPX_AUTHKEY_FILE is set too"]),
            ({"HAPX_AUTHKEY_FILE": "/nowhere"}, ["HAPX_AUTHKEY_FILE: No such file"]),
            ({"HAPX_AUTHKEY_FILE": "/"}, ["HAPX_AUTHKEY_FILE: Is a directory"]),
            ({"HAPX_AUTHKEY_FILE": "/dev/zero"}, ["more than 1048576 bytes"]),
            ({"HAPX_STATS_PASSWORD": "twelve spaces"}, ["something else than printable ASCII"]),
            ({"HAPX_STATS_PASSWORD": "ümläute-und-mehr"}, ["something else than printable ASCII"]),
            ({"HAPX_STATS_PASSWORD": "a" * 20}, ["can be guessed"]),
            ({"HAPX_STATS_PASSWORD": "abcdefgh" * 20}, ["160 characters"]),
        ],
    )
    def test_nonsense_is_refused_and_nothing_made(self, path, monkeypatch, variables, told):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError) as caught:
            secrets.load(path)
        for each in told:
            assert each in "\n".join(caught.value.details)
        assert not path.exists()

    def test_a_password_where_its_file_should_be_is_not_shown(self, path, monkeypatch):
        monkeypatch.setenv("HAPX_STATS_PASSWORD_FILE", GOOD_PASSWORD)
        with pytest.raises(InputError) as caught:
            secrets.load(path)
        assert GOOD_PASSWORD not in str(caught.value.details)


class TestTheFile:
    def test_more_by_name(self, path):
        loaded = secrets.load(write(path, good(my_api_token="t0ken", other="ünïcode")))
        assert loaded.values["my_api_token"].text() == "t0ken"
        assert loaded.values["other"].text() == "ünïcode"

    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602, 0o610])
    def test_too_open(self, path, mode):
        write(path, good(), mode)
        with pytest.raises(InputError, match=rf"others may read these secrets \(mode {mode:04o}\)") as caught:
            secrets.load(path)
        subprocess.run(["sh", "-c", caught.value.hint], check=True)
        assert secrets.load(path)

    @pytest.mark.parametrize("mode", [0o600, 0o400])
    def test_open_enough(self, path, mode):
        assert secrets.load(write(path, good(), mode))

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("", ["corosync_authkey is missing", "stats_password is missing"]),
            ("# only a comment\n", ["corosync_authkey is missing", "stats_password is missing"]),
            ("- a\n- b\n", [":1: not a list of names"]),
            ("just words\n", [":1: not a list of names"]),
            ("a: [1\n", [":2: not YAML"]),
            (good() + "My-Key: x\n", [":3: does not begin with a name"]),
            ("stats_password: %s3cr3t\n", [":1: not YAML"]),
            ("a: b\n---\na: b\n", ["not YAML"]),
            (good() + "stats_password: again-and-again\n", [":3: stats_password: stands here twice"]),
            (good(stats_password=""), [":2: stats_password: 0 characters"]),
            ("stats_password:\n", [":1: stats_password: has no value"]),
            ("stats_password: [a, b]\n", [":1: stats_password: has no value"]),
            (good(corosync_authkey="***"), [":1: corosync_authkey: not base64"]),
            (good(corosync_authkey=base64.b64encode(GOOD_KEY[:127]).decode()), ["127 bytes; Corosync takes 128"]),
            (good(corosync_authkey=base64.b64encode(bytes(5000)).decode()), ["5000 bytes; Corosync takes"]),
            (good(corosync_authkey=base64.b64encode(bytes(256)).decode()), ["can be guessed"]),
            (good(corosync_authkey=base64.b64encode(b"secret" * 40).decode()), ["can be guessed"]),
            (good(stats_password="admin"), [":2: stats_password: 5 characters (12 to 128)"]),
            (good(stats_password_hash="$6$x$y"), [":3: stats_password_hash: is derived"]),
            (lines(corosync_authkey="x y z", stats_password="admin"), ["not base64", "5 characters"]),
        ],
    )
    def test_what_is_wrong_is_told_with_its_line(self, path, text, told):
        with pytest.raises(InputError) as caught:
            secrets.load(write(path, text))
        said = "\n".join(caught.value.details)
        for each in told:
            assert each in said
        assert len(caught.value.problems) == len(told)
        assert path.read_text() == text

    def test_not_text(self, path):
        path.write_bytes(b"a: \xff\n")
        path.chmod(0o600)
        with pytest.raises(InputError) as caught:
            secrets.load(path)
        assert "not UTF-8" in caught.value.details[0]

    def test_a_folder_a_pipe_a_link_to_nothing(self, tmp_path):
        (tmp_path / "folder").mkdir()
        os.mkfifo(tmp_path / "pipe", 0o600)
        (tmp_path / "link").symlink_to("nothing")
        for name, told in (("folder", "Is a directory"), ("pipe", "not a file"), ("link", "No such file")):
            with pytest.raises(InputError, match=told):
                secrets.load(tmp_path / name)

    def test_an_authkey_in_hex_has_enough_in_it(self, path):
        key = os.urandom(128).hex().encode()
        assert secrets.load(write(path, good(corosync_authkey=base64.b64encode(key).decode()))).authkey.reveal() == key


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
class TestWhatNobodyMakes:
    """A fencing key, which a host has to know, and a certificate, which an authority has signed."""

    @pytest.fixture
    def key(self, tmp_path: Path) -> Path:
        return self.made(tmp_path / "fencing.key")

    def made(self, key: Path, *options: str, passphrase: str = "") -> Path:
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, *options, "-f", str(key)]
        subprocess.run(argv, check=True, timeout=60)
        return key

    def test_a_cluster_that_needs_it_is_told_before_anything_is_made(self, path):
        with pytest.raises(InputError) as caught:
            secrets.load(path, [secrets.FENCING_KEY])
        assert "fencing_key is missing (name its file in HAPX_FENCING_KEY_FILE, or" in caught.value.details[0]
        assert not path.exists()

    def test_by_file(self, path, key, monkeypatch):
        monkeypatch.setenv("HAPX_FENCING_KEY_FILE", str(key))
        assert secrets.load(path, [secrets.FENCING_KEY]).values[secrets.FENCING_KEY].reveal() == key.read_bytes()
        assert "fencing" not in path.read_text()

    def test_in_the_secrets_file(self, path, key):
        write(path, good(fencing_key=key.read_text().strip()))
        assert secrets.load(path).values[secrets.FENCING_KEY].reveal() == key.read_bytes()

    def test_one_that_cannot_be_used_is_not_taken_and_not_shown(self, path, tmp_path):
        locked = self.made(tmp_path / "locked", passphrase="hunter2").read_text()
        public = self.made(tmp_path / "plain").with_suffix(".pub").read_text()
        cut = (tmp_path / "plain").read_text().replace("b3BlbnNzaC1r", "", 1)
        for text, told in ((locked, "has a passphrase"), (public, "not a private key"), (cut, "cut short")):
            with pytest.raises(InputError, match="cannot be used") as caught:
                secrets.load(write(path, good(fencing_key=text)))
            assert told in caught.value.details[0]
            assert not any(line in str(caught.value.details) for line in text.splitlines() if len(line) > 40)

    def test_a_certificate_is_pkcs_12(self, path):
        for value, told in ((b"-----BEGIN CERTIFICATE-----", "not a certificate with its key"), (b"", "not a")):
            with pytest.raises(InputError) as caught:
                secrets.load(write(path, good(qdevice_certificate=base64.b64encode(value).decode())))
            assert told in caught.value.details[0]
        for start in (bytes.fromhex("3080020103"), bytes.fromhex("30820cf3020103")):
            write(path, good(qdevice_certificate=base64.b64encode(start).decode()))
            assert secrets.load(path).values[secrets.QDEVICE_CERTIFICATE].reveal() == start


class TestPublished:
    def test_an_authkey_is_refused_by_name(self, path, monkeypatch):
        # The guide's own is not written here either: a key of this test's takes its place.
        monkeypatch.setitem(published._PUBLISHED, digest(GOOD_KEY), "the guide's authkey")
        with pytest.raises(InputError) as caught:
            secrets.load(write(path, good()))
        assert "corosync_authkey: this is the guide's authkey: everybody has it" in caught.value.details[0]

    def test_in_a_document(self, monkeypatch):
        blob = ssh_blob(b"x" * 32)
        encoded = base64.b64encode(blob).decode()
        monkeypatch.setitem(published._PUBLISHED, digest(GOOD_KEY), "the key")
        monkeypatch.setitem(published._PUBLISHED, digest(blob), "the CA")
        wrapped = textwrap.indent(base64.encodebytes(GOOD_KEY).decode(), "    ")
        hidden = textwrap.indent(base64.encodebytes(f"ssh-ed25519 {encoded} ca@x\n".encode()).decode(), "    ")
        text = f"#cloud-config\n- ssh-ed25519 {encoded}\n- content: !!binary |\n{wrapped}\n- content: |\n{hidden}\n"
        assert list(published.find(text)) == [(2, "the CA"), (4, "the key"), (11, "the CA")]

    def test_any_other_is_not(self):
        assert published.name(GOOD_KEY) is None
        assert not list(published.find("ssh-ed25519 AAAA me@here\nssh-rsa not/base64=x\n" + "A" * 400))


def digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def ssh_blob(key: bytes) -> bytes:
    kind = b"ssh-ed25519"
    return len(kind).to_bytes(4) + kind + len(key).to_bytes(4) + key


class TestHash:
    @pytest.fixture
    def loaded(self, path: Path) -> secrets.Secrets:
        return secrets.load(write(path, good()))

    @pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not installed")
    def test_it_is_what_crypt_makes_of_the_password(self, loaded):
        """HAProxy asks libc's crypt(), and so does Perl."""
        script = "print crypt($ARGV[0], $ARGV[1])"
        argv = ["perl", "-e", script, GOOD_PASSWORD, loaded.stats_hash.text()]
        said = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=30).stdout
        assert said == loaded.stats_hash.text()
        assert said.startswith("$6$")

    def test_it_follows_from_password_and_key_alone(self, loaded, tmp_path):
        again = secrets.load(write(tmp_path / "other.secrets.yaml", good()))
        other = secrets.load(write(tmp_path / "third.secrets.yaml", good(stats_password="another-password")))
        assert again.stats_hash.text() == loaded.stats_hash.text()
        assert other.stats_hash.text().split("$")[2] != loaded.stats_hash.text().split("$")[2]

    @pytest.mark.skipif(shutil.which("haproxy") is None, reason="haproxy is not installed")
    def test_haproxy_takes_it(self, loaded, tmp_path):
        configuration = tmp_path / "haproxy.cfg"
        configuration.write_text(f"userlist stats\n  user hapx password {loaded.stats_hash.text()}\n")
        subprocess.run(["haproxy", "-c", "-f", configuration], check=True, capture_output=True, timeout=30)


PLAIN = "pa55word-that-nobody-may-see"


class TestNeverShown:
    @pytest.fixture
    def secret(self) -> Secret:
        return Secret("stats_password", PLAIN.encode())

    def test_by_any_way_to_text(self, secret, caplog):
        @dataclasses.dataclass(frozen=True)
        class Holder:
            secret: Secret
            values: dict[str, Secret]

        holder = Holder(secret, {"a": secret})
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("test").error("%s %r %s", secret, secret, holder)
        shown = [
            str(secret),
            repr(secret),
            f"{secret}",
            f"{secret!r:>40}",
            f"{secret:>40}",
            "%s" % secret,  # noqa: UP031
            "{}".format(secret),  # noqa: UP032
            repr([secret]),
            repr(holder),
            repr(dataclasses.asdict(holder)),
            json.dumps({"secret": secret}, default=str),
            repr(copy.copy(holder)),
            repr(copy.deepcopy(holder)),
            repr(vars(holder)),
            caplog.text,
        ]
        for text in shown:
            assert PLAIN not in text
            assert "***" in text
        assert secret.text() == PLAIN

    def test_not_pickled(self, secret):
        for dump in (pickle.dumps, copy.copy):
            with pytest.raises(TypeError, match="cannot be pickled"):
                dump(secret)

    def test_by_what_is_loaded(self, path):
        loaded = secrets.load(write(path, good()))
        shown = repr(loaded) + str(loaded) + repr(dict(loaded.values)) + str(loaded.stats_hash)
        assert GOOD_PASSWORD not in shown
        assert "$6$" not in shown

    @pytest.mark.parametrize("error", [ValueError, HapxError])
    def test_by_a_traceback_with_its_variables(self, secret, error):
        def fail(value: Secret) -> None:
            raise error(f"something is wrong with {value}")

        with pytest.raises(error) as caught:
            fail(secret)
        assert PLAIN not in full_traceback(caught.value)


def full_traceback(error: BaseException) -> str:
    """What the most talkative of handlers would print: every frame below the test's own, with its variables."""
    assert error.__traceback__
    below = error.__traceback__.tb_next
    return "".join(traceback.TracebackException(type(error), error, below, capture_locals=True).format())


NOISE = st.text(alphabet=st.characters(codec="utf-8", exclude_characters=PLAIN), max_size=30)


BROKEN = [
    f"stats_password: *{PLAIN}",
    f"stats_password: !{PLAIN}",
    f"stats_password: @{PLAIN}",
    f"stats_password: {{{PLAIN}",
    f"stats_password: {PLAIN}\nstats_password: {PLAIN}",
    f"stats_password:\n- {PLAIN}",
    f"{PLAIN}",
    f'a: "{PLAIN}',
    f"a: '{PLAIN}\nb",
    f"a: {PLAIN}\n b: c",
    f"&{PLAIN}",
    f"%{PLAIN} x",
]


@pytest.mark.parametrize("text", BROKEN)
def test_no_error_of_a_broken_file_shows_it(path, text):
    with pytest.raises(InputError) as caught:
        secrets.load(write(path, text))
    shown = f"{caught.value} {caught.value.details} {caught.value.hint}"
    assert PLAIN not in shown
    assert PLAIN not in full_traceback(caught.value)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(NOISE, st.just(PLAIN), st.sampled_from([": ", "\n", "- ", "'", '"', "|\n ", "&", "*", "!"]))))
@example(["a: \x00", PLAIN])
def test_no_error_of_any_file_shows_it(tmp_path, parts):
    text = "".join(parts)
    assume(PLAIN in text)
    path = tmp_path / "cluster.secrets.yaml"
    # An authkey is never among the parts, so that there is an error whatever they are.
    with pytest.raises(HapxError) as caught:
        secrets.load(write(path, text))
    assert PLAIN not in f"{caught.value} {caught.value.details} {caught.value.hint}"
    assert PLAIN not in full_traceback(caught.value)


class TestMask:
    VALUES = (
        Secret("stats_password", PLAIN.encode()),
        Secret("corosync_authkey", GOOD_KEY),
        Secret("odd", b'it\'s "quoted" \\ {here}'),
    )

    def test_what_is_no_secret_stays(self):
        text = "#cloud-config\nhostname: hapx-node01\ncontent: |\n  aGVsbG8gd29ybGQsIGhlbGxvIGFnYWlu\n" + "word\n" * 5
        assert secrets.mask(text, self.VALUES) == text
        assert secrets.mask(text, ()) == text

    @pytest.mark.parametrize(
        "form",
        [
            PLAIN,
            f"stats auth admin:{PLAIN}",
            f'"{PLAIN}"',
            base64.b64encode(GOOD_KEY).decode(),
            base64.encodebytes(GOOD_KEY).decode(),
            textwrap.indent(base64.encodebytes(GOOD_KEY).decode(), " " * 6),
            base64.b64encode(f"user hapx insecure-password {PLAIN}\n".encode()).decode(),
            base64.encodebytes(b"global\n" * 20 + f"user hapx insecure-password {PLAIN}\n".encode()).decode(),
            base64.b64encode(b"x" + GOOD_KEY).decode(),
            json.dumps('it\'s "quoted" \\ {here}'),
            "'it''s \"quoted\" \\ {here}'",
        ],
    )
    def test_every_form_goes(self, form):
        text = f"before: 1\ncontent: |\n{form}\nafter: 2\n"
        masked = secrets.mask(text, self.VALUES)
        assert "***" in masked
        assert masked.startswith("before: 1\n")
        assert masked.endswith("\nafter: 2\n")
        for line in form.split():
            if len(line) > 12:
                assert line not in masked

    @given(st.text(max_size=40), st.text(max_size=40), st.binary(min_size=12, max_size=400), st.integers(20, 80))
    def test_wherever_it_stands(self, before, after, value, width):
        encoded = base64.b64encode(value).decode()
        wrapped = "\n".join(f"  {encoded[at : at + width]}" for at in range(0, len(encoded), width))
        masked = secrets.mask(f"{before}\n{wrapped}\n{after}", [Secret("any", value)])
        assert encoded[:12] not in masked or encoded[:12] in before + after
