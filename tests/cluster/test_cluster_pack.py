"""What a job takes along: a configuration with the cluster's paths, a search space, Python, named files; no secrets."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from raytune_m2f.cluster.pack import SHOWN, pack_config, pack_file, pack_module, pack_space, what_is_sent
from raytune_m2f.config import Config
from raytune_m2f.errors import ConfigError, InputError, SearchSpaceError

DATA = "DATASETS: {REGISTER: {train: {annotations: '%s', images: /data/train}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "job"
    path.mkdir()
    return path


def packed(path: Path, folder: Path, *overrides: str) -> Config:
    """The configuration as the job reads it."""
    pack_config(path, overrides, folder)
    return Config.from_dict(yaml.safe_load((folder / "config.yaml").read_text()))


def test_files_and_overrides_become_one_file(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "base.yaml").write_text("SOLVER: {MAX_ITER: 100, BASE_LR: 0.1}\nSEED: 1\n")
    (tmp_path / "own.yaml").write_text("_BASE_: base.yaml\nSOLVER: {BASE_LR: 0.01}\n")
    config = packed(tmp_path / "own.yaml", folder, "SEED=7")
    assert (config.SOLVER.MAX_ITER, config.SOLVER.BASE_LR, config.SEED) == (100, 0.01, 7)


def test_paths_are_those_of_the_nodes(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_DATA", "/on/this/machine")
    (tmp_path / "own.yaml").write_text(DATA % "${CLUSTER_DATA}/train.json")
    pack_config(tmp_path / "own.yaml", ["MODEL.WEIGHTS=$NOT_SET_HERE/model.pth"], folder)
    sent = yaml.safe_load((folder / "config.yaml").read_text())
    assert sent["DATASETS"]["REGISTER"]["train"] == {
        "annotations": "${CLUSTER_DATA}/train.json", "images": "/data/train",
    }  # fmt: skip
    assert sent["MODEL"]["WEIGHTS"] == "$NOT_SET_HERE/model.pth"


@pytest.mark.parametrize("path", ["data/train.json", "~/train.json", "../train.json"])
def test_a_path_of_this_machine_is_refused(tmp_path: Path, folder: Path, path: str) -> None:
    (tmp_path / "own.yaml").write_text(DATA % path)
    with pytest.raises(ConfigError, match=r"DATASETS.REGISTER.train.annotations: got .*absolute"):
        pack_config(tmp_path / "own.yaml", [], folder)
    assert list(folder.iterdir()) == []


def test_a_relative_path_that_is_overridden_does_not_matter(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "own.yaml").write_text(DATA % "train.json")
    config = packed(tmp_path / "own.yaml", folder, "DATASETS.REGISTER.train.annotations=/shared/train.json")
    assert config.DATASETS.REGISTER["train"].annotations == Path("/shared/train.json")


def test_a_wrong_key_is_refused_here(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "own.yaml").write_text("SOLVER: {BASE_RL: 0.1}\n")
    with pytest.raises(ConfigError, match="BASE_LR"):
        pack_config(tmp_path / "own.yaml", [], folder)


def test_a_space_of_the_users_is_sent_and_a_shipped_one_is_named(tmp_path: Path, folder: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("SOLVER.BASE_LR: {type: loguniform, low: 1.0e-5, high: 1.0e-3}\n")
    config = Config.from_dict({})
    assert pack_space("learning_rate", folder, config) == "learning_rate"
    assert list(folder.iterdir()) == []
    assert pack_space(str(own), folder, config) == "space.yaml"
    assert yaml.safe_load((folder / "space.yaml").read_text())["SOLVER.BASE_LR"]["low"] == 1e-5
    with pytest.raises(SearchSpaceError, match="no such"):
        pack_space(str(tmp_path / "other.yaml"), folder)


SECRETS = (".env", ".env.local", "prod.env", "id_rsa", "id_ed25519.pub", "server.pem", "tls.key", "cert.p12",
           "credentials", "credentials.json", "Credentials.csv", ".netrc", "token", "auth_token", "api-token.txt",
           "secrets.yaml", "client_secret_1.json", ".pgpass", ".git-credentials", "service-account.json")  # fmt: skip


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
