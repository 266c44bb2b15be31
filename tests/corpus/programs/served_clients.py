"""Decoy: a server with one client that thinks between its requests. Its waits are for demand."""

import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer

import truth

EXPECT = {"findings": []}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
urllib.request.urlopen(f"{truth.HTTP}/drive/{server.server_address[1]}/5/300").read()
with truth.waiting("event_loop|network"):
    server.handle_request()
