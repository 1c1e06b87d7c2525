"""Conditional writes to S3, which pyarrow's file systems do not have: `If-None-Match` and `If-Match`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlparse

from beholder.util.errors import RegistryError

REFUSED = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
"""Error codes for: it is not as you think. A conflict is two at once, of which this one was slower."""
ABSENT = ("NoSuchKey", "404")
DENIED, WITHOUT = ("AccessDenied", "403"), ("NotImplemented", "MethodNotAllowed", "501", "405")
"""Codes for: you may not; and for: this store has no such thing."""


class DeniedError(OSError):
    """The right to do so is missing."""


class Bucket:
    """Small objects below a prefix, replaced by compare-and-swap on their ETag."""

    def __init__(self, uri: str) -> None:
        """`uri`: as pyarrow takes it, `s3://bucket/prefix?endpoint_override=...&scheme=...&region=...`.

        Raises:
            RegistryError: boto3 is not installed.
        """
        try:
            import boto3
            from botocore.config import Config
        except ImportError:
            raise RegistryError(
                f"store {uri}: one writer at a time takes boto3, which is not installed. "
                "Install it with: pip install boto3"
            ) from None
        parsed = urlparse(uri)
        asked = {name: values[-1] for name, values in parse_qs(parsed.query).items()}
        endpoint = asked.get("endpoint_override")
        if endpoint and "://" not in endpoint:
            endpoint = f"{asked.get('scheme', 'https')}://{endpoint}"
        self._bucket, self._prefix = parsed.netloc, parsed.path.strip("/")
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name=asked.get("region"),
            config=Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=30),
        )

    def read(self, name: str) -> tuple[bytes, str] | None:
        """See `lease.Swaps`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found = self._client.get_object(Bucket=self._bucket, Key=self._key(name))
            return found["Body"].read(), found["ETag"]
        except ClientError as error:
            if _code(error) in ABSENT:
                return None
            raise OSError(f"{name}: {_code(error)}") from error
        except BotoCoreError as error:
            raise OSError(str(error)) from error

    def swap(self, name: str, data: bytes, tag: str | None) -> str | None:
        """See `lease.Swaps`."""
        from botocore.exceptions import BotoCoreError, ClientError

        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        try:
            return self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=data, **condition)["ETag"]
        except ClientError as error:
            if _code(error) in REFUSED or (tag is not None and _code(error) in ABSENT):
                found = self.read(
                    name
                )  # an attempt whose answer was lost, and that was made again, may have got through
                return found[1] if found is not None and found[0] == data else None
            if _code(error) == "NotImplemented":
                raise OSError(
                    "the store has no conditional writes, without which two writers could break it"
                ) from error
            raise OSError(f"{name}: {_code(error)}") from error
        except BotoCoreError as error:
            raise OSError(str(error)) from error

    def uploads(self, folder: str) -> int:
        """How many uploads in parts below a folder have begun and not ended. Raises OSError: see `read`."""
        return len(self._uploads(folder))

    def abort_uploads(self, folder: str) -> None:
        """End all of these, where that is allowed; their parts are deleted. Raises OSError: see `read`."""
        with contextlib.suppress(DeniedError):
            for key, upload in self._uploads(folder):
                self._abort(key, upload)

    def _abort(self, key: str, upload: str) -> None:
        with _said(key):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)

    def _uploads(self, folder: str) -> list[tuple[str, str]]:
        with _said(folder):
            pages = self._client.get_paginator("list_multipart_uploads")
            found = pages.paginate(Bucket=self._bucket, Prefix=self._key(f"{folder}/"))
            return [(each["Key"], each["UploadId"]) for page in found for each in page.get("Uploads", [])]
        return []

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name


@contextlib.contextmanager
def _said(name: str) -> Iterator[None]:
    """Errors of boto3 as OSError; that something is not there, or unknown to the store, is none."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = _code(error)
        if code in DENIED:
            rights = "s3:ListBucketMultipartUploads and s3:AbortMultipartUpload"
            raise DeniedError(f"{name}: half-written objects cannot be looked for ({code}). Grant {rights}") from error
        if code not in (*ABSENT, *WITHOUT, "NoSuchUpload"):
            raise OSError(f"{name}: {code}") from error
    except BotoCoreError as error:
        raise OSError(str(error)) from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "?"))
