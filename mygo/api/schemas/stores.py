"""The bodies and query parameters of vector stores and files."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from mygo.api.schemas.base import Body, Part, one_or_many
from mygo.api.schemas.rag import FilterPart, RankingOptions, ReuseChoice, is_scalar
from mygo.api.service import Page
from mygo.types import DocId

_CHUNKING = "chunks are cut alike in the whole deployment (corpus.chunk_tokens); leave it out, or send 'auto'"
_EXPIRY = "nothing expires by itself; delete it when it is no longer needed"
_AUTO_CHUNKING = {"chunking_strategy": ({"type": "auto"},)}
_MAX_BATCH_FILES = 500

Key = Annotated[str, Field(min_length=1, max_length=64)]
Metadata = Annotated[dict[Key, Annotated[str, Field(max_length=512)]], Field(max_length=16)]


def _are_scalars(value: dict[str, object]) -> dict[str, object]:
    for key, each in value.items():
        if not is_scalar(each):
            raise ValueError(f"attribute {key!r} must be a string, number or boolean")
        if isinstance(each, str) and len(each) > 512:
            raise ValueError(f"attribute {key!r} is longer than 512 characters")
    return value


Attributes = Annotated[dict[Key, object], Field(max_length=16), AfterValidator(_are_scalars)]
"""What filters can ask for."""


class StoreBody(Body):
    name: str | None = Field(default=None, max_length=256)
    file_ids: list[DocId] | None = Field(default=None, max_length=_MAX_BATCH_FILES)
    metadata: Metadata | None = None
    domain: Literal["tenant", "public"] | None = None
    """MyGO's own: every tenant may read a public store."""
    reuse: ReuseChoice = None
    """MyGO's own: what KV of its documents may be reused, if the deployment allows as much."""

    IGNORED: ClassVar = frozenset({"description"})
    REFUSED: ClassVar = {"chunking_strategy": _CHUNKING, "expires_after": _EXPIRY}
    NEUTRAL: ClassVar = _AUTO_CHUNKING


class StoreUpdateBody(Body):
    name: str | None = Field(default=None, max_length=256)
    metadata: Metadata | None = None
    reuse: ReuseChoice = None

    REFUSED: ClassVar = {"expires_after": _EXPIRY}


class SearchBody(Body):
    query: Annotated[
        list[Annotated[str, Field(min_length=1)]], BeforeValidator(one_or_many), Field(min_length=1)
    ]
    """Several queries are searched as one text."""
    max_num_results: int | None = Field(default=None, ge=1)
    filters: FilterPart | None = None
    ranking_options: RankingOptions | None = None

    REFUSED: ClassVar = {"rewrite_query": "queries are searched as they are; rewrite them before"}


class AttachBody(Body):
    file_id: DocId = Field(min_length=1)
    attributes: Attributes | None = None

    REFUSED: ClassVar = {"chunking_strategy": _CHUNKING}
    NEUTRAL: ClassVar = _AUTO_CHUNKING


class StoreFileUpdateBody(Body):
    attributes: Attributes | None
    """They replace those of before; null removes all."""


class BatchFile(Part):
    file_id: DocId = Field(min_length=1)
    attributes: Attributes | None = None


class BatchBody(Body):
    file_ids: list[DocId] | None = Field(default=None, max_length=_MAX_BATCH_FILES)
    files: list[BatchFile] | None = Field(default=None, max_length=_MAX_BATCH_FILES)
    attributes: Attributes | None = None
    """Of every file in ``file_ids``."""

    REFUSED: ClassVar = {"chunking_strategy": _CHUNKING}
    NEUTRAL: ClassVar = _AUTO_CHUNKING

    @model_validator(mode="after")
    def _names_files_once(self) -> Self:
        if bool(self.file_ids) == bool(self.files):
            raise ValueError("send file_ids or files, not both and not neither")
        return self

    @property
    def items(self) -> list[tuple[DocId, dict[str, object]]]:
        """(file id, attributes) of every file."""
        if self.files:
            return [(file.file_id, file.attributes or {}) for file in self.files]
        return [(file_id, self.attributes or {}) for file_id in self.file_ids or ()]


class ListQuery(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    limit: int = Field(default=20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    before: str | None = None

    @property
    def page(self) -> Page:
        return Page(limit=self.limit, descending=self.order == "desc", after=self.after, before=self.before)


class FileListQuery(ListQuery):
    limit: int = Field(default=100, ge=1, le=10_000)
    purpose: str | None = None


class StoreFileListQuery(ListQuery):
    filter: Literal["in_progress", "completed", "failed", "cancelled"] | None = None
