"""Where a base comes from: a directory, a row of the table, the hub; and what is said when it cannot be had."""

from pathlib import Path

import huggingface_hub
import pytest
import requests
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from jirgee.errors import InputError
from jirgee_train import bases
from jirgee_train.bases import BASES, Base, cache_dir, resolve


def test_a_directory_is_itself(original_base):
    assert resolve(str(original_base)) == original_base


def test_a_directory_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither config\.json nor bert_config\.json") as caught:
        resolve(str(tmp_path))
    assert caught.value.path == tmp_path


@pytest.mark.parametrize("name", ["e5-smal", "./nowhere/model", "/nowhere/model", "~/model", "a/b/c"])
def test_a_name_that_is_nothing_lists_the_ways_to_give_a_base(name):
    with pytest.raises(InputError) as caught:
        resolve(name)
    message = str(caught.value)
    assert repr(name) in message
    assert "a model directory, a hub id (owner/name), or one of e5-small-mn, e5-small" in message


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("JIRGEE_CACHE", str(tmp_path / "own"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("JIRGEE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "jirgee"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "jirgee"


def test_a_row_of_the_table_is_built_once(monkeypatch, tmp_path):
    built = []
    monkeypatch.setenv("JIRGEE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(BASES, "own", Base("for this test", lambda out: (built.append(out), out.mkdir())))
    first, second = resolve("own"), resolve("own")
    assert first == second
    assert built == [first]
    assert first.parent == tmp_path / "cache" / "bases"


@pytest.fixture
def hub(monkeypatch):
    """Put a result or an exception in the place of huggingface_hub's download; returns the calls it got."""

    def answer(result):
        calls = []

        def snapshot_download(repo_id, **options):
            calls.append((repo_id, options))
            if isinstance(result, BaseException):
                raise result
            return str(result)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return calls

    return answer


def test_a_hub_id_is_downloaded_without_what_training_never_reads(hub, original_base):
    calls = hub(original_base)
    assert resolve("tugstugi/bert-base-mongolian-uncased") == original_base
    first, second = calls  # no safetensors there: only then are PyTorch's own weights asked for
    assert first == ("tugstugi/bert-base-mongolian-uncased", {"allow_patterns": list(bases.HUB_FILES)})
    assert second[1] == {"allow_patterns": [*bases.HUB_FILES, "pytorch_model*.bin"]}


def test_weights_are_not_downloaded_twice(hub, tiny_checkpoint):
    calls = hub(tiny_checkpoint)
    assert resolve("owner/name") == tiny_checkpoint
    assert [options for _, options in calls] == [{"allow_patterns": list(bases.HUB_FILES)}]


def test_a_download_that_is_no_model_is_refused(hub, tmp_path):
    hub(tmp_path)
    with pytest.raises(InputError, match=r"neither config\.json nor bert_config\.json"):
        resolve("owner/dataset")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


UNREACHABLE = {
    "no name server": caused(
        LocalEntryNotFoundError("An error happened while trying to locate the files on the Hub"),
        requests.ConnectionError("Failed to resolve 'huggingface.co'\nRetry"),
    ),
    "no words": caused(LocalEntryNotFoundError(""), requests.ConnectionError()),
    "connection lost": requests.ConnectionError("Connection aborted."),
    "timeout": requests.Timeout("Read timed out."),
    "server error": HfHubHTTPError("503 Server Error: Service Unavailable", response=requests.Response()),
    "disk full": OSError(28, "No space left on device"),
}


@pytest.mark.parametrize("case", UNREACHABLE)
def test_an_unreachable_hub_names_the_cause_and_the_way_around_it(hub, case):
    hub(UNREACHABLE[case])
    with pytest.raises(InputError) as caught:
        resolve("owner/model")
    message = str(caught.value)
    assert message.startswith("the hub cannot be reached for 'owner/model' (")
    assert message.endswith("download the model elsewhere and pass its directory: --base DIR")
    assert "\n" not in message
    reason = str(UNREACHABLE[case].__cause__ or UNREACHABLE[case]).split("\n")[0]
    assert reason in message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RepositoryNotFoundError("404 Client Error", response=requests.Response()),
            "the hub has no model 'owner/model'",
        ),
        (GatedRepoError("403 Client Error", response=requests.Response()), "only to those who accepted its terms"),
    ],
    ids=["not found", "gated"],
)
def test_a_model_that_is_not_to_be_had_names_token_and_directory(hub, error, message):
    hub(error)
    with pytest.raises(InputError) as caught:
        resolve("owner/model")
    assert message in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)
    assert "--base DIR" in str(caught.value)


def test_huggingface_hub_itself_offline_ends_in_the_same_message(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"cannot be reached for 'owner/model' .*--base DIR"):
        resolve("owner/model")


def test_huggingface_hub_itself_refuses_a_name_that_cannot_be(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="the hub has no model 'own er/model'"):
        resolve("own er/model")
