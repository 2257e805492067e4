"""A stand-in for the W&B service: accepts what wandb's client sends over HTTP on this machine, and records it.

What a test against it proves: the real client, run by the real command, sends these values under this entity, project
and run id; it asks for the state of the run that it resumes, and continues the numbers of its rows from there; what it
and the command do if the service refuses, is absent or goes away.

What it does not prove: that W&B's own service accepts any of it. The answers are written for the queries of wandb-core
0.31; the schema, permissions, quotas and limits of the service are not checked; nothing is drawn, so neither plots nor
panels are tested; the connection is neither encrypted nor slow.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import unquote

ACCOUNT = "somebody"  # the owner of every API key
OPERATION = re.compile(r"\s*(?:query|mutation)\s+(\w+)")
STREAM = re.compile(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream")


class Request(NamedTuple):
    """A request; `body` is parsed if it is JSON, and `operation` is the name of a GraphQL query."""

    method: str
    path: str
    key: str | None
    operation: str | None
    body: Any


@dataclass
class Artifact:
    """Files that were uploaded as an artifact."""

    id: str
    name: str
    type: str
    files: dict[str, bytes] = field(default_factory=dict)
    committed: bool = False


@dataclass
class Run:
    """Everything that was sent about a run, by one or more processes."""

    entity: str
    project: str
    id: str
    about: dict[str, Any] = field(default_factory=dict)  # the last value of each variable of UpsertBucket
    asked_to_resume: int = 0  # requests for its state when it already existed
    streams: list[dict[str, Any]] = field(default_factory=list)  # the parsed file_stream requests
    lines: dict[str, dict[int, Any]] = field(default_factory=dict)  # of each streamed file, by line number
    files: dict[str, bytes] = field(default_factory=dict)  # uploaded: figures, tables, ...
    artifacts: list[Artifact] = field(default_factory=list)
    exit_codes: list[int] = field(default_factory=list)  # one a process that declared it complete

    @property
    def history(self) -> list[dict[str, Any]]:
        lines = self.lines.get("wandb-history.jsonl", {})
        return [lines[number] for number in sorted(lines)]

    @property
    def summary(self) -> dict[str, Any]:
        return self.lines.get("wandb-summary.json", {}).get(0, {})

    @property
    def config(self) -> dict[str, Any]:
        """The configuration without W&B's own part; each value is sent as {"value": ..., "desc": ...}."""
        sent = json.loads(self.about.get("config") or "{}")
        return {key: entry["value"] for key, entry in sent.items() if key != "_wandb"}

    def count(self, name: str) -> int:
        return len(self.lines.get(name, {}))

    def take_stream(self, body: dict[str, Any]) -> None:
        """Record a request of the stream of files."""
        self.streams.append(body)
        for name, chunk in (body.get("files") or {}).items():
            for number, line in enumerate(chunk["content"], chunk.get("offset", 0)):
                parsed = json.loads(line) if name.endswith((".json", ".jsonl")) else line
                self.lines.setdefault(name, {})[number] = parsed
        if body.get("complete"):
            self.exit_codes.append(body.get("exitcode"))


