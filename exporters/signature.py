"""Sign an artifact with a private key, in the file format of the OpenSSF's model_signing."""

from __future__ import annotations

from pathlib import Path

from exporters.artifact_writer import writing
from runtime.artifact.reader import check_files, read_manifest
from runtime.artifact.signature import SIGNATURE_FILE, import_signing
from runtime.errors import UsageError


def sign_artifact(folder: Path, key: Path) -> Path:
    """Sign all files of an artifact, and write the signature into its folder. Nothing goes over the network.

    Args:
        folder: The artifact.
        key: PEM file of a private key of an elliptic curve, which is not encrypted.

    Returns:
        The file with the signature.

    Raises:
        ArtifactError: The artifact is damaged.
        UsageError: The key cannot be read, or the folder holds what cannot be signed.
        DestinationError: The signature cannot be written.
        MissingDependencyError: model_signing is not installed.
    """
    check_files(folder, read_manifest(folder))
    folder = folder.absolute()  # with a relative one, model_signing would not leave out the signature itself
    signing, path = import_signing(), folder / SIGNATURE_FILE
    try:
        config = signing.signing.Config().use_elliptic_key_signer(private_key=key)
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise UsageError(f"{key} cannot be read as a private key ({exc}); give the PEM file of an EC key") from exc
    config.set_hashing_config(signing.hashing.Config().set_ignored_paths(paths=[path]))
    with writing(folder, elsewhere=""):
        try:
            config.sign(folder, path)
        except ValueError as exc:  # a link, for example
            raise UsageError(
                f"{folder} cannot be signed ({exc}); copy the artifact with the files of its links"
            ) from exc
    return path
