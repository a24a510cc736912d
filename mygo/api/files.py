"""Files: upload, list, retrieve, content, delete."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mygo.api.context import Context, json_response, list_response, tenant_of
from mygo.api.schemas.base import parse_query
from mygo.api.schemas.stores import FileListQuery
from mygo.api.service import FileView
from mygo.errors import BadRequest, TooLarge
from mygo.types import DocId

PURPOSES = ("assistants", "user_data")
_MAX_NAME_CHARS = 255


def routes(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/files")
    max_bytes = context.config.corpus.max_file_bytes

    @router.post("")
    async def create(request: Request) -> Response:
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise BadRequest("send the file as multipart/form-data with the fields 'file' and 'purpose'")
        try:
            form = await request.form(max_files=1, max_fields=8, max_part_size=65_536)
        except HTTPException as error:
            raise BadRequest(f"the multipart body cannot be read: {error.detail}") from None
        try:
            upload, purpose = form.get("file"), form.get("purpose")
            if not isinstance(upload, UploadFile):
                raise BadRequest("file: missing; send one file in the field 'file'", param="file")
            if purpose not in PURPOSES:
                raise BadRequest(f"purpose: must be one of {', '.join(PURPOSES)}", param="purpose")
            if any(name.startswith("expires_after") for name in form):
                raise BadRequest(
                    "expires_after is not supported: delete the file instead", param="expires_after"
                )
            filename = safe_filename(upload.filename or "")
            if (upload.size or 0) > max_bytes:
                raise TooLarge(
                    f"file {filename!r} has {upload.size} bytes, more than the {max_bytes} allowed; "
                    "split it, or raise corpus.max_file_bytes",
                    param="file",
                )
            content = await upload.read()
        finally:
            await form.close()
        if not content:
            raise BadRequest(f"file {filename!r} is empty; send one with text in it", param="file")
        file = await context.service.create_file(
            tenant_of(request), filename=filename, purpose=str(purpose), content=content
        )
        return json_response(_file_json(file))

    @router.get("")
    async def list_(request: Request) -> Response:
        query = parse_query(FileListQuery, request.query_params)
        listing = await context.service.files(tenant_of(request), query.page, purpose=query.purpose)
        return list_response([_file_json(each) for each in listing.items], has_more=listing.has_more)

    @router.get("/{file_id}")
    async def retrieve(request: Request, file_id: DocId) -> Response:
        return json_response(_file_json(await context.service.file(tenant_of(request), file_id)))

    @router.get("/{file_id}/content")
    async def content(request: Request, file_id: DocId) -> Response:
        tenant, service = tenant_of(request), context.service
        file = await service.file(tenant, file_id)
        # Always a download: an uploaded HTML page must not run as a page of this server.
        headers = {
            "content-disposition": f"attachment; filename*=UTF-8''{quote(file.filename)}",
            "x-content-type-options": "nosniff",
        }
        raw = await service.file_content(tenant, file_id)
        return Response(raw, media_type="application/octet-stream", headers=headers)

    @router.delete("/{file_id}")
    async def delete(request: Request, file_id: DocId) -> Response:
        await context.service.delete_file(tenant_of(request), file_id)
        return json_response({"id": file_id, "object": "file", "deleted": True})

    return router


def safe_filename(name: str) -> str:
    """The last component of a client's path, printable and of bounded length."""
    base = re.split(r"[/\\]", name)[-1]
    printable = "".join(character for character in base if character.isprintable()).strip()
    return printable[-_MAX_NAME_CHARS:] if printable not in ("", ".", "..") else "upload"


def _file_json(file: FileView) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at_s,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "expires_at": None,
        "status_details": None,
    }
