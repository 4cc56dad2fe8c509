"""A web server on the loopback interface that answers as it is told to."""

from __future__ import annotations

import socket
import struct
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import Message
    from types import TracebackType
    from typing import Self


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        body: The whole file.
        status: 200, unless a range was asked for and is known.
        headers: More of them.
        length: Whether Content-Length is told.
        chunked: Whether the body travels in chunks.
        stop_at: Offset in the file at which the connection ends; None for its end.
        reset: Whether it ends by a reset.
        hang_at: Offset at which nothing more comes.
        trickle: Bytes every 50 ms; 0 sends all at once.
        ranges: Whether ranges are known, and If-Range is.
        if_range: Whether If-Range is.
        etag: Edition of the file.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    length: bool = True
    chunked: bool = False
    stop_at: int | None = None
    reset: bool = False
    hang_at: int | None = None
    trickle: int = 0
    ranges: bool = True
    if_range: bool = True
    etag: str | None = '"1"'


class Server:
    """Listens on 127.0.0.1 while its block runs."""

    def __init__(self) -> None:
        self.requests: dict[str, list[Message]] = defaultdict(list)
        self._replies: dict[str, list[Reply]] = {}
        self._lock = threading.Lock()
        self.closing = threading.Event()
        served = self

        class Handler(_Handler):
            server_of_test = served

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing waits for them
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), name="test-server"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def serve(self, path: str, *replies: Reply) -> str:
        """Answer requests for a path by these in turn, the last one ever after.

        Returns:
            The URL.
        """
        with self._lock:
            self._replies[path] = list(replies)
            self.requests[path].clear()
        return self.address + path

    def take(self, path: str, headers: Message) -> Reply:
        with self._lock:
            self.requests[path].append(headers)
            replies = self._replies.get(path, [Reply(status=404)])
            return replies.pop(0) if len(replies) > 1 else replies[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_test: Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        reply = self.server_of_test.take(self.path, self.headers)
        start = self._start(reply)
        self.send_response(206 if start is not None else reply.status)
        if reply.etag is not None:
            self.send_header("ETag", reply.etag)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if start is not None:
            last = len(reply.body) - 1
            told = f"bytes {start}-{last}/{len(reply.body)}"
            self.send_header("Content-Range", told)
        if reply.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.length:
            self.send_header("Content-Length", str(len(reply.body) - (start or 0)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        with suppress(ConnectionError):  # the client may go first
            self._send(reply, start or 0)

    def _start(self, reply: Reply) -> int | None:
        asked = self.headers.get("Range")
        if asked is None or not reply.ranges or reply.status != 200:
            return None
        condition = self.headers.get("If-Range")
        known = (reply.etag, reply.headers.get("Last-Modified"))
        if reply.if_range and condition is not None and condition not in known:
            return None
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        return start if start < len(reply.body) else None

    def _send(self, reply: Reply, start: int) -> None:
        body = reply.body[start : reply.stop_at]
        if reply.hang_at is not None:
            self._write(reply, reply.body[start : reply.hang_at])
            self.connection.settimeout(10)
            self.connection.recv(1)  # until the client goes
        elif reply.trickle:
            for offset in range(0, len(body), reply.trickle):
                self._write(reply, body[offset : offset + reply.trickle])
                if self.server_of_test.closing.wait(0.05):
                    return
        else:
            self._write(reply, body)
        if reply.chunked and reply.stop_at is None:
            self.wfile.write(b"0\r\n\r\n")
        if reply.reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()

    def _write(self, reply: Reply, block: bytes) -> None:
        if reply.chunked:
            self.wfile.write(b"%x\r\n" % len(block) + block + b"\r\n")
        else:
            self.wfile.write(block)
        self.wfile.flush()
