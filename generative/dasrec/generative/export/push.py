"""Upload of an export to a model hub."""

from pathlib import Path

from huggingface_hub import HfApi

from dasrec.core import load_manifest, verify_files


def push_export(path: Path, repo_id: str, *, private: bool = True) -> str:
    """Upload an export as a model repository, made where it does not exist.

    Needs the hub's own login (`hf auth login` or HF_TOKEN).

    Returns:
        The address of the commit.

    Raises:
        FileNotFoundError: `path` holds no export.
        ValueError: a file of it was changed, or the hub refused.
    """
    verify_files(path, load_manifest(path, "export"))
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id, folder_path=path, commit_message="Upload a dasrec export"
        )
    except OSError as error:  # of the hub, of the connection, or for want of a login
        raise ValueError(
            f"--push {repo_id}: the hub refused: {error}; the export lies in {path}: upload it "
            f"with `hf upload {repo_id} {path}`"
        ) from None
    return str(commit)
