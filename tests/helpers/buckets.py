"""A server of S3 for tests, and a proxy before it that lets chosen requests fail."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

PASS, CUT, REFUSE, STALL = "pass", "cut", "refuse", "stall"
Rule = Callable[[str, str], str]
"""From method and path of a request to what becomes of it."""
SKIPPED = ("transfer-encoding", "connection", "server", "date")


@contextmanager
def proxy(upstream: tuple[str, int], rule: Rule) -> Iterator[str]:
    """The URL of a server that hands requests on: whole, cut in the middle, refused or never."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fate = rule(self.command, self.path)
            if fate == STALL:
                time.sleep(5)
            if fate == CUT:
                _cut(upstream, self, body)
                self.close_connection = True
            elif fate == REFUSE:
                self._answer(403, [("Content-Type", "text/xml")], REFUSAL)
            else:
                self._hand_on(body)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - http.server's

        def _hand_on(self, body: bytes) -> None:
            link = http.client.HTTPConnection(*upstream, timeout=30)
            link.request(self.command, self.path, body, dict(self.headers))
            found = link.getresponse()
            told = [(k, v) for k, v in found.getheaders() if k.lower() not in SKIPPED]
            self._answer(found.status, told, found.read())
            link.close()

        def _answer(self, status: int, told: list[tuple[str, str]], content: bytes) -> None:
            self.send_response(status)
            for name, value in told:
                if name.lower() != "content-length" or self.command == "HEAD":
                    self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


REFUSAL = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def _cut(upstream: tuple[str, int], request: BaseHTTPRequestHandler, body: bytes) -> None:
    """Half of a request reaches the server, and its sender gets no answer."""
    link = http.client.HTTPConnection(*upstream, timeout=30)
    link.putrequest(request.command, request.path, skip_host=True, skip_accept_encoding=True)
    for name, value in request.headers.items():
        link.putheader(name, value)
    link.endheaders(body[: len(body) // 2])
    link.close()
