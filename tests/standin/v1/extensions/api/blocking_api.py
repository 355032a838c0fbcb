"""The first API, without streaming."""

import json
from http.server import BaseHTTPRequestHandler
from threading import Thread

from extensions.api.util import build_parameters
from modules import shared
from modules.chat import generate_chat_reply
from modules.text_generation import generate_reply

from standin.hooks import last


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        if self.path == "/api/v1/generate":
            generate_params = build_parameters(body)
            stopping_strings = generate_params.pop("stopping_strings")
            generate_params["stream"] = False
            answer = last(
                generate_reply(body["prompt"], generate_params, stopping_strings=stopping_strings, is_chat=False), ""
            )
            result = {"text": answer}
        else:
            generate_params = build_parameters(body, chat=True)
            generate_params["stream"] = False
            answer = generate_params["history"]
            answer = last(
                generate_chat_reply(
                    body["user_input"],
                    generate_params,
                    regenerate=body.get("regenerate", False),
                    _continue=body.get("_continue", False),
                    loading_message=False,
                ),
                answer,
            )
            result = {"history": answer}
        self.wfile.write(json.dumps({"results": [result]}).encode())


def _run_server(port: int, share: bool = False, tunnel_id=str):
    shared.session.serve("api")


def start_server(port: int, share: bool = False, tunnel_id=str):
    Thread(target=_run_server, args=[port, share, tunnel_id], daemon=True).start()
