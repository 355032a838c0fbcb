"""The API's door: http.server, in a thread."""

import json
from http.server import BaseHTTPRequestHandler

import extensions.openai.completions as OAIcompletions
import extensions.openai.edits as OAIedits
from extensions.openai.errors import OpenAIError, ServiceUnavailableError
from modules import shared

params = {"port": 5001, "debug": 0}


class Handler(BaseHTTPRequestHandler):
    def start_sse(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()

    def send_sse(self, chunk: dict):
        self.wfile.write(f"data: {json.dumps(chunk)}\r\n\r\n".encode())

    def end_sse(self):
        self.wfile.write(b"data: [DONE]\r\n\r\n")

    def return_json(self, ret: dict, code: int = 200, no_debug=False):
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(ret).encode())

    def openai_error_handler(func):
        def wrapper(self):
            try:
                func(self)
            except OpenAIError as error:
                self.return_json({"error": {"message": error.message, "type": type(error).__name__}}, error.code)
            except Exception as error:  # noqa: BLE001  (any other is answered with status 500)
                self.return_json({"error": {"message": repr(error), "type": "OpenAIError"}}, 500)

        return wrapper

    @openai_error_handler
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not shared.model:
            raise ServiceUnavailableError("No model loaded.")
        if "/edits" in self.path:
            self.return_json(OAIedits.edits(body["instruction"], body.get("input", "")))
        elif body.get("stream", False):
            self.start_sse()
            if "chat" in self.path:
                response = OAIcompletions.stream_chat_completions(body, is_legacy=False)
            else:
                response = OAIcompletions.stream_completions(body, is_legacy=False)
            for chunk in response:
                self.send_sse(chunk)
            self.end_sse()
        elif "chat" in self.path:
            self.return_json(OAIcompletions.chat_completions(body, is_legacy=False))
        else:
            self.return_json(OAIcompletions.completions(body, is_legacy=False))


def run_server():
    shared.session.serve("openai")


def setup():
    shared.session.open(run_server, in_front=False)
