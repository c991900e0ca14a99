"""A form with one file, parsed piece by piece as it arrives: a large file is in memory at no time."""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.errors import InvalidRequestError

MAX_PARTS = 16
MAX_VALUE_BYTES = 4096  # of a field that is not a file
FILE = "file"


@dataclass
class _Part:
    header: bytearray = field(default_factory=bytearray)
    header_value: bytearray = field(default_factory=bytearray)
    name: str = ""
    value: bytearray = field(default_factory=bytearray)


class FileForm:
    """The fields of a form and the name of its file `file`, which are known when the last boundary was fed.

    Raises InvalidRequestError for a body that is not such a form.
    """

    def __init__(self, content_type: str) -> None:
        kind, options = parse_options_header(content_type)
        if kind != b"multipart/form-data" or not options.get(b"boundary"):
            raise InvalidRequestError("Send a form, `multipart/form-data`, with the fields `purpose` and `file`.")
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self.is_complete = False
        self._part, self._parts = _Part(), 0
        self._data: list[bytes] = []
        callbacks = {
            "on_part_begin": self._begin_part,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._end_header,
            "on_part_data": self._part_data,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }
        try:
            self._parser = MultipartParser(options[b"boundary"], callbacks)  # type: ignore[arg-type]
        except FormParserError as error:
            raise _unreadable(error) from None

    def feed(self, chunk: bytes) -> bytes:
        """Parse the next bytes of the body. Returns those that belong to the file."""
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _unreadable(error) from None
        data = b"".join(self._data)
        self._data.clear()
        return data

    # Callbacks of the parser

    def _begin_part(self) -> None:
        self._part, self._parts = _Part(), self._parts + 1
        if self._parts > MAX_PARTS:
            raise InvalidRequestError(f"The form may have {MAX_PARTS} fields.")

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._part.header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._part.header_value += data[start:end]

    def _end_header(self) -> None:
        part = self._part
        if part.header.lower() == b"content-disposition":
            _, options = parse_options_header(bytes(part.header_value))
            part.name = options.get(b"name", b"").decode(errors="replace")
            if part.name == FILE and self.filename is not None:
                raise InvalidRequestError("The form may have one file.", param=FILE)
            if part.name == FILE:
                self.filename = options.get(b"filename", b"").decode(errors="replace")
        part.header, part.header_value = bytearray(), bytearray()

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part.name == FILE:
            self._data.append(data[start:end])
            return
        part.value += data[start:end]
        if len(part.value) > MAX_VALUE_BYTES:
            raise InvalidRequestError(f"{part.name[:100]}: a field may have {MAX_VALUE_BYTES} bytes.")

    def _end_part(self) -> None:
        if self._part.name != FILE:
            self.fields[self._part.name] = self._part.value.decode(errors="replace")

    def _end(self) -> None:
        self.is_complete = True


def _unreadable(error: Exception) -> InvalidRequestError:
    return InvalidRequestError(f"The form cannot be read: {error}.")
