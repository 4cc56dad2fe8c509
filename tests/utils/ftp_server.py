"""An FTP server on the loopback interface: enough to fetch a file."""

from __future__ import annotations

import socket
import socketserver
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class FtpServer:
    """Serves files by name while its block runs.

    Args:
        files: By their path.
        stop_first_at: Offset at which the first transfer breaks off.
        versions: Whether it tells size and date of a file.

    Attributes:
        starts: The offset of each transfer.
    """

    def __init__(
        self,
        files: dict[str, bytes],
        stop_first_at: int | None = None,
        versions: bool = True,
    ) -> None:
        self.files = files
        self.stop_first_at = stop_first_at
        self.versions = versions
        self.starts: list[int] = []
        served = self

        class Handler(_Handler):
            ftp = served

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"ftp://127.0.0.1:{self._server.server_address[1]}"


class _Handler(socketserver.StreamRequestHandler):
    ftp: FtpServer

    def handle(self) -> None:
        self._say("220 hello")
        folder, start = "", 0
        with socket.create_server(("127.0.0.1", 0)) as passive:
            for line in self.rfile:
                command, _, argument = line.decode().strip().partition(" ")
                path = f"{folder}{argument}"
                if command == "PASV":
                    high, low = divmod(passive.getsockname()[1], 256)
                    self._say(f"227 entering (127,0,0,1,{high},{low})")
                elif command == "CWD":
                    folder = f"{path}/"
                    self._say("250 there")
                elif command == "REST":
                    start = int(argument)
                    self._say("350 from there")
                elif path not in self.ftp.files and command in ("RETR", "SIZE", "MDTM"):
                    self._say("550 no such file")
                elif command == "SIZE" and self.ftp.versions:
                    self._say(f"213 {len(self.ftp.files[path])}")
                elif command == "MDTM" and self.ftp.versions:
                    self._say("213 20240101000000")
                elif command == "RETR":
                    self._send(passive, self.ftp.files[path], start)
                    start = 0
                elif command == "QUIT":
                    self._say("221 bye")
                    return
                elif command in ("USER", "PASS", "TYPE"):
                    self._say("230 fine")
                else:
                    self._say("502 unknown")

    def _send(self, passive: socket.socket, body: bytes, start: int) -> None:
        self._say("150 coming")
        stop = None if self.ftp.starts else self.ftp.stop_first_at
        self.ftp.starts.append(start)
        with passive.accept()[0] as data:
            data.sendall(body[start:stop])
        self._say("226 done" if stop is None else "426 broken off")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
