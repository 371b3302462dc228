"""The part of W&B's server that its client and its sweep agent use, on 127.0.0.1, for tests without the real one.

It keeps what arrives: runs with configuration, history, summary and files; artifacts with their manifests. A sweep
hands out the parameters that it was created with, one run after the other, then tells its agents to stop.
"""

import gzip
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = {"id": "entity", "name": "tester"}
KEY = "0123456789" * 4


@dataclass
class Run:
    """What a run has sent."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)  # group, job type, tags, host, program, sweep
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)
    exit_code: int | None = None
    preempting: bool = False

    def series(self, metric: str) -> dict[int, float]:
        """A metric's values by the training step that is logged beside it."""
        lines = self.history.values()
        return {line["step"]: line[metric] for line in lines if metric in line and "step" in line}


class WandbStub:
    """The server's state; `parameters` are those of the runs that its sweep hands out."""

    def __init__(self, parameters: list[dict[str, Any]]) -> None:
        self.runs: dict[str, Run] = {}
        self.artifacts: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, bytes]] = []
        self.sweep_config = ""
        self._parameters = list(parameters)
        self._handed = 0
        self._lock = threading.Lock()
        self.url = ""

    @contextmanager
    def serving(self) -> Iterator["WandbStub"]:
        stub = self

        class Handler(_Handler):
            server_state = stub

        server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def answer(self, method: str, path: str, body: bytes) -> Any:
        """The JSON answer to a request; what it carries is kept."""
        with self._lock:
            self.requests.append((method, path, body))
            if path == "/graphql":
                call = json.loads(body)
                return {"data": self._graphql(call["query"], call.get("variables") or {})}
            if path.endswith("/file_stream"):
                return self._stream(path.split("/")[-2], json.loads(body))
            if method == "PUT" and path.startswith("/upload/"):
                self.uploads[path.removeprefix("/upload/")] = body
            return {}

    def _graphql(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        answers: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "upsertBucket(": self._upsert_run,
            "createRunFiles(": self._run_files,
            "upsertSweep(": self._upsert_sweep,
            "createAgent(": lambda _: {"createAgent": {"agent": {"id": "agent"}}},
            "agentHeartbeat(": self._heartbeat,
            "sweep(sweepName": self._sweep,
            "createArtifact(": self._create_artifact,
            "createArtifactManifest(": lambda v: self._manifest(v, "create"),
            "updateArtifactManifest(": lambda v: self._manifest(v, "update"),
            "createArtifactFiles(": self._artifact_files,
            "commitArtifact(": lambda _: {"commitArtifact": {"artifact": {"id": "artifact", "digest": "d"}}},
            "artifactType {": lambda _: {"project": {"artifact": None}},
            "serverInfo": lambda _: {"serverInfo": {"features": []}},
            "model(name": self._resume,
            "viewer": lambda _: {
                "viewer": {"id": "user", "entity": ENTITY["name"], "username": "tester", "flags": "{}"}
            },
        }
        return next((answer(variables) for marker, answer in answers.items() if marker in query), {})

    def _run(self, name: str) -> Run:
        return self.runs.setdefault(name, Run(name))

    def _upsert_run(self, v: dict[str, Any]) -> dict[str, Any]:
        inserted = v["name"] not in self.runs
        run = self._run(v["name"])
        run.settings |= {key: value for key, value in v.items() if value is not None}
        if v.get("config"):
            values = json.loads(v["config"])
            run.config |= {key: value["value"] for key, value in values.items() if key != "_wandb"}
        bucket = {
            "id": f"bucket-{run.name}",
            "name": run.name,
            "displayName": v.get("displayName") or run.name,
            "description": "",
            "config": v.get("config") or "{}",
            "sweepName": run.settings.get("sweep"),
            "project": {"id": "project", "name": run.settings.get("project") or "altpo_ds", "entity": ENTITY},
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def _resume(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(v["name"])
        if run is None:
            return {"model": {"bucket": None}}
        tail = [json.dumps(run.history[max(run.history)])] if run.history else []
        bucket = {
            "id": f"bucket-{run.name}",
            "name": run.name,
            "displayName": run.name,
            "summaryMetrics": json.dumps(run.summary),
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "config": run.settings.get("config", "{}"),
            "tags": run.settings.get("tags", []),
            "notes": "",
            "wandbConfig": "{}",
        }
        return {"model": {"id": "project", "name": "altpo_ds", "entity": ENTITY, "bucket": bucket}}

    def _run_files(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self._run(v["run"])
        run.files |= set(v["files"])
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{run.name}/{name}"} for name in v["files"]]
        return {"createRunFiles": {"runID": f"bucket-{run.name}", "uploadHeaders": [], "files": files}}

    def _upsert_sweep(self, v: dict[str, Any]) -> dict[str, Any]:
        self.sweep_config = v["config"]
        project = {"id": "project", "name": v["projectName"] or "altpo_ds", "entity": ENTITY}
        return {"upsertSweep": {"sweep": {"name": "sweep", "project": project}, "configValidationWarnings": []}}

    def _sweep(self, v: dict[str, Any]) -> dict[str, Any]:
        sweep = {"id": "sweep", "name": "sweep", "state": "RUNNING", "config": self.sweep_config, "runs": {"edges": []}}
        return {"project": {"sweep": sweep}}

    def _heartbeat(self, v: dict[str, Any]) -> dict[str, Any]:
        commands: list[dict[str, Any]] = []
        if not json.loads(v["runState"]):  # the agent is free
            if self._handed < len(self._parameters):
                values = self._parameters[self._handed]
                self._handed += 1
                arguments = {key: {"value": value} for key, value in values.items()}
                run = {"type": "run", "run_id": f"trial{self._handed}", "args": arguments, "program": "run.yaml"}
                commands = [run]
            else:
                commands = [{"type": "exit"}]
        return {"agentHeartbeat": {"agent": {"id": "agent"}, "commands": json.dumps(commands)}}

    def _create_artifact(self, v: dict[str, Any]) -> dict[str, Any]:
        name = v["input"]["artifactCollectionName"]
        self.artifacts.append(name)
        artifact = {"id": name, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _manifest(self, v: dict[str, Any], verb: str) -> dict[str, Any]:
        name = v.get("artifactID") or v.get("artifactManifestID")
        file = {"id": "file", "uploadUrl": f"{self.url}/upload/{name}/manifest.json", "uploadHeaders": []}
        return {f"{verb}ArtifactManifest": {"artifactManifest": {"id": name, "file": file}}}

    def _artifact_files(self, v: dict[str, Any]) -> dict[str, Any]:
        nodes = []
        for file in v["input"]["artifactFiles"]:
            place = f"{file['artifactID']}/{file['name']}"
            node = {"storagePath": place, "uploadUrl": f"{self.url}/upload/{place}", "uploadHeaders": []}
            nodes.append({"node": node | {"uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def _stream(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        run = self._run(name)
        for file, chunk in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]] if file.endswith((".json", ".jsonl")) else []
            if file == "wandb-history.jsonl":
                run.history |= {chunk["offset"] + i: line for i, line in enumerate(lines)}
            if file == "wandb-summary.json" and lines:
                run.summary = lines[-1]
        if body.get("complete"):
            run.exit_code = body.get("exitcode")
        run.preempting = run.preempting or bool(body.get("preempting"))
        return {"limits": {}}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no news; anything else is the stub's fault."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: WandbStub

    def _respond(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        content = json.dumps(self.server_state.answer(self.command, self.path, body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _respond  # noqa: N815

    def log_message(self, *_: Any) -> None:
        """Silent."""
