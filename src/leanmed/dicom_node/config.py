"""The node's configuration: one YAML file, checked before anything listens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydicom import Dataset

from leanmed.errors import DataError
from leanmed.recipe.strict_yaml import read_yaml
from leanmed.serving.guard import LOOPBACK

AnswerForm = Literal["seg", "sr", "capture"]
Title = Annotated[
    str,
    Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$", description="an AE title: 1 to 16 plain characters"),
]
Port = Annotated[int, Field(ge=1, le=65535)]


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"it is no regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_checked_pattern)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(_Strict):
    """Certificates in PEM. Both sides must show one that the authorities have signed."""

    certificate: Path
    key: Path
    authorities: Path = Field(description="certificates of those who sign the other side's")


class Web(_Strict):
    """Where the node listens to DICOMweb."""

    host: str = "127.0.0.1"
    port: Port = 8043
    names: tuple[str, ...] = Field(default=(), description="by which clients may call it besides `host` and loopback")
    token_file: Path | None = Field(
        default=None, description="the secret that clients must show: 16 characters or more"
    )
    max_megabytes: int = Field(default=256, ge=1, description="of one request")


class Server(_Strict):
    """A DICOMweb server.

    `authorization_file` holds the value of the header Authorization, such as `Bearer ...` or `Basic ...`.
    """

    url: str = Field(pattern=r"^https?://[^\s?#]+$", description="up to and without /studies")
    authorization_file: Path | None = None
    authorities: Path | None = Field(default=None, description="certificates in PEM that its own must be signed by")


class Peer(_Strict):
    """An application entity that takes answers by C-STORE."""

    ae_title: Title
    host: str
    port: Port
    tls: Tls | None = None


class Code(_Strict):
    """A coded concept, such as of SNOMED CT."""

    value: str = Field(min_length=1, max_length=16)
    scheme: str = Field(min_length=1, max_length=16)
    meaning: str = Field(min_length=1, max_length=64)


class Rule(_Strict):
    """Which series an artifact answers, and how. A series is answered by every rule that fits it."""

    artifact: str = Field(description="its name on the command line")
    modality: str = Field(min_length=1, max_length=16, description="of the series, such as CT")
    description: Pattern = Field(
        default="", description="regular expression, found anywhere in the series' description"
    )
    body_part: Pattern = Field(default="", description="the same in Body Part Examined")
    answers: tuple[AnswerForm, ...] = Field(default=("seg", "sr"), min_length=1)
    codes: dict[str, Code] = Field(default={}, description="label of the artifact -> how answers code it")

    def fits(self, series: Dataset) -> bool:
        """Whether it answers a series, given a dataset that says what it is of."""
        is_of = str(series.get("Modality") or "") == self.modality
        described = re.search(self.description, str(series.get("SeriesDescription") or ""))
        part = re.search(self.body_part, str(series.get("BodyPartExamined") or ""))
        return is_of and described is not None and part is not None


class Config(_Strict):
    """The whole file."""

    ae_title: Title = "LEANMED"
    host: str = Field(default="127.0.0.1", description="the address to listen on")
    port: Port = 11112
    calling: tuple[Title, ...] = Field(
        default=(), description="AE titles that may call; none: every one, on loopback only"
    )
    tls: Tls | None = None
    store: Path = Field(description="a folder of the node's own")
    pause_seconds: float = Field(default=10, ge=0, description="without a new image, after which a series is complete")
    keep_hours: float = Field(default=24, ge=0, description="that a series is kept after its answers were sent")
    max_megabytes: int = Field(default=1024, ge=1, description="of one object")
    web: Web | None = None
    source: Server | None = Field(default=None, description="the server that studies are fetched from when asked")
    rules: tuple[Rule, ...] = Field(min_length=1)
    destination: Peer | Server

    @model_validator(mode="after")
    def _open_to_known_ones_only(self) -> Config:
        if self.host not in LOOPBACK and not self.calling:
            raise ValueError(
                f"expected `calling`, the AE titles that may call, beside host {self.host}, where others can reach the "
                "node, got none; list them"
            )
        return self


def read_config(path: Path) -> Config:
    """Read and check the file; relative paths in it start from its folder.

    Raises:
        DataError: missing, no YAML, an unknown key, or a value that does not fit.
        RecipeError: YAML that gives a key twice, or holds an alias.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise DataError(f"expected --config {path} to be a file, got: {error.strerror}; correct the path") from error
    content = read_yaml(text, str(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected keys such as `rules` and `destination`, got none; see docs/dicom-node.md")
    try:
        return cast(Config, _from_folder(Config.model_validate(content), path.absolute().parent))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{path}: expected a valid configuration, got {place or 'one'} that is not: {first['msg']}; correct it, as "
            "docs/dicom-node.md says"
        ) from error


def _from_folder(value: Any, folder: Path) -> Any:
    """The same with every relative path taken from a folder."""
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, BaseModel):
        changed = {name: _from_folder(getattr(value, name), folder) for name in type(value).model_fields}
        return value.model_copy(update=changed)
    return value
