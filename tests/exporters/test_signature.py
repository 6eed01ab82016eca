from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import runtime
from exporters.cli.main import main as exporters
from runtime.cli.main import main
from tests.runtime.toy_artifact import write_artifact

model_signing = pytest.importorskip("model_signing", reason="the extra sign is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def write_keys(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a private and a public key of an elliptic curve."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub.pem"
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    private.write_bytes(key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain))
    public.write_bytes(key.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """Write and sign an artifact; the keys lie beside it."""
    artifact = write_artifact(tmp_path / "toy")
    private, _ = write_keys(tmp_path, "key")
    assert exporters(["sign", str(artifact), "--key", str(private)]) == 0
    return artifact


def verify(artifact: Path, key: str = "key") -> int:
    return main(["verify", str(artifact), "--require-signature", str(artifact.parent / f"{key}.pub.pem")])


def test_a_signed_artifact_is_accepted(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(signed) == 0
    assert "verified: signed with the private key of" in capsys.readouterr().out
    assert runtime.load(signed, provider="cpu").embed(["a"]).shape == (1, 4)


def test_paths_may_be_relative(signed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(signed.parent)
    (signed / "model.sig").unlink()
    assert exporters(["sign", signed.name, "--key", "key.pem"]) == 0
    assert main(["verify", signed.name, "--require-signature", "key.pub.pem"]) == 0


def test_the_folder_may_be_a_link_but_no_file_in_it(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link, cache = signed.parent / "current", signed.parent / "blob"
    link.symlink_to(signed)
    assert verify(link) == 0
    (signed / "text.onnx").rename(cache)
    (signed / "text.onnx").symlink_to(cache)
    assert verify(signed) == 1
    assert "text.onnx is a link, which a signature does not cover; copy the artifact with" in capsys.readouterr().err


def change_a_byte(artifact: Path) -> str:
    graph = artifact / "text.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    return "changed: text.onnx"


def add_a_file(artifact: Path) -> str:
    (artifact / "extra.json").write_text("{}")
    return "added: extra.json"


def remove_a_file(artifact: Path) -> str:
    (artifact / "tokenizer.json").unlink()
    return "missing: tokenizer.json"


@pytest.mark.parametrize("change", [change_a_byte, add_a_file, remove_a_file])
def test_a_file_that_was_not_signed_like_this_is_refused(
    change: object, signed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(change)
    difference = change(signed)
    assert verify(signed) == 1
    error = capsys.readouterr().err
    assert "is not what was signed" in error
    assert f"({difference})" in error


def test_another_key_is_refused(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_keys(signed.parent, "other")
    assert verify(signed, "other") == 1
    assert "is not what was signed with the private key of" in capsys.readouterr().err


def test_no_signature_and_no_key_are_refused(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(signed, "none") == 2
    assert exporters(["sign", str(signed), "--key", str(signed.parent / "key.pub.pem")]) == 2
    (signed / "model.sig").unlink()
    assert verify(signed) == 1
    assert "is not signed: it has no model.sig" in capsys.readouterr().err


@pytest.mark.process
@pytest.mark.parametrize("damaged", [False, True])
def test_the_library_itself_agrees(damaged: bool, signed: Path) -> None:
    if damaged:
        change_a_byte(signed)
    words = ["verify", "key", str(signed), "--signature", str(signed / "model.sig")]
    words += ["--public_key", str(signed.parent / "key.pub.pem")]
    done = subprocess.run([sys.executable, "-m", "model_signing", *words], capture_output=True, text=True, check=False)
    assert (done.returncode != 0) == damaged, done.stdout + done.stderr


def test_a_damaged_artifact_is_not_signed(signed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_a_byte(signed)
    assert exporters(["sign", str(signed), "--key", str(signed.parent / "key.pem")]) == 1
    assert "has changed since export" in capsys.readouterr().err
