"""Decoy: a server that nobody calls."""

from http.server import BaseHTTPRequestHandler, HTTPServer

import truth

EXPECT = {"findings": []}

server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
server.timeout = 1.2
with truth.waiting("event_loop"):
    server.handle_request()
