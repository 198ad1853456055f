"""Publishing to S3-compatible storage, through boto3.

Credentials, region and endpoint are those of its standard configuration: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL_S3, ~/.aws.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from builder.errors import HapxError, InputError, NoSpaceError, UnreachableError
from builder.publish.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CHUNK = 1 << 20
PART = 16 << 20  # bytes; S3 takes 10,000 parts of 5 MiB and more
_ABSENT = {"NoSuchKey", "404", "NotFound"}
_DENIED = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403", "Forbidden", "ExpiredToken"}
_CREDENTIALS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, have to be those of somebody who may"


class Bucket(Store):
    """What is below a prefix of a bucket. Files larger than a part go in parts, those that arrived are kept."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self._bucket, self._prefix = bucket, prefix

    def spoken(self, name: str) -> str:
        """As a URL."""
        return f"s3://{self._bucket}/{self._key(name)}"

    def read(self, name: str, start: int = 0) -> Iterator[bytes] | None:
        """See `Store.read`."""
        more: dict[str, Any] = {"Range": f"bytes={start}-"} if start else {}
        try:
            with self._translated(name):
                body = self._client.get_object(Bucket=self._bucket, Key=self._key(name), **more)["Body"]
        except FileNotFoundError:
            return None

        def chunks() -> Iterator[bytes]:
            with self._translated(name), contextlib.closing(body):
                yield from body.iter_chunks(CHUNK)

        return chunks()

    def write(self, name: str, source: Path, on_progress: Callable[[int], None]) -> None:
        """See `Store.write`."""
        with self._translated(name), source.open("rb") as file:
            if source.stat().st_size <= PART:
                self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=file)
            else:
                self._write_parts(self._key(name), file, on_progress)

    def write_text(self, name: str, text: str) -> None:
        """See `Store.write_text`."""
        with self._translated(name):
            self._client.put_object(
                Bucket=self._bucket, Key=self._key(name), Body=text.encode(), ContentType="application/json"
            )

    def _write_parts(self, key: str, file: IO[bytes], on_progress: Callable[[int], None]) -> None:
        """Send the parts that are not there yet: a part's ETag is its MD5, where the storage does not encrypt it."""
        upload, there = self._begun(key)
        etags: list[str] = []
        while data := file.read(PART):
            number = len(etags) + 1
            etag = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
            if there.get(number) != etag:
                etag = self._client.upload_part(
                    Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=data
                )["ETag"]
            etags.append(etag)
            on_progress(file.tell())
        self._client.complete_multipart_upload(
            Bucket=self._bucket,
            Key=key,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]},
        )

    def _begun(self, key: str) -> tuple[str, dict[int, str]]:
        """An upload of this key that was not completed, and the ETags of its parts; a new one where there is none."""
        found = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=key).get("Uploads", [])
        begun = [each["UploadId"] for each in found if each.get("Key") == key and "UploadId" in each]
        if not begun:
            return self._client.create_multipart_upload(Bucket=self._bucket, Key=key)["UploadId"], {}
        pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=begun[-1])
        return begun[-1], {part["PartNumber"]: part["ETag"] for page in pages for part in page.get("Parts", [])}

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @cached_property
    def _client(self) -> S3Client:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=10,
            read_timeout=120,
            retries={"max_attempts": 3, "mode": "standard"},
            # Others than Amazon's refuse its newer checksums in trailers; what arrived is read back anyway.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.Session().client("s3", config=config)

    @contextlib.contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """What goes wrong as an error that a person can act on; FileNotFoundError where the key is not there."""
        from botocore import exceptions

        where = self.spoken(name)
        try:
            yield
        except exceptions.ClientError as error:
            raise self._refused(error.response.get("Error", {}), where) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound) as error:
            raise InputError(f"{where}: {error}", hint=_CREDENTIALS) from None
        except (exceptions.NoRegionError, exceptions.ParamValidationError, ValueError) as error:
            raise InputError(f"{where}: {error}", hint="AWS_REGION, AWS_ENDPOINT_URL_S3 or ~/.aws/config") from None
        except (exceptions.HTTPClientError, exceptions.BotoCoreError) as error:
            raise UnreachableError(
                f"{where}: {error}", hint="start this again later: parts that arrived are not sent again"
            ) from None

    def _refused(self, answer: Any, where: str) -> Exception:
        code, message = str(answer.get("Code", "")), str(answer.get("Message", ""))
        said = f"{where}: the storage answers {code}: {message}"
        if code in _ABSENT:
            return FileNotFoundError(where)
        if code == "NoSuchBucket":
            return InputError(f"{where}: there is no bucket {self._bucket}", hint="create it first")
        if code in _DENIED:
            return InputError(said, hint=_CREDENTIALS)
        if code in {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"}:
            return NoSpaceError(said, hint="free some space there, and publish again")
        if code in {"502", "503", "504", "ServiceUnavailable", "SlowDown", "InternalError", "500"}:
            return UnreachableError(said, hint="start this again later: parts that arrived are not sent again")
        return HapxError(said)
