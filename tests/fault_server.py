"""An OpenAI-compatible server on loopback that labels by a fixed rule and fails in every way listed, bounded.

It reads the items from the system message ("- item" lines) and the dialogue from the user message, so it knows nothing
of the package. Each question meets at most `most_faults` faults of the content, so that an honest client always gets
through; faults of the way come at random.
"""

import hashlib
import json
import random
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WAY = ("429", "429-after", "500", "502", "503", "timeout", "drop", "drop-midway", "broken-body", "html")
CONTENT = ("truncated", "malformed", "wrong-label", "unknown-item", "empty", "null", "two-answers")
HARMLESS = ("prose", "other-order", "code-fence", "extra-keys", "words")


def rule(reply, item):
    """The label that this server gives an item of a reply: mostly 0, sometimes -1 or +1."""
    draw = hashlib.sha256(f"{reply}|{item}".encode()).digest()[0]
    return 1 if draw < 40 else -1 if draw < 60 else 0


class FaultServer:
    """Answers POST as chat completions, GET with a login page; `served` counts the sound answers to each question."""

    def __init__(self, faults=WAY + CONTENT + HARMLESS, rate=0.2, seed=0, most_faults=2, slow=3.0, dense=True,
                 latency=0.0, knows_schema=True, key=None, says=None, script=None):
        self.faults, self.rate, self.most_faults, self.slow = tuple(faults), rate, most_faults, slow
        self.dense, self.latency, self.knows_schema, self.key = dense, latency, knows_schema, key
        self.says = says  # a choice (message, finish_reason) that answers every question
        self.script = script  # takes a request, returns (status, body) or (status, body, headers) or None: as otherwise
        self.heads, self.paths = [], []
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.requests, self.served, self.met, self.kinds = 0, Counter(), Counter(), Counter()
        self.active = self.most_active = 0
        self.usage = {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150}
        self.seen_keys, self.bodies = set(), []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with server.lock:
                    server.active += 1
                    server.most_active = max(server.most_active, server.active)
                try:
                    server.answer(self, json.loads(body))
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with server.lock:
                        server.active -= 1

            def do_GET(self):
                server.send(self, 200, "<html><title>Sign in</title>Please log in</html>", kind="text/html")

            def log_message(self, *_):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()

    def answer(self, handler, request):
        question = hashlib.sha256(json.dumps(request["messages"]).encode()).hexdigest()
        with self.lock:
            self.requests += 1
            self.seen_keys.add(handler.headers.get("Authorization"))
            self.bodies.append(request if len(self.bodies) < 200 else None)
            self.heads.append(dict(handler.headers))
            self.paths.append(handler.path)
            fault = self.random.choice(self.faults) if self.faults and self.random.random() < self.rate else ""
            if fault in CONTENT:
                if self.met[question] >= self.most_faults:
                    fault = ""
                else:
                    self.met[question] += 1
            self.kinds[fault] += 1
        if self.latency:
            time.sleep(self.latency)
        if self.key and handler.headers.get("Authorization") != f"Bearer {self.key}":
            message = f"Incorrect API key provided: {handler.headers.get('Authorization', '').removeprefix('Bearer ')}"
            return self.send(handler, 401, json.dumps({"error": {"message": message}}))
        said = self.script(request) if self.script else None
        if said is not None:
            body = said[1] if isinstance(said[1], str) else json.dumps(said[1])
            return self.send(handler, said[0], body, *said[2:])
        if "response_format" in request and not self.knows_schema:
            return self.send(handler, 400, json.dumps({"error": {"message": "response_format is not supported"}}))
        if fault in WAY:
            return self.fail(handler, fault)
        if self.says:
            return self.send(handler, 200, json.dumps({"choices": [self.says], "usage": self.usage}))
        if "<turn " in request["messages"][-1]["content"]:
            content = spoil(self.label(request["messages"]), fault, self.random)
        else:
            reply = f"{request['model']}: {request['messages'][-1]['content']}"
            content = {"empty": "", "null": None}.get(fault, reply)
        if fault not in CONTENT:
            with self.lock:
                self.served[question] += 1
        said = complete(request, content, "length" if fault == "truncated" else "stop") | {"usage": self.usage}
        return self.send(handler, 200, json.dumps(said))

    def label(self, messages):
        items = re.findall(r"^- (.+)$", messages[0]["content"], flags=re.M)
        fence = r"<turn \d+ assistant (\w+)>\n(.*?)\n<end \d+ \1>"
        reply = re.findall(fence, messages[1]["content"], flags=re.S)[-1][1]
        labels = [{"item": item, "label": rule(reply, item), "reason": f"because of {item}"} for item in items]
        return [entry for entry in labels if self.dense or entry["label"] or len(items) == 1]

    def fail(self, handler, fault):
        if fault == "timeout":
            time.sleep(self.slow)
            handler.close_connection = True
        elif fault == "drop":
            handler.close_connection = True
            handler.connection.close()
        elif fault == "drop-midway":
            handler.send_response(200)
            handler.send_header("Content-Type", "application/json")
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [{"message": {"content": "{')
            handler.close_connection = True
        elif fault == "broken-body":
            self.send(handler, 200, '{"choices": [{"message": ')
        elif fault == "html":
            self.send(handler, 200, "<html>Service page</html>", kind="text/html")
        else:
            extra = {"Retry-After": "0.05"} if fault == "429-after" else {}
            self.send(handler, int(fault[:3]), json.dumps({"error": {"message": "try later"}}), extra)

    @staticmethod
    def send(handler, status, text, extra=None, kind="application/json"):
        body = text.encode()
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in (extra or {}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)


def complete(request, content, finish="stop"):
    """The body of a chat completion that says `content`."""
    return {"id": "x", "object": "chat.completion", "model": request["model"], "created": 0, "choices": [
        {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}]}


def spoil(labels, fault, rng):
    """The content of an answer with one of the faults in it."""
    if fault == "wrong-label":
        labels = [dict(labels[0], label=rng.choice([7, "maybe", None, True])), *labels[1:]]
    elif fault == "unknown-item":
        labels = [dict(labels[0], item="be a unicorn"), *labels[1:]]
    elif fault == "other-order":
        labels = rng.sample(labels, len(labels))
    elif fault == "extra-keys":
        labels = [dict(entry, confidence=0.5) for entry in labels]
    elif fault == "words":
        labels = [dict(entry, label=f"{entry['label']:+d}" if entry["label"] else "0") for entry in labels]
    text = json.dumps({"labels": labels})
    return {"empty": "", "null": None, "truncated": text[:len(text) // 2], "malformed": text.replace(":", "", 3),
            "prose": f"Here is {{my}} answer:\n{text}\nI hope it helps.", "code-fence": f"```json\n{text}\n```",
            "extra-keys": json.dumps({"notes": [1], "labels": labels}),
            "two-answers": text + json.dumps({"labels": [{"item": "be a unicorn", "label": 1}]})}.get(fault, text)
