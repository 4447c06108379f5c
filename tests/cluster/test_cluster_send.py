"""The files that a job takes along: Python and what is named, never what keeps secrets or leads out of a package."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_m2f.cluster.pack import SHOWN, pack_file, pack_module, what_is_sent
from raytune_m2f.errors import InputError

SECRETS = (".env", ".env.local", "prod.env", "id_rsa", "id_ed25519.pub", "server.pem", "tls.key", "cert.p12",
           "credentials", "credentials.json", "Credentials.csv", ".netrc", "token", "auth_token", "api-token.txt",
           "secrets.yaml", "client_secret_1.json", ".pgpass", ".git-credentials", "service-account.json")  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "job"
    path.mkdir()
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    path = tmp_path / "mine"
    path.mkdir()
    (path / "__init__.py").write_text("import x\n")
    return path


def sent(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_python_of_a_package_is_sent_and_nothing_else(package: Path, folder: Path) -> None:
    for name in ("sub/__init__.py", "sub/deep/tokenizer.py", "data.json", *SECRETS, ".ssh/config.py", ".git/hooks/a.py",
                 "__pycache__/a.py", ".venv/b.py", "env/pyvenv.cfg", "env/lib/c.py", "sub/.hidden.py"):  # fmt: skip
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).touch()
    left_out = pack_module(package, folder)
    assert sent(folder) == {"mine/__init__.py", "mine/sub/__init__.py", "mine/sub/deep/tokenizer.py"}
    assert left_out == 1 + sum(not name.startswith(".") for name in SECRETS)
    with pytest.raises(InputError, match="taken"):
        pack_module(package, folder)


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_not_sent_even_if_it_is_named(tmp_path: Path, folder: Path, name: str) -> None:
    (tmp_path / name).touch()
    (tmp_path / "plain.txt").symlink_to(tmp_path / name)
    for path in (tmp_path / name, tmp_path / "plain.txt"):
        with pytest.raises(InputError, match="is not sent"):
            pack_file(path, [], folder)
    assert sent(folder) == set()


@pytest.mark.parametrize("where", [".ssh", ".aws", ".config/gcloud"])
def test_nothing_of_a_folder_of_secrets_is_sent(tmp_path: Path, folder: Path, where: str) -> None:
    file = tmp_path / where / "config"
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(InputError, match=r"lies in .*is not sent"):
        pack_file(file, [], folder)


def test_a_private_key_by_another_name_is_not_sent(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "notes.txt").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    with pytest.raises(InputError, match="private key"):
        pack_file(tmp_path / "notes.txt", [], folder)


def test_links_outwards_are_refused_and_those_within_are_files(package: Path, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.py").touch()
    (package / "same.py").symlink_to("__init__.py")
    pack_module(package, folder)
    assert not (folder / "mine" / "same.py").is_symlink()
    assert (folder / "mine" / "same.py").read_text() == "import x\n"
    for name, target in (("out.py", tmp_path / "outside.py"), ("passwd.py", Path("/etc/passwd")), ("sub", tmp_path)):
        (package / name).symlink_to(target)
        with pytest.raises(InputError, match="is a link to"):
            pack_module(package, folder / name)
        (package / name).unlink()
    (tmp_path / "link.py").symlink_to("/etc/passwd")
    with pytest.raises(InputError, match="is a link to"):
        pack_module(tmp_path / "link.py", folder)


@pytest.mark.parametrize("name", ["notes.txt", "no-name.py", "folder", "credentials.py", "secrets.py"])
def test_what_is_no_module_is_refused(tmp_path: Path, folder: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name == "folder" else (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"allowed is a \.py file|is not sent"):
        pack_module(tmp_path / name, folder)
    assert sent(folder) == set()


def test_named_data_lie_where_the_code_looks_for_them(package: Path, folder: Path, tmp_path: Path) -> None:
    for path in (package / "data" / "a.json", tmp_path / "b.csv"):
        path.parent.mkdir(exist_ok=True)
        path.touch()
        pack_file(path, [package], folder)
    assert sent(folder) == {"mine/data/a.json", "b.csv"}
    with pytest.raises(InputError, match=r"b\.csv is taken"):
        pack_file(tmp_path / "b.csv", [package], folder)
    for path, said in ((tmp_path / "no.csv", "no such file"), (package, "no such file")):
        with pytest.raises(InputError, match=said):
            pack_file(path, [], folder)


def test_data_of_the_size_of_data_sets_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "large.bin").write_bytes(bytes(11))
    with pytest.raises(InputError, match="storage that all nodes see"):
        pack_file(tmp_path / "large.bin", [], folder, max_bytes=10)


def test_the_list_of_what_is_sent(folder: Path) -> None:
    for number in range(SHOWN + 5):
        (folder / f"{number:03d}.py").write_bytes(bytes(1500))
    lines = what_is_sent(folder)
    assert lines[0] == "sent along: 105 files, 157.5 kB"
    assert lines[1].split() == ["1.5", "kB", "000.py"]
    assert lines[-1] == "... and 5 more"