class WandbServer:
    """A server that listens from its construction until `close`; a context manager.

    Args:
        refusal: the HTTP status of every answer; None: everything is accepted.
    """

    def __init__(self, refusal: int | None = None) -> None:
        self.refusal = refusal
        self.requests: list[Request] = []
        self.runs: dict[str, Run] = {}
        self.artifacts: dict[str, Artifact] = {}  # by the id this server gave them
        self.places: dict[str, Callable[[bytes], None]] = {}  # a function that accepts an upload, by its path
        self.unknown: list[str] = []  # GraphQL operations that this server has no answer for
        self.lock = threading.RLock()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.thread.start()

    def __enter__(self) -> WandbServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Refuse connections from now on; none is left open, because each is for one request only."""
        self.http.shutdown()
        self.http.server_close()

    def operations(self) -> list[str]:
        return [request.operation for request in self.requests if request.operation]

    # ------------------------------------------------------------------------------------------------- answers

    def answer(self, request: Request, raw: bytes) -> tuple[int, Any]:
        """Status and content of the answer to a request."""
        self.requests.append(request)
        if self.refusal is not None:
            return self.refusal, {"errors": [{"message": "refused by the test"}]}
        if request.path == "/graphql":
            return 200, self.graphql(request.operation or "?", request.body.get("variables") or {})
        if stream := STREAM.fullmatch(request.path):
            self.run(*stream.groups()).take_stream(request.body)
            return 200, {"exitcode": None, "limits": {}}
        if take := self.places.get(request.path):
            take(raw)
            return 200, {}
        return 404, {}

    def run(self, entity: str | None, project: str | None, run: str) -> Run:
        """The run with an id; created if there is none."""
        received = self.runs.setdefault(run, Run(entity or ACCOUNT, project or "uncategorized", run))
        assert (received.entity, received.project) == (entity or ACCOUNT, project or "uncategorized")
        return received

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        if answer := getattr(self, f"on_{operation}", None):
            return {"data": answer(variables)}
        self.unknown.append(operation)
        return {"data": None, "errors": [{"message": f"the test's server does not know {operation}"}]}

    def on_ServerFeaturesQuery(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"serverInfo": {"features": []}}

    def on_Viewer(self, _: dict[str, Any]) -> dict[str, Any]:
        about = {"id": "u1", "entity": ACCOUNT, "username": ACCOUNT, "email": None, "flags": "{}"}
        return {"viewer": {**about, "teams": {"edges": []}}}

    def on_RunResumeStatus(self, wanted: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(wanted["name"])
        if run is not None:
            run.asked_to_resume += 1
        entity = {"id": "e1", "name": wanted.get("entity") or ACCOUNT}
        return {"model": {"id": "p1", "name": wanted["project"], "entity": entity, "bucket": run and _state(run)}}

    def on_UpsertBucket(self, sent: dict[str, Any]) -> dict[str, Any]:
        new = sent["name"] not in self.runs
        run = self.run(sent.get("entity"), sent.get("project"), sent["name"])
        run.about |= {key: value for key, value in sent.items() if value is not None}
        entity = {"id": "e1", "name": run.entity}
        bucket = {
            **{key: _state(run)[key] for key in ("id", "name", "displayName", "config", "historyLineCount")},
            "description": "",
            "sweepName": None,
            "project": {"id": "p1", "name": run.project, "entity": entity},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": new}}

    def place(self, files: dict[str, bytes], name: str) -> str:
        """The address of an upload that is kept as `files[name]`."""
        path = f"/upload/{len(self.places)}"
        self.places[path] = partial(files.__setitem__, name)
        return self.url + path

    def on_CreateRunFiles(self, wanted: dict[str, Any]) -> dict[str, Any]:
        files = self.run(wanted["entity"], wanted["project"], wanted["run"]).files
        places = [{"name": name, "uploadUrl": self.place(files, name)} for name in wanted["files"]]
        return {"createRunFiles": {"runID": "r1", "uploadHeaders": [], "files": places}}

    def on_OrganizationCoreWeaveOrganizationID(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"entity": {"organization": None}}

    def on_ArtifactType(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def on_CreateArtifact(self, sent: dict[str, Any]) -> dict[str, Any]:
        about = sent["input"]
        new = Artifact(f"artifact-{len(self.artifacts)}", about["artifactCollectionName"], about["artifactTypeName"])
        self.artifacts[new.id] = new
        self.run(about["entityName"], about["projectName"], about["runName"]).artifacts.append(new)
        about = {"id": new.id, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": about}}

    def on_CreateArtifactManifest(self, sent: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "f1", "uploadUrl": None, "uploadHeaders": []}
        if sent["includeUpload"]:
            file["uploadUrl"] = self.place(self.artifacts[sent["artifactID"]].files, sent["name"])
        return {"createArtifactManifest": {"artifactManifest": {"id": f"manifest-{sent['artifactID']}", "file": file}}}

    def on_CreateArtifactFiles(self, sent: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {
                "storagePath": file["name"],
                "uploadUrl": self.place(self.artifacts[file["artifactID"]].files, file["name"]),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in sent["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def on_CommitArtifact(self, sent: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[sent["artifactID"]].committed = True
        return {"commitArtifact": {"artifact": {"id": sent["artifactID"], "digest": ""}}}


def _state(run: Run) -> dict[str, Any]:
    """A run as the service describes it to a client that resumes it."""
    return {
        "id": f"bucket-{run.id}",
        "name": run.id,
        "summaryMetrics": json.dumps(run.summary),
        "displayName": run.about.get("displayName"),
        "logLineCount": run.count("output.log"),
        "historyLineCount": run.count("wandb-history.jsonl"),
        "eventsLineCount": run.count("wandb-events.jsonl"),
        "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
        "eventsTail": "[]",
        "config": run.about.get("config") or "{}",
        "tags": run.about.get("tags") or [],
        "notes": None,
        "wandbConfig": json.dumps({"t": 1}),
    }


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Reads a request and sends the answer of `server`."""

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                raw = gzip.decompress(raw)
            is_json = "json" in self.headers.get("Content-Type", "") and self.command == "POST"
            body = json.loads(raw) if is_json else None
            named = OPERATION.match(body.get("query", "")) if body and self.path == "/graphql" else None
            request = Request(self.command, unquote(self.path), self.key(), named and named[1], body)
            with server.lock:
                status, content = server.answer(request, raw)
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_PUT = do_GET = do_POST

        def key(self) -> str | None:
            """The API key, which W&B's client sends as the password of a user `api`."""
            scheme, _, word = self.headers.get("Authorization", "").partition(" ")
            return base64.b64decode(word).decode().partition(":")[2] if scheme == "Basic" else None

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    return Handler
