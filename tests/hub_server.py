"""A Hub on this machine, for tests: what huggingface_hub's client asks for, kept in memory.

It has repositories with branches, tags, commits and pull requests, private and gated ones, users with tokens that may
read or write, large files beside small ones, and faults on demand.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Tree = dict[str, bytes]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".bin"))


@dataclass(frozen=True)
class User:
    name: str
    may_write: bool = True
    organisations: tuple[str, ...] = ()


@dataclass
class Repository:
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Tree] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    pulls: int = 0

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def commit(self, ref: str, files: Tree, message: str, base: str | None = None) -> str:
        tree = {**self.commits.get(self.refs.get(base or ref, ""), {}), **files}
        oid = hashlib.sha1(f"{len(self.commits)}{sorted(tree)}{message}".encode()).hexdigest()
        self.commits[oid] = tree
        self.refs[ref] = oid
        self.messages.append(message)
        return oid

    def tag(self, name: str, ref: str = "main") -> None:
        self.refs[name] = self.refs[ref]

    def at(self, revision: str) -> tuple[str, Tree] | None:
        oid = self.refs.get(revision, revision)
        return (oid, self.commits[oid]) if oid in self.commits else None

    @property
    def files(self) -> Tree:
        return self.commits[self.refs["main"]]


@dataclass
class Fault:
    """What happens to requests whose method and path match, `times` times: an error, or less than was promised."""

    pattern: str
    times: int
    status: int = 0
    cut_to: int | None = None
    promise_less: bool = False


class Answer(Exception):
    """An answer given from anywhere in the handling of a request."""

    def __init__(self, status: int, body: Any = b"", **headers: str) -> None:
        super().__init__(status)
        self.status = status
        self.body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Hub:
    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.users: dict[str, User] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.url = ""
        self.lock = threading.RLock()

    def add(self, name: str, files: Tree | None = None, *, private: bool = False, gated: bool = False) -> Repository:
        repository = self.repositories[name] = Repository(name, private, gated)
        if files:
            repository.commit("main", files, "files")
        return repository

    def fail(self, pattern: str, times: int = 1, **fault: Any) -> None:
        """Spoil the next `times` requests whose "METHOD /path" matches `pattern`."""
        self.faults.append(Fault(pattern, times, **fault))

    def asked(self, pattern: str) -> list[str]:
        return [request for request in self.requests if re.search(pattern, request)]

    def fault(self, request: str) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0 and re.search(fault.pattern, request):
                fault.times -= 1
                return fault
        return None

    # Who may do what -------------------------------------------------------------------------------------------------

    def user(self, authorization: str | None) -> User | None:
        if authorization is None:
            return None
        token = authorization.removeprefix("Bearer ")
        if token not in self.users:
            message = "Invalid credentials in Authorization header"
            raise Answer(401, {"error": message}, X_Error_Message=message)
        return self.users[token]

    def owns(self, user: User | None, name: str) -> bool:
        return user is not None and name.split("/")[0] in (user.name, *user.organisations)

    def readable(self, name: str, user: User | None) -> Repository:
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not self.owns(user, name)):
            status, message = (401, "Invalid username or password.") if user is None else (404, "Repository not found")
            raise Answer(status, {"error": message}, X_Error_Code="RepoNotFound", X_Error_Message=message)
        return repository

    def writable(self, name: str, user: User | None, *, proposing: bool = False) -> Repository:
        repository = self.readable(name, user)
        if user is None or not user.may_write or not (proposing or self.owns(user, name)):
            message = "You don't have the rights to write to this repository"
            raise Answer(403, {"error": message}, X_Error_Message=message)
        return repository

    def tree(self, repository: Repository, revision: str) -> tuple[str, Tree]:
        found = repository.at(revision)
        if found is None:
            message = f"Invalid rev id: {revision}"
            raise Answer(404, {"error": message}, X_Error_Code="RevisionNotFound", X_Error_Message=message)
        return found

    # What it answers -------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, user: User | None, body: bytes) -> Answer:
        parts = urlsplit(target)
        query = parse_qs(parts.query)
        for pattern, handle in (
            (r"GET /api/whoami-v2", self.whoami),
            (r"POST /api/validate-yaml", lambda *_: Answer(200, {"errors": [], "warnings": []})),
            (r"POST /api/repos/create", self.create),
            (r"GET /api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self.info),
            (r"GET /api/models/([^/]+/[^/]+)/tree/([^/]+)", self.listing),
            (r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)", self.preupload),
            (r"POST /api/models/([^/]+/[^/]+)/commit/(.+)", self.commit),
            (r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.batch),
            (r"PUT /large/(\w+)", self.store),
            (r"POST /large/(\w+)/verify", lambda *_: Answer(200, {})),
            (r"(?:GET|HEAD) /([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
        ):
            match = re.fullmatch(pattern, f"{method} {parts.path}")
            if match:
                return handle(user, body, query, *(text and unquote(text) for text in match.groups()))  # type: ignore[operator,no-any-return]
        return Answer(501, {"error": f"this Hub does not know {method} {target}"})

    def whoami(self, user: User | None, *_: Any) -> Answer:
        if user is None:
            return Answer(401, {"error": "Unauthorized"})
        return Answer(200, {"type": "user", "name": user.name, "orgs": [{"name": name} for name in user.organisations]})

    def create(self, user: User | None, body: bytes, *_: Any) -> Answer:
        asked = json.loads(body)
        if user is None:
            return Answer(401, {"error": "Unauthorized"}, X_Error_Message="Unauthorized")
        name = f"{asked.get('organization') or user.name}/{asked['name']}"
        if name in self.repositories:
            return Answer(409, {"error": "You already created this model repo", "url": f"{self.url}/{name}"})
        if not user.may_write or not self.owns(user, name):
            message = f'You don\'t have the rights to create a model under the namespace "{name.split("/")[0]}"'
            return Answer(403, {"error": message}, X_Error_Message=message)
        self.add(name, private=asked.get("private", False) or asked.get("visibility") == "private")
        return Answer(200, {"url": f"{self.url}/{name}", "name": name})

    def info(self, user: User | None, _: bytes, __: Any, name: str, revision: str | None) -> Answer:
        repository = self.readable(name, user)
        oid, tree = self.tree(repository, revision or "main")
        siblings = [{"rfilename": path} for path in tree]
        return Answer(200, {"id": name, "sha": oid, "private": repository.private, "siblings": siblings})

    def listing(self, user: User | None, _: bytes, __: Any, name: str, revision: str) -> Answer:
        _oid, tree = self.tree(self.readable(name, user), revision)
        files = []
        for path, content in tree.items():
            file = {"type": "file", "path": path, "size": len(content), "oid": digest(content)[:40]}
            if is_large(path):
                file["lfs"] = {"oid": digest(content), "size": len(content), "pointerSize": 130}
            files.append(file)
        return Answer(200, files)

    def preupload(self, user: User | None, body: bytes, query: Any, name: str, revision: str) -> Answer:
        repository = self.writable(name, user, proposing="create_pr" in query)
        self.tree(repository, revision)
        files = [
            {
                "path": entry["path"],
                "uploadMode": "lfs" if is_large(entry["path"]) else "regular",
                "shouldIgnore": False,
            }
            for entry in json.loads(body)["files"]
        ]
        return Answer(200, {"files": files})

    def batch(self, user: User | None, body: bytes, _: Any, name: str) -> Answer:
        self.writable(name, user, proposing=True)
        objects = [
            {
                "oid": wanted["oid"],
                "size": wanted["size"],
                "actions": {
                    "upload": {"href": f"{self.url}/large/{wanted['oid']}", "header": {}},
                    "verify": {"href": f"{self.url}/large/{wanted['oid']}/verify", "header": {}},
                },
            }
            for wanted in json.loads(body)["objects"]
        ]
        return Answer(200, {"transfer": "basic", "objects": objects})

    def store(self, _: Any, body: bytes, __: Any, oid: str) -> Answer:
        if digest(body) != oid:
            return Answer(400, {"error": "content and oid differ"})
        self.large[oid] = body
        return Answer(200)

    def commit(self, user: User | None, body: bytes, query: Any, name: str, revision: str) -> Answer:
        proposing = "create_pr" in query
        repository = self.writable(name, user, proposing=proposing)
        self.tree(repository, revision)
        files, message = {}, ""
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.large:
                    return Answer(400, {"error": f"{value['path']} was not uploaded"})
                files[value["path"]] = self.large[value["oid"]]
        done: dict[str, Any] = {"success": True}
        ref = revision
        if proposing:
            repository.pulls += 1
            ref = f"refs/pr/{repository.pulls}"
            done["pullRequestUrl"] = f"{self.url}/{name}/discussions/{repository.pulls}"
        oid = repository.commit(ref, files, message, base=revision)
        return Answer(200, {**done, "commitOid": oid, "commitUrl": f"{self.url}/{name}/commit/{oid}"})

    def resolve(self, user: User | None, _: bytes, __: Any, name: str, revision: str, path: str) -> Answer:
        repository = self.readable(name, user)
        if repository.gated and not self.owns(user, name):
            message = f"Access to model {name} is restricted."
            return Answer(403, message.encode(), X_Error_Code="GatedRepo", X_Error_Message=message)
        oid, tree = self.tree(repository, revision)
        if path not in tree:
            message = "Entry not found"
            return Answer(
                404, message.encode(), X_Error_Code="EntryNotFound", X_Error_Message=message, X_Repo_Commit=oid
            )
        content = tree[path]
        headers = {"ETag": f'"{digest(content)[:40]}"', "X_Repo_Commit": oid}
        if is_large(path):
            headers |= {"X_Linked_Size": str(len(content)), "X_Linked_Etag": f'"{digest(content)}"'}
        return Answer(200, content, **headers)


def handler_for(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def handle_request(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = f"{self.command} {self.path}"
            with hub.lock:
                hub.requests.append(request)
                fault = hub.fault(request)
                try:
                    if fault is not None and fault.status:
                        raise Answer(fault.status, {"error": "fault"})
                    answer = hub.answer(self.command, self.path, hub.user(self.headers.get("Authorization")), body)
                except Answer as early:
                    answer = early
            content, promised = answer.body, len(answer.body)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            if wanted and answer.status == 200:
                start = int(wanted[1])
                answer.status, content = 206, content[start:]
                answer.headers["Content-Range"] = f"bytes {start}-{promised - 1}/{promised}"
                promised = len(content)
            if fault is not None and fault.cut_to is not None:
                content = content[: fault.cut_to]
                promised = len(content) if fault.promise_less else promised
                self.close_connection = True
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = handle_request

    return Handler


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A Hub that listens until the block is left."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(hub))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def connected_hub(monkeypatch: Any, home: Any) -> Iterator[Hub]:
    """A Hub that huggingface_hub is set to, with its cache in the folder `home`, and nobody logged in.

    Users: "anns-token" belongs to ann, who is in the organisation lab; "readers-token" to reader, who may not write.
    """
    import huggingface_hub.constants as settings
    from huggingface_hub import hf_api
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with hub_server() as hub:
        hub.users = {
            "anns-token": User("ann", organisations=("lab",)),
            "readers-token": User("reader", may_write=False),
        }
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "cache"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_OFFLINE": False,
            "AGENT_HARNESSES_PATH": str(home / "harnesses"),
        }.items():
            monkeypatch.setattr(settings, name, value, raising=False)
        monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub
