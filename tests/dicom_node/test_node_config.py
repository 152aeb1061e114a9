"""The configuration: what is read, and what is refused before anything listens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydicom import Dataset

from leanmed.dicom_node.command import open_artifacts, serve
from leanmed.dicom_node.config import Peer, Rule, Server, read_config
from leanmed.dicom_node.inbox import Store
from leanmed.errors import DataError, RecipeError

PEER = {"ae_title": "PACS", "host": "127.0.0.1", "port": 4242}
LEAST: dict[str, Any] = {"store": "store", "rules": [{"artifact": "lungs", "modality": "CT"}], "destination": PEER}


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump(LEAST | changes))
    return path


def test_the_least_configuration_listens_on_this_computer_alone(tmp_path: Path) -> None:
    config = read_config(written(tmp_path))
    assert (config.ae_title, config.host, config.port) == ("LEANMED", "127.0.0.1", 11112)
    assert config.rules[0].answers == ("seg", "sr")
    assert isinstance(config.destination, Peer)
    assert config.web is None


def test_relative_paths_start_from_the_folder_of_the_file(tmp_path: Path) -> None:
    tls = {"certificate": "own.pem", "key": "/keys/own.key", "authorities": "all.pem"}
    web = {"url": "https://pacs/dicom-web", "authorization_file": "token"}
    config = read_config(written(tmp_path, tls=tls, destination=web))
    assert config.store == tmp_path / "store"
    assert config.tls is not None
    assert (config.tls.certificate, config.tls.key) == (tmp_path / "own.pem", Path("/keys/own.key"))
    assert isinstance(config.destination, Server)
    assert config.destination.authorization_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rules": []}, ["rules"]),
        ({"rule": []}, ["rule", "Extra inputs"]),
        ({"port": 0}, ["port"]),
        ({"ae_title": "A TITLE THAT IS TOO LONG"}, ["ae_title"]),
        ({"ae_title": "   "}, ["ae_title"]),
        ({"host": "0.0.0.0"}, ["expected `calling`", "0.0.0.0"]),
        ({"rules": [{"artifact": "a", "modality": "CT", "description": "("}]}, ["rules.0", "no regular expression"]),
        ({"rules": [{"artifact": "a", "modality": "CT", "answers": ["pdf"]}]}, ["rules.0.answers.0", "'seg'"]),
        ({"destination": {"url": "file:///etc/passwd"}}, ["destination"]),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(
    tmp_path: Path, refused: Any, changes: dict[str, Any], words: list[str]
) -> None:
    with refused(DataError, "node.yaml", *words):
        read_config(written(tmp_path, **changes))


def test_what_is_no_configuration_is_refused(tmp_path: Path, refused: Any) -> None:
    with refused(DataError, "--config", "No such file"):
        read_config(tmp_path / "none.yaml")
    path = tmp_path / "node.yaml"
    path.write_text("- a list")
    with refused(DataError, "expected keys such as `rules`"):
        read_config(path)
    path.write_text("store: a\nstore: b")
    with refused(RecipeError, "store stands twice"):
        read_config(path)


def series(**about: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in about.items():
        setattr(dataset, keyword, value)
    return dataset


def test_a_rule_fits_by_modality_description_and_body_part() -> None:
    rule = Rule(artifact="a", modality="CT", description="(?i)thorax|lung", body_part="^CHEST$")
    fitting = {"Modality": "CT", "SeriesDescription": "Low dose LUNG 1.0", "BodyPartExamined": "CHEST"}
    assert rule.fits(series(**fitting))
    for change in ({"Modality": "MR"}, {"SeriesDescription": "Abdomen"}, {"BodyPartExamined": "CHESTABDOMEN"}):
        assert not rule.fits(series(**(fitting | change)))
    assert not rule.fits(series(Modality="CT"))
    assert Rule(artifact="a", modality="CT").fits(series(Modality="CT"))
    assert not Rule(artifact="a", modality="CT").fits(series())


def test_rules_must_name_artifacts_that_are_given(tmp_path: Path, tiny_artifact: Path, refused: Any) -> None:
    config = read_config(written(tmp_path))
    store = Store(tmp_path / "own", 10**6)
    with refused(DataError, "got none called lungs", "lungs=FOLDER"):
        open_artifacts([tiny_artifact], config, store)
    assert list(open_artifacts([Path(f"lungs={tiny_artifact}")], config, store)) == ["lungs"]


def test_a_store_that_cannot_be_written_to_is_refused(tmp_path: Path, tiny_artifact: Path, refused: Any) -> None:
    (tmp_path / "file").write_text("")
    with refused(DataError, "expected `store`", "choose another"):
        serve([Path(f"lungs={tiny_artifact}")], written(tmp_path, store="file/store"))


def test_certificates_that_are_none_are_refused(tmp_path: Path, tiny_artifact: Path, refused: Any) -> None:
    tls = {"certificate": "a.pem", "key": "a.key", "authorities": "b.pem"}
    with refused(DataError, "expected `tls` to name a certificate"):
        serve([Path(f"lungs={tiny_artifact}")], written(tmp_path, tls=tls))


def test_others_reach_dicomweb_with_a_token_only(tmp_path: Path, tiny_artifact: Path, refused: Any) -> None:
    with refused(DataError, "expected web.token_file beside web.host 0.0.0.0"):
        serve([Path(f"lungs={tiny_artifact}")], written(tmp_path, web={"host": "0.0.0.0"}))
