"""Check who signed an artifact, in the file format of the OpenSSF's model_signing: ``model_signing verify`` agrees.

Source: https://github.com/sigstore/model-transparency
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from runtime.errors import SignatureError, UsageError, needs_extra

SIGNATURE_FILE = "model.sig"  # the default of ``model_signing sign``


def import_signing() -> Any:
    """Import and return ``model_signing``.

    Raises:
        MissingDependencyError: It is not installed.
    """
    with needs_extra("sign", "a signature"):
        import model_signing.signing
        import model_signing.verifying
    return model_signing


def check_signature(folder: Path, public_key: Path) -> None:
    """Check that an artifact is signed with the private key of ``public_key``, and has not changed since.

    Every file counts: one that changed, was added or is missing. Nothing else of the artifact is read before.

    Args:
        folder: The artifact.
        public_key: PEM file of an elliptic curve.

    Raises:
        SignatureError: There is no signature, it is by another key, or a file is not what was signed.
        UsageError: The key cannot be read.
        MissingDependencyError: model_signing is not installed.
    """
    folder = folder.resolve()
    signing, signature = import_signing(), folder / SIGNATURE_FILE
    if not signature.is_file():
        raise SignatureError(f"{folder} is not signed: it has no {SIGNATURE_FILE}; sign it, or take a signed copy")
    try:
        config = signing.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as exc:
        raise UsageError(
            f"{public_key} cannot be read as a public key ({exc}); give the PEM file of an EC key"
        ) from exc
    try:
        config.verify(folder, signature)
    except Exception as exc:  # model_signing, sigstore and cryptography raise many types
        link = next((path for path in sorted(folder.rglob("*")) if path.is_symlink()), None)
        if link is not None and "symlink" in str(exc):
            raise SignatureError(
                f"{link} is a link, which a signature does not cover; copy the artifact with the files that its links "
                "point to"
            ) from exc
        raise SignatureError(
            f"{folder} is not what was signed with the private key of {public_key} ({_reason(exc)}); take a copy from "
            "its publisher, or check that the key is that of the publisher"
        ) from exc


def _reason(error: Exception) -> str:
    """Return which files differ, without the digests that model_signing prints, or the message if it names no file."""
    message = " ".join(str(error).split())
    kinds = (
        ("changed", r"Hash mismatch for \\*'([^'\\]*)"),
        ("added", r"Extra files found in model \\*'[^']*': ([^'\"\]\\]*)"),
        ("missing", r"Missing files in model \\*'[^']*': ([^'\"\]\\]*)"),
    )
    found = {kind: ", ".join(re.findall(pattern, message)) for kind, pattern in kinds}
    return "; ".join(f"{kind}: {names}" for kind, names in found.items() if names) or message or type(error).__name__
