"""Download models from the Hugging Face Hub with `huggingface_hub`, or use its cache."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from tfllm.pretrained.hugging_face.folder_files import FILES, named_files

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(@(?P<revision>[^@]+?))?(/(?P<file>[^@]+\.gguf))?")


def downloaded(name: str) -> Path:
    """The local copy of a model on the Hub, which is downloaded unless it is in the cache.

    Settings of `huggingface_hub` are respected: HF_HUB_CACHE, HF_HUB_OFFLINE, HF_TOKEN and others.

    Args:
        name: `ORGANISATION/NAME[@REVISION]` for the files of a model folder (`folder_files`), or
            the same with `/FILE.gguf` after it for only that file.

    Raises:
        ValueError: If the name has another form.
        FileNotFoundError: If the Hub has no such model, revision or file, or not for this user.
        ConnectionError: If it is not in the cache, and the Hub cannot be reached.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            "a model of the Hub is named hf://ORGANISATION/NAME, optionally followed by @REVISION "
            f"and /FILE.gguf; received hf://{name}"
        )
    import huggingface_hub
    from huggingface_hub import errors

    repo, revision, file = match["repo"], match["revision"], match["file"]
    try:
        if file:
            return Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
        download = functools.partial(huggingface_hub.snapshot_download, repo)
        folder = Path(download(revision=revision, allow_patterns=list(FILES)))
        if more := named_files(folder):
            # From the same commit, whose hash is the name of the folder.
            download(revision=folder.name, allow_patterns=list(more))
        return folder
    except errors.HFValidationError as error:
        raise ValueError(f"hf://{name} is not the name of a model of the Hub: {error}") from None
    except errors.GatedRepoError as error:
        raise FileNotFoundError(
            f"hf://{name} is only available to those who accepted its terms: accept them on its "
            f"page and log in with `hf auth login` ({_first_line(error)})"
        ) from error
    except (
        errors.RepositoryNotFoundError,
        errors.RevisionNotFoundError,
        errors.RemoteEntryNotFoundError,
    ) as error:
        raise FileNotFoundError(
            f"the Hugging Face Hub has no {name}, or not for you; `hf auth login` gives access to "
            f"private models ({_first_line(error)})"
        ) from error
    except Exception as error:  # network errors, which are classes of many libraries
        cache = os.environ.get("HF_HUB_CACHE") or huggingface_hub.constants.HF_HUB_CACHE
        raise ConnectionError(
            f"hf://{name} is missing or incomplete in the cache {cache}, and the Hugging Face Hub "
            "cannot be reached. Download it where there is a network (`hf download "
            f"{repo} --local-dir DIR`), copy the folder, and give its path instead "
            f"({type(error).__name__}: {_first_line(error)})"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
