"""Two S3 servers on loopback: moto for the semantics, rclone for real signatures and real files."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.config
import pytest

KEY, SECRET = "access-key", "secret-key"
BUCKET = "adapters"


@dataclass(frozen=True)
class S3Server:
    """A running server, and boto3 as the other client that fills it."""

    url: str

    def environment(self, url: str | None = None) -> dict[str, str]:
        """What an operator would set to use it."""
        return {
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self) -> Any:
        return _client(self.url)

    def put(self, key: str, content: bytes, bucket: str = BUCKET) -> None:
        self.client().put_object(Bucket=bucket, Key=key, Body=content)

    def put_adapter(self, prefix: str, tensors: bytes, config: bytes = b"{}") -> None:
        self.put(f"{prefix}/adapter_config.json", config)
        self.put(f"{prefix}/adapter_model.safetensors", tensors)


@functools.cache
def _client(url: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=KEY,
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=botocore.config.Config(response_checksum_validation="when_required"),
    )


def rclone_command(protocol: str, directory: str, *options: str) -> list[str]:
    """How to serve a directory by rclone."""
    rclone = str(Path(sys.executable).with_name("rclone"))
    options = (f"--config={os.devnull}", "--addr=127.0.0.1:0", *options)
    return [rclone, "serve", protocol, *options, directory]


@contextmanager
def running(command: list[str]) -> Iterator[str]:
    """Run a server that prints its address, and end it in any case."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )
    assert process.stdout is not None
    keep_empty = threading.Thread(target=process.stdout.read, daemon=True)
    try:
        url = _address(process.stdout)
        keep_empty.start()
        yield url
    finally:
        process.kill()
        process.wait()
        if keep_empty.ident:
            keep_empty.join()
        process.stdout.close()


def _address(output: Iterable[str]) -> str:
    printed = []
    for line in output:
        printed.append(line)
        if match := re.search(r"http://127\.0\.0\.1:\d+", line):
            return match.group()
    raise AssertionError(f"the server did not start: {''.join(printed)}")


@contextmanager
def running_moto() -> Iterator[S3Server]:
    """Run moto, with an empty bucket."""
    with running([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]) as url:
        server = S3Server(url)
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Server]:
    with running_moto() as server:
        yield server


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    directory = tmp_path_factory.mktemp("rclone")
    (directory / BUCKET).mkdir()
    command = rclone_command("s3", str(directory), f"--auth-key={KEY},{SECRET}")
    with running(command) as url:
        yield S3Server(url)
