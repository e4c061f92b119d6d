"""Pushing and pulling with the real huggingface_hub client, against a Hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from diffusolve import hub as hub_room
from diffusolve.config import ConfigFileError, ConfigMixin, register_to_config
from diffusolve.hub import (
    AccessDeniedError,
    HubError,
    HubUnreachableError,
    InvalidNameError,
    MissingFileError,
    PushToHubMixin,
    UnknownRepositoryError,
    UnknownRevisionError,
    add_variant,
    download,
    push_files,
    push_folder,
    push_object,
    save_weights,
)
from diffusolve.hub.errors import without_secrets
from diffusolve.schedulers.mixin import SchedulerMixin
from tests.hub_server import Hub, connected_hub, hub_server
from tests.tables import for_each

huggingface_hub = pytest.importorskip("huggingface_hub")
settings = pytest.importorskip("huggingface_hub.constants")

FILE = "scheduler_config.json"


class ExampleScheduler(SchedulerMixin, ConfigMixin):
    @register_to_config
    def __init__(self, steps: int = 1000, beta_end: float = 0.02, spacing: str = "leading") -> None: ...


class Network(nn.Module, PushToHubMixin):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def save_pretrained(self, folder: str, safe_serialization: bool = True, variant: str | None = None) -> None:
        save_weights(self, folder, safe_serialization=safe_serialization, variant=variant)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with connected_hub(monkeypatch, tmp_path / "home") as hub:
        yield hub


@pytest.fixture
def ann(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "anns-token" in hub.users
    monkeypatch.setenv("HF_TOKEN", "anns-token")


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "home" / "cache").rglob("*") if "snapshots" in path.parts and path.is_file()]


# Pushing ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("ann")
def test_a_pushed_scheduler_comes_back_as_it_was(hub: Hub) -> None:
    url = ExampleScheduler(250, spacing="trailing").push_to_hub("example")
    assert url == f"{hub.url}/ann/example/commit/{hub.repositories['ann/example'].refs['main']}"
    back = ExampleScheduler.from_pretrained("ann/example")
    assert (back.config.steps, back.config.beta_end, back.config.spacing) == (250, 0.02, "trailing")


@pytest.mark.usefixtures("ann")
def test_a_push_is_one_commit_with_a_model_card_where_there_is_none(hub: Hub) -> None:
    ExampleScheduler().push_to_hub("lab/example", commit_message="first")
    repository = hub.repositories["lab/example"]
    assert repository.messages == ["initial commit", "first"]
    assert set(repository.files) == {".gitattributes", "README.md", FILE}
    assert repository.files["README.md"].startswith(b"---\nlibrary_name: diffusolve\ntags:\n")
    repository.commit("main", {"README.md": b"my own words"}, "words")
    ExampleScheduler(7).push_to_hub("lab/example")
    assert repository.messages[3:] == ["Upload ExampleScheduler"]
    assert repository.files["README.md"] == b"my own words"


@pytest.mark.usefixtures("ann")
@pytest.mark.parametrize(
    ("safe", "variant", "name"),
    [
        (True, None, "diffusion_pytorch_model.safetensors"),
        (True, "fp16", "diffusion_pytorch_model.fp16.safetensors"),
        (False, None, "diffusion_pytorch_model.bin"),
        (False, "non_ema", "diffusion_pytorch_model.non_ema.bin"),
    ],
)
def test_a_pushed_network_comes_back_as_it_was(hub: Hub, safe: bool, variant: str | None, name: str) -> None:
    network = Network()
    network.push_to_hub("network", safe_serialization=safe, variant=variant)
    path = download("ann/network", name)
    weights = load_file(path) if safe else torch.load(path, weights_only=True)
    assert set(hub.repositories["ann/network"].files) == {".gitattributes", "README.md", name}
    assert all(torch.equal(weights[key], value) for key, value in network.state_dict().items())


@pytest.mark.usefixtures("ann")
def test_a_folder_is_pushed_whole_without_what_version_control_keeps_in_it(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    ExampleScheduler().save_pretrained(folder / "scheduler")
    save_weights(nn.Linear(2, 2), folder / "unet")
    (folder / "model_index.json").write_text("{}")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    push_folder(folder, private=True)
    repository = hub.repositories["ann/pipeline"]
    assert repository.private
    assert len(repository.messages) == 2
    assert set(repository.files) == {
        ".gitattributes",
        "README.md",
        "model_index.json",
        f"scheduler/{FILE}",
        "unet/diffusion_pytorch_model.safetensors",
    }
    assert b"library_name: diffusers" in repository.files["README.md"]


@pytest.mark.usefixtures("ann")
def test_saving_with_push_to_hub_pushes_that_file_alone(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("private")
    ExampleScheduler().save_pretrained(tmp_path / "mine", push_to_hub=True)
    assert set(hub.repositories["ann/mine"].files) == {".gitattributes", "README.md", FILE}


@pytest.mark.usefixtures("ann")
@pytest.mark.parametrize("place", ["name", "lab/name", "/somewhere/on/disk/name", "./out/name", Path("out/name")])
def test_repositories_are_named_by_name_organisation_or_folder(hub: Hub, place: Any) -> None:
    push_files({"a.txt": b"a"}, place)
    assert list(hub.repositories) == ["lab/name" if place == "lab/name" else "ann/name"]


@pytest.mark.usefixtures("ann")
def test_files_go_into_the_subfolder_and_the_card_to_the_top(hub: Hub) -> None:
    ExampleScheduler().push_to_hub("example", subfolder="scheduler")
    assert set(hub.repositories["ann/example"].files) == {".gitattributes", "README.md", f"scheduler/{FILE}"}
    assert ExampleScheduler.from_pretrained("ann/example", subfolder="scheduler").config.steps == 1000


@pytest.mark.usefixtures("ann")
def test_a_pull_request_leaves_the_branch_alone(hub: Hub) -> None:
    repository = hub.add("bob/example", {FILE: b'{"steps": 3}'})
    url = ExampleScheduler(4).push_to_hub("bob/example", create_pr=True)
    assert url == f"{hub.url}/bob/example/discussions/1"
    assert repository.files[FILE] == b'{"steps": 3}'
    assert ExampleScheduler.from_pretrained("bob/example").config.steps == 3
    assert ExampleScheduler.from_pretrained("bob/example", revision="refs/pr/1").config.steps == 4


@pytest.mark.usefixtures("ann")
def test_a_branch_can_be_pushed_to(hub: Hub) -> None:
    repository = hub.add("ann/example")
    repository.tag("dev")
    ExampleScheduler(5).push_to_hub("example", revision="dev")
    assert FILE not in repository.files
    assert ExampleScheduler.from_pretrained("ann/example", revision="dev").config.steps == 5


@pytest.mark.usefixtures("ann")
@pytest.mark.parametrize("step", ["POST .*/batch", "PUT /large/", "POST .*/commit/main"])
def test_a_server_that_fails_in_the_middle_of_a_push_has_none_of_it(
    hub: Hub, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = hub.add("ann/network", {"README.md": b"old"})
    before = dict(repository.files)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.fail(step, times=100, status=500)
    with pytest.raises(HubError, match=r"cannot push: 'ann/network' on http.*the Hub answered 500"):
        Network().push_to_hub("network")
    assert repository.files == before
    assert len(repository.messages) == 2


@pytest.mark.usefixtures("ann")
def test_a_hiccup_during_an_upload_is_got_over(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.fail("PUT /large/", times=1, status=503)
    Network().push_to_hub("network")
    assert "diffusion_pytorch_model.safetensors" in hub.repositories["ann/network"].files


@pytest.mark.usefixtures("ann")
def test_what_cannot_be_saved_makes_no_repository(hub: Hub) -> None:
    with pytest.raises(TypeError, match="beta_end cannot be saved"):
        ExampleScheduler(beta_end=object()).push_to_hub("example")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int cannot be pushed: it has no save_pretrained"):
        push_object(3, "example")
    assert not hub.repositories


@pytest.mark.usefixtures("hub")
def test_an_empty_or_missing_folder_is_not_pushed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there are no files in it"):
        push_folder(tmp_path, "lab/empty")
    with pytest.raises(NotADirectoryError, match="there is no such folder"):
        push_folder(tmp_path / "nowhere")


# Who may ------------------------------------------------------------------------------------------------------------


def test_a_private_repository_opens_with_a_token_only(hub: Hub) -> None:
    hub.add("lab/secret", {FILE: b'{"steps": 9}'}, private=True)
    with pytest.raises(UnknownRepositoryError, match=r"no repository 'lab/secret' on .* or it is private: log in with"):
        ExampleScheduler.from_pretrained("lab/secret")
    with pytest.raises(UnknownRepositoryError, match=r"'lab/secret'.* private: check the login or token used"):
        ExampleScheduler.from_pretrained("lab/secret", token="readers-token")
    assert ExampleScheduler.from_pretrained("lab/secret", token="anns-token").config.steps == 9
    with pytest.warns(FutureWarning, match="use_auth_token is deprecated: pass token"):
        ExampleScheduler.from_pretrained("lab/secret", use_auth_token="anns-token")


def test_a_stored_login_is_used(hub: Hub) -> None:
    hub.add("lab/secret", {FILE: b'{"steps": 9}'}, private=True)
    Path(settings.HF_TOKEN_PATH).parent.mkdir(parents=True, exist_ok=True)
    Path(settings.HF_TOKEN_PATH).write_text("anns-token")
    assert ExampleScheduler.from_pretrained("lab/secret").config.steps == 9
    with pytest.raises(UnknownRepositoryError):
        ExampleScheduler.from_pretrained("lab/secret", token=False, force_download=True)


def test_gated_repositories_say_so(hub: Hub) -> None:
    hub.add("bob/gated", {FILE: b"{}"}, gated=True)
    with pytest.raises(AccessDeniedError, match=r"access to 'bob/gated' on .* has to be asked for on its page"):
        ExampleScheduler.from_pretrained("bob/gated", token="anns-token")


@pytest.mark.parametrize(
    ("token", "repo_id", "kind", "message"),
    [
        (None, "example", AccessDeniedError, "nobody is logged in, which 'example' on .* log in with"),
        ("wrong", "example", AccessDeniedError, "not allowed for 'example' on .* check the login or token"),
        ("readers-token", "example", AccessDeniedError, "not allowed for 'reader/example'"),
        ("anns-token", "bob/public", AccessDeniedError, "not allowed for 'bob/public'"),
        ("anns-token", "bob/new", AccessDeniedError, "not allowed for 'bob/new'"),
        ("anns-token", "bob/private", UnknownRepositoryError, "no repository 'bob/private' on .*, or it is private"),
    ],
)
def test_a_push_that_is_not_allowed_says_for_what_and_why(
    hub: Hub, token: str | None, repo_id: str, kind: type[Exception], message: str
) -> None:
    hub.add("bob/public")
    hub.add("bob/private", private=True)
    with pytest.raises(kind, match=message):
        ExampleScheduler().push_to_hub(repo_id, token=token)
    assert set(hub.repositories) == {"bob/public", "bob/private"}


# Loading ------------------------------------------------------------------------------------------------------------


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: Hub) -> None:
    repository = hub.add("ann/example", {FILE: b'{"steps": 1}'})
    repository.tag("v1")
    first = repository.refs["main"]
    repository.commit("dev/two", {FILE: b'{"steps": 2}'}, "two", base="main")
    repository.commit("main", {FILE: b'{"steps": 3}'}, "three")
    steps = {
        revision: ExampleScheduler.from_pretrained("ann/example", revision=revision).config.steps
        for revision in (None, "main", "v1", first, "dev/two")
    }
    assert steps == {None: 3, "main": 3, "v1": 1, first: 1, "dev/two": 2}


def test_the_commit_of_a_configuration_can_be_asked_for(hub: Hub, tmp_path: Path) -> None:
    repository = hub.add("ann/example", {FILE: b'{"steps": 1}'})
    config, rest, commit = ExampleScheduler.load_config(
        "ann/example", return_unused_kwargs=True, return_commit_hash=True, extra=1
    )
    assert (config, rest, commit) == ({"steps": 1}, {"extra": 1}, repository.refs["main"])
    ExampleScheduler().save_pretrained(tmp_path)
    assert ExampleScheduler.load_config(tmp_path, return_commit_hash=True)[1] is None


def test_unknown_repository_revision_folder_and_file_are_different_errors_with_names(hub: Hub) -> None:
    hub.add("ann/pipeline", {f"scheduler/{FILE}": b"{}"})
    hub.add("ann/flat", {FILE: b"{}"})
    with pytest.raises(UnknownRepositoryError, match="there is no repository 'ann/other'"):
        ExampleScheduler.from_pretrained("ann/other", token="anns-token")
    with pytest.raises(UnknownRevisionError, match=r"'ann/flat' on .* has no branch, tag or commit 'v9'"):
        ExampleScheduler.from_pretrained("ann/flat", revision="v9")
    with pytest.raises(
        MissingFileError, match=rf"load {FILE}: .* 'ann/pipeline' .* is in scheduler: pass subfolder=\"scheduler\""
    ):
        ExampleScheduler.from_pretrained("ann/pipeline")
    with pytest.raises(MissingFileError, match=rf"load x/{FILE}: .* 'ann/flat' .* at its top: leave out subfolder"):
        ExampleScheduler.from_pretrained("ann/flat", subfolder="x")
    with pytest.raises(MissingFileError, match=r"load nothing.txt: there is no such file in 'ann/flat' on \S+$"):
        download("ann/flat", "nothing.txt")


def test_a_malformed_repository_id_is_refused_before_anybody_is_asked(hub: Hub) -> None:
    with pytest.raises(ValueError, match="ann--example"):
        download("ann/ann--example", FILE)
    with pytest.raises(OSError, match="there is no folder ann/example/scheduler to load"):
        ExampleScheduler.from_pretrained("ann/example/scheduler")
    assert not hub.asked("resolve")


def test_a_commit_in_the_cache_is_loaded_without_asking_anybody(hub: Hub) -> None:
    repository = hub.add("ann/example", {FILE: b'{"steps": 1}'})
    commit = repository.refs["main"]
    ExampleScheduler.from_pretrained("ann/example", revision=commit)
    hub.requests.clear()
    ExampleScheduler.from_pretrained("ann/example", revision=commit)
    assert not hub.requests
    ExampleScheduler.from_pretrained("ann/example")
    ExampleScheduler.from_pretrained("ann/example")
    assert not hub.asked("^GET .*resolve")
    ExampleScheduler.from_pretrained("ann/example", force_download=True)
    assert len(hub.asked("^GET .*resolve")) == 1


def test_offline_mode_loads_what_is_there_and_says_what_is_not(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("ann/example", {FILE: b'{"steps": 1}'})
    hub.add("ann/other", {FILE: b'{"steps": 1}'})
    ExampleScheduler.from_pretrained("ann/example")
    hub.requests.clear()
    assert ExampleScheduler.from_pretrained("ann/example", local_files_only=True).config.steps == 1
    with pytest.raises(HubUnreachableError, match=r"'ann/other' on .* is not in the cache"):
        ExampleScheduler.from_pretrained("ann/other", local_files_only=True)
    monkeypatch.setattr(settings, "HF_HUB_OFFLINE", True)
    assert ExampleScheduler.from_pretrained("ann/example").config.steps == 1
    with pytest.raises(HubUnreachableError, match=r"'ann/other' on .* is not in the cache, .*: offline mode is on"):
        ExampleScheduler.from_pretrained("ann/other")
    with pytest.raises(HubUnreachableError, match="cannot push: offline mode is on, so 'lab/example' on"):
        ExampleScheduler().push_to_hub("lab/example", token="anns-token")
    assert not hub.requests


def test_a_hub_that_is_not_there_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_server() as gone:
        pass
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(settings, "ENDPOINT", gone.url)
    monkeypatch.setattr(settings, "HUGGINGFACE_CO_URL_TEMPLATE", gone.url + "/{repo_id}/resolve/{revision}/{filename}")
    with pytest.raises(HubUnreachableError, match=rf"'ann/example' on {gone.url} is not in the cache.*refused"):
        ExampleScheduler.from_pretrained("ann/example")
    with pytest.raises(HubUnreachableError, match=rf"cannot push: 'lab/example' on {gone.url} cannot be reached"):
        ExampleScheduler().push_to_hub("lab/example", token="anns-token")


def test_a_download_that_breaks_off_is_taken_up_again(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 100
    hub.add("ann/network", {"model.bin": content})
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.fail("GET .*/model.bin", times=1, cut_to=10_000)
    assert download("ann/network", "model.bin").read_bytes() == content
    assert len(hub.asked("GET .*/model.bin")) == 2


@pytest.mark.parametrize("promise_less", [True, False])
def test_a_download_that_stays_too_short_is_an_error_and_leaves_no_half_file(
    hub: Hub, tmp_path: Path, promise_less: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b'{"steps": 250}'
    hub.add("ann/example", {FILE: content})
    monkeypatch.setattr(time, "sleep", lambda _: None)
    hub.fail(f"GET .*/{FILE}", times=100, cut_to=0 if not promise_less else 5, promise_less=promise_less)
    with pytest.raises(HubError, match="'ann/example'"):
        ExampleScheduler.from_pretrained("ann/example")
    assert not cached(tmp_path)
    hub.faults.clear()
    assert ExampleScheduler.from_pretrained("ann/example").config.steps == 250


# Settings -----------------------------------------------------------------------------------------------------------


def test_endpoint_token_and_offline_mode_come_from_the_environment(hub: Hub, tmp_path: Path) -> None:
    script = (
        "from diffusolve.hub import push_files, download\n"
        "print(push_files({'a.txt': b'a'}, 'from-outside'))\n"
        "print(download('ann/from-outside', 'a.txt').read_text())"
    )
    settings = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": "anns-token",
        "HF_HOME": str(tmp_path),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **settings, **more}
        return subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        f"{hub.url}/ann/from-outside/commit/{hub.repositories['ann/from-outside'].refs['main']}",
        "a",
    ]
    assert "offline mode is on" in run(HF_HUB_OFFLINE="1").stderr


@for_each("name", ["a--b", "ann/a..b", "ann/x.git", "a" * 97, "ann/-x"])
def test_a_name_that_no_repository_has_is_an_error_of_ours(name: str) -> None:
    with pytest.raises(InvalidNameError, match=r"cannot load .*: 'a.* is no name or organisation/name"):
        ExampleScheduler.load_config(name)
    with pytest.raises(InvalidNameError, match=r"cannot push: 'a.* is no name or organisation/name"):
        push_files({"a": b""}, name, token="none")


@for_each("subfolder", ["..", "../other", "a/../../b", "/etc", "a\\..\\..\\b"])
def test_a_subfolder_lies_inside(subfolder: str) -> None:
    actions = (
        lambda: ExampleScheduler.load_config("ann/example", subfolder=subfolder),
        lambda: ExampleScheduler.load_config(Path.cwd(), subfolder=subfolder),
        lambda: push_files({"a": b""}, "ann/example", subfolder=subfolder),
    )
    for action in actions:
        with pytest.raises(InvalidNameError, match=r"subfolder is .*, which leads out of"):
            action()


@for_each("place", ["../other", "../../ann/example", "~/x/y", "ann/../example", "a/b/c", ""])
def test_a_path_is_never_asked_of_the_hub(place: str) -> None:
    with pytest.raises(ConfigFileError):
        ExampleScheduler.load_config(place)


@for_each(
    ("text", "shown"),
    [
        ("no answer from http://ann:hush@proxy:8080/x", "no answer from http://***@proxy:8080/x"),
        ("(https://hush@host) and //b:c@d", "(https://***@host) and //***@d"),
        ("the token hf_AbC123 is not valid", "the token hf_*** is not valid"),
        ("https://huggingface.co/ann/example@main", "https://huggingface.co/ann/example@main"),
    ],
)
def test_errors_show_no_secrets(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo_id, filename: "")
    with pytest.raises(TypeError, match=r"HTTPS_PROXY instead, for http\.") as caught:
        ExampleScheduler.from_pretrained("ann/example", proxies={"http": "http://ann:hush@proxy:1"})
    assert "hush" not in str(caught.value)


def test_proxies_are_for_the_environment_where_the_client_takes_none(hub: Hub) -> None:
    hub.add("ann/example", {FILE: b"{}"})
    import inspect

    if "proxies" in inspect.signature(huggingface_hub.hf_hub_download).parameters:
        pytest.skip("this client takes proxies")
    with pytest.raises(TypeError, match="takes no proxies: set the environment variables HTTP_PROXY and HTTPS_PROXY"):
        ExampleScheduler.from_pretrained("ann/example", proxies={"http": "http://proxy:1"})


def test_without_huggingface_hub_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"of 'ann/example' from the Hub needs .* pip install 'diffusolve\[hub\]'"):
        ExampleScheduler.from_pretrained("ann/example")
    with pytest.raises(ImportError, match=r"pushing to 'example' on the Hub needs huggingface_hub"):
        ExampleScheduler().push_to_hub("example")


# Names of weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pytorch_model.bin", "pytorch_model.fp16.bin"),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors"),
        ("diffusion_pytorch_model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.fp16.json"),
        ("model-00001-of-00002.safetensors", "model.fp16-00001-of-00002.safetensors"),
    ],
)
def test_the_variant_stands_before_the_ending(name: str, expected: str) -> None:
    assert add_variant(name, "fp16") == expected
    assert add_variant(name, None) == name


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_are_saved_where_diffusers_saves_and_finds_them(
    tmp_path: Path, safe: bool, variant: str | None
) -> None:
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    network = diffusers.UNet2DModel(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, **blocks)
    network.save_pretrained(tmp_path / "theirs", safe_serialization=safe, variant=variant)
    network.save_config(tmp_path / "ours")
    path = save_weights(network, tmp_path / "ours", safe_serialization=safe, variant=variant)
    assert path.parent == tmp_path / "ours"
    names = [sorted(entry.name for entry in (tmp_path / whose).iterdir()) for whose in ("theirs", "ours")]
    assert names[0] == names[1]
    back = diffusers.UNet2DModel.from_pretrained(tmp_path / "ours", use_safetensors=safe, variant=variant)
    assert all(torch.equal(value, back.state_dict()[key]) for key, value in network.state_dict().items())


def test_weights_that_two_layers_share_are_saved_once(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    assert len(load_file(save_weights(network, tmp_path))) == 3


def test_weights_that_cannot_be_saved_leave_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_weights(nn.Linear(2, 2), tmp_path)
    old = path.read_bytes()

    def full(*_: Any, **__: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space left"):
        save_weights(nn.Linear(2, 2), tmp_path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_every_error_of_the_hub_is_an_oserror_as_users_of_diffusers_expect() -> None:
    kinds = [value for name, value in vars(hub_room).items() if name.endswith("Error")]
    assert len(kinds) == 7
    assert all(issubclass(kind, HubError) and issubclass(kind, OSError) for kind in kinds)
