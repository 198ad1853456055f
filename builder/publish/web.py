"""Publishing to a web server that takes PUT, such as nginx with its dav module; fetching from any.

Credentials are those of ~/.netrc (NETRC names another file), proxies those of the environment.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from builder.errors import HapxError, InputError, NoSpaceError, UnreachableError, UntrustedError
from builder.publish.store import Store

if TYPE_CHECKING:
    from requests import Response, Session

CHUNK = 1 << 20
SECONDS = (10.0, 120.0)  # to connect, and between two pieces of an answer


class Web(Store):
    """What is below a URL."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._session: Session | None = None

    def spoken(self, name: str) -> str:
        """Its URL."""
        return f"{self._url}/{quote(name)}" if name else self._url

    def read(self, name: str, start: int = 0) -> Iterator[bytes] | None:
        """See `Store.read`."""
        headers = {"Range": f"bytes={start}-"} if start else {}
        response = self._ask("GET", name, headers=headers, stream=True)
        if response.status_code in {404, 410}:
            response.close()
            return None
        if response.status_code == 416 and start:  # all of it was read before
            response.close()
            return iter(())
        if response.status_code not in {200, 206}:
            raise refused(response)
        skip = start if response.status_code == 200 else 0
        return pieces(response, self.spoken(name), skip)

    def write(self, name: str, source: Path, on_progress: Callable[[int], None]) -> None:
        """See `Store.write`."""
        with source.open("rb") as file:
            self._put(name, _Body(file, source.stat().st_size, on_progress))

    def write_text(self, name: str, text: str) -> None:
        """See `Store.write_text`."""
        self._put(name, text.encode())

    def _put(self, name: str, body: Any) -> None:
        response = self._ask("PUT", name, data=body, allow_redirects=False)
        if response.status_code not in {200, 201, 204}:
            raise refused(response)

    def _ask(self, method: str, name: str, **more: Any) -> Response:
        import requests

        if self._session is None:
            self._session = requests.Session()
            self._session.headers["Accept-Encoding"] = "identity"  # these bytes, and no others
        with translated(self.spoken(name)):
            return self._session.request(method, self.spoken(name), timeout=SECONDS, **more)


class _Body:
    """A file to be sent, of which requests learns the length."""

    def __init__(self, file: Any, size: int, on_progress: Callable[[int], None]) -> None:
        self._file, self._size, self._sent, self._on_progress = file, size, 0, on_progress

    def __len__(self) -> int:
        return self._size

    def read(self, _size: int = -1) -> bytes:
        data: bytes = self._file.read(CHUNK)
        self._sent += len(data)
        self._on_progress(self._sent)
        return data


def pieces(response: Response, where: str, skip: int) -> Iterator[bytes]:
    """What an answer holds, without its first `skip` bytes."""
    with translated(where), response:
        for chunk in response.iter_content(CHUNK):
            if skip < len(chunk):
                yield chunk[skip:]
            skip = max(0, skip - len(chunk))


@contextlib.contextmanager
def translated(where: str) -> Iterator[None]:
    """What goes wrong on the way to a server as an error that a person can act on."""
    import requests

    try:
        yield
    except requests.exceptions.SSLError as error:
        raise UntrustedError(
            f"{where}: the server's certificate is not trusted: {_reason(error)}",
            hint="REQUESTS_CA_BUNDLE names a file with certificates to trust",
        ) from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        raise InputError(f"{where}: {error}") from None
    except requests.exceptions.Timeout:
        raise UnreachableError(f"{where}: no answer within {SECONDS[1]:.0f} seconds", hint=AGAIN) from None
    except requests.exceptions.RequestException as error:
        raise UnreachableError(f"{where}: the connection failed: {_reason(error)}", hint=AGAIN) from None


AGAIN = "is the server running? Start this again later: what arrived is not sent again"


_REFUSALS: dict[int, tuple[type[HapxError], str]] = {
    **dict.fromkeys((401, 403), (InputError, "credentials for this host belong into ~/.netrc")),
    **dict.fromkeys((301, 302, 303, 307, 308), (InputError, "give the address that this one leads to")),
    **dict.fromkeys((404, 405, 501), (HapxError, "this server takes no PUT there (nginx: dav_methods PUT)")),
    409: (HapxError, "the folder above is not there, or a file has its name"),
    413: (HapxError, "let the server take larger files (nginx: client_max_body_size 0)"),
    **dict.fromkeys((502, 503, 504), (UnreachableError, AGAIN)),
    507: (NoSpaceError, "free some space there, and publish again"),
}


def refused(response: Response) -> HapxError:
    """The error for an answer that says no."""
    kind, hint = _REFUSALS.get(response.status_code, (HapxError, "see the server's log"))
    # Where storage redirects to, signatures stand behind the question mark.
    where = f"{response.request.method} {response.url.partition('?')[0]}"
    return kind(f"{where}: the server answers {response.status_code} {response.reason}", hint=hint)


def _reason(error: BaseException) -> str:
    """The innermost reason, without the objects around it that urllib3 prints."""
    while (
        inner := getattr(error, "reason", None) or next((a for a in error.args if isinstance(a, Exception)), None)
    ) and (isinstance(inner, BaseException)):
        error = inner
    return str(error).split(">: ")[-1]
