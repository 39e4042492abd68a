"""A server on this machine that speaks OpenAI's chat completions, well or badly."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(BaseHTTPRequestHandler):
    """Replies from ``replies`` in turn; what it was asked goes to ``asked``.

    A reply is the judge's text, an HTTP status, one with a place to go to, the bytes of a body, an iterator of bytes
    that drip, or an event: then nothing comes until it is set.
    """

    replies: list
    asked: list

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization"), body))
        reply = self.replies.pop(0)
        if isinstance(reply, threading.Event):
            reply.wait()
            return
        status, place = reply if isinstance(reply, tuple) else (reply if isinstance(reply, int) else 200, None)
        self.send_response(status)
        if place:
            self.send_header("Location", place)
        self.end_headers()
        if isinstance(reply, Iterator):
            for part in reply:
                threading.Event().wait(0.05)  # tests take time.sleep away
                with suppress(OSError):
                    self.wfile.write(part)
        if isinstance(reply, bytes):
            self.wfile.write(reply)
        elif isinstance(reply, str):
            self.wfile.write(json.dumps({"choices": [{"message": {"content": reply}}]}).encode())

    def log_message(self, *args):
        """Nothing on the screen."""


@contextmanager
def serve() -> Iterator[tuple[str, list, list]]:
    """(url, replies to give, what was asked)"""
    handler = type("Handler", (Server,), {"replies": [], "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1", handler.replies, handler.asked
        running.shutdown()
