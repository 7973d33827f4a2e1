"""Files to a model repository of Hugging Face, in one commit, through the huggingface_hub package."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import hrun
from hrun.cli.hub import is_offline, library, reach


class Upload:
    """A repository that files go to.  Reasons to refuse are found before any work: the name, the login, the connection.

    Raises ArgumentError (a name that is not USER/MODEL), Error (huggingface_hub is missing, no token, no connection).
    """

    def __init__(self, repository: str, private: bool = False) -> None:
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
            raise hrun.ArgumentError(f"--upload '{repository}' is not of the form USER/MODEL")
        self.repository, self.private = repository, private
        self._library = library("--upload")
        endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        self._api = self._library.HfApi(endpoint=endpoint)
        try:
            reach(endpoint)
            self.user = str(self._api.whoami()["name"])
        except Exception as error:  # the library raises whatever its HTTP client does
            raise self._failure(error) from error

    def send(self, folder: Path, names: Sequence[str], message: str) -> str:
        """The address of the repository, which is made where it is not there.  Files that it has already stay as they are.

        Raises Error; the repository then holds all of the files or none of them.
        """
        operations = [
            self._library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name)
            for name in names
        ]
        try:
            made = self._api.create_repo(
                self.repository, private=self.private or None, repo_type="model", exist_ok=True
            )
            self._api.create_commit(
                self.repository, operations, commit_message=message, repo_type="model"
            )
        except Exception as error:
            raise self._failure(error) from error
        return str(made)

    def _failure(self, error: Exception) -> hrun.Error:
        start = f"cannot upload to {self.repository}: "
        if "TokenNotFound" in type(error).__name__:
            return hrun.Error(f"{start}no token; hf auth login keeps one, or set HF_TOKEN")
        if is_offline(error):
            return hrun.Error(f"{start}no connection to Hugging Face ({error})")
        return hrun.Error(start + " ".join(str(error).split()))
